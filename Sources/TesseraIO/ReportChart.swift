import Foundation

extension Report.Chart {
    /// A drawing with axes, a line for each series or its points with their names, and a legend with the last values.
    var html: String {
        let points = series.flatMap { zip($0.x, $0.y).filter(isDrawn) }
        guard let first = points.first else { return "" }
        let spanX = points.reduce(first.0...first.0) { min($0.lowerBound, $1.0)...max($0.upperBound, $1.0) }
        let spanY = points.reduce(first.1...first.1) { min($0.lowerBound, $1.1)...max($0.upperBound, $1.1) }
        let ticksX = isLogarithmic ? logarithmicTicks(over: spanX) : ticks(over: spanX, about: 6)
        let ticksY = ticks(over: spanY, about: 5)
        let plot = Plot(
            x: isLogarithmic ? min(spanX.lowerBound, ticksX[0])...max(spanX.upperBound, ticksX.last!) : spanX,
            y: min(spanY.lowerBound, ticksY[0])...max(spanY.upperBound, ticksY.last!), isLogarithmic: isLogarithmic)
        var drawing = ""
        for value in ticksY {
            let y = plot.vertical(value)
            drawing += "<line class=\"grid\" x1=\"\(Plot.left)\" x2=\"\(Plot.right)\" y1=\"\(y)\" y2=\"\(y)\"/>"
            drawing += "<text x=\"\(Plot.left - 8)\" y=\"\(y)\" dy=\"4\" text-anchor=\"end\">\(label(value))</text>"
        }
        for value in ticksX where plot.x.contains(value) {
            let x = plot.horizontal(value)
            drawing += "<text x=\"\(x)\" y=\"\(Plot.bottom + 18)\" text-anchor=\"middle\">\(label(value))</text>"
        }
        let middle = (Plot.left + Plot.right) / 2
        drawing += "<text x=\"\(middle)\" y=\"\(Plot.height - 4)\" text-anchor=\"middle\">\(escaped(horizontal))</text>"
        for (index, line) in series.enumerated() {
            drawing +=
                line.labels.map { named(line, $0, plot, color: index % 6) } ?? path(of: line, plot, style: style(index))
        }
        let legend = series.enumerated().map { index, line in
            let last = isLogarithmic ? nil : line.y.last(where: \.isFinite).map { " <b>\(label($0, digits: 4))</b>" }
            return "<li><i class=\"\(style(index))\"></i>\(escaped(line.name))\(last ?? "")</li>"
        }
        return """
            <figure class="chart"><figcaption>\(escaped(title))<ul>\(legend.joined())</ul></figcaption>\
            <svg viewBox="0 0 \(Plot.width) \(Plot.height)" role="img" aria-label="\(escaped(title)) over \
            \(escaped(horizontal))">\(drawing)</svg></figure>
            """
    }

    private func isDrawn(_ x: Double, _ y: Double) -> Bool { x.isFinite && y.isFinite && (x > 0 || !isLogarithmic) }

    /// There are six colours; what comes after them is dashed.
    private func style(_ index: Int) -> String { "c\(index % 6)" + (index >= 6 ? " dashed" : "") }

    /// Points, each with its name on the side where there is more room.
    private func named(_ points: Series, _ names: [String], _ plot: Plot, color: Int) -> String {
        zip(zip(points.x, points.y), names).filter { isDrawn($0.0.0, $0.0.1) }.map { point, name in
            let (x, y) = (plot.horizontal(point.0), plot.vertical(point.1))
            let isRight = (Double(x) ?? 0) > Double(Plot.left + Plot.right) / 2
            return "<circle class=\"c\(color)\" cx=\"\(x)\" cy=\"\(y)\" r=\"4\"/>"
                + "<text x=\"\(x)\" y=\"\(y)\" dx=\"\(isRight ? -7 : 7)\" dy=\"-5\""
                + " text-anchor=\"\(isRight ? "end" : "start")\">\(escaped(name))</text>"
        }.joined()
    }

    private func path(of line: Series, _ plot: Plot, style: String) -> String {
        var commands = ""
        var isDrawing = false
        var count = 0
        for (x, y) in zip(line.x, line.y) {
            guard isDrawn(x, y) else {
                isDrawing = false
                continue
            }
            commands += "\(isDrawing ? "L" : "M")\(plot.horizontal(x)) \(plot.vertical(y))"
            isDrawing = true
            count += 1
        }
        if count == 1, let x = line.x.first(where: \.isFinite), let y = line.y.first(where: \.isFinite) {
            return "<circle class=\"\(style)\" cx=\"\(plot.horizontal(x))\" cy=\"\(plot.vertical(y))\" r=\"3\"/>"
        }
        return "<path class=\"\(style)\" d=\"\(commands)\"/>"
    }
}

/// The mapping from values to the drawing's coordinates.
private struct Plot {
    static let width = 460
    static let height = 250
    static let left = 52
    static let right = 448
    static let top = 12
    static let bottom = 206

    let x: ClosedRange<Double>
    let y: ClosedRange<Double>
    let isLogarithmic: Bool

    func horizontal(_ value: Double) -> String {
        guard isLogarithmic else { return coordinate(value, x, Plot.left, Plot.right) }
        return coordinate(log10(value), log10(x.lowerBound)...log10(x.upperBound), Plot.left, Plot.right)
    }

    func vertical(_ value: Double) -> String { coordinate(value, y, Plot.bottom, Plot.top) }

    private func coordinate(_ value: Double, _ span: ClosedRange<Double>, _ low: Int, _ high: Int) -> String {
        let width = span.upperBound - span.lowerBound
        let part = width > 0 ? (value - span.lowerBound) / width : 0.5
        return String(format: "%.1f", Double(low) + part * Double(high - low))
    }
}

/// Round values that cover a span: multiples of 1, 2 or 5 times a power of ten.
private func ticks(over span: ClosedRange<Double>, about count: Int) -> [Double] {
    let width = span.upperBound - span.lowerBound
    guard width.isFinite, width > abs(span.upperBound) * 1e-12 else { return [span.lowerBound] }
    let rough = width / Double(count)
    let power = pow(10, floor(log10(rough)))
    let step = [1, 2, 5, 10].map { $0 * power }.first { $0 >= rough * 0.999 } ?? 10 * power
    let first = floor(span.lowerBound / step + 1e-9)
    let last = ceil(span.upperBound / step - 1e-9)
    return (0...Int(last - first)).map { (first + Double($0)) * step }
}

/// 1, 2 and 5 times powers of ten, from the last one below a span to the first one above it.
private func logarithmicTicks(over span: ClosedRange<Double>) -> [Double] {
    let powers = Int(floor(log10(span.lowerBound)))...Int(ceil(log10(span.upperBound)))
    let all = powers.flatMap { power in [1, 2, 5].map { $0 * pow(10, Double(power)) } }
    let first = all.lastIndex { $0 <= span.lowerBound } ?? 0
    let last = all.firstIndex { $0 >= span.upperBound } ?? all.count - 1
    return Array(all[first...max(first, last)])
}

private func label(_ value: Double, digits: Int = 3) -> String {
    if value >= 1e4, digits == 3 {
        return value >= 1e6 ? String(format: "%.3gM", value / 1e6) : String(format: "%.3gk", value / 1e3)
    }
    return abs(value) < 1e-12 ? "0" : String(format: "%.\(digits)g", value)
}
