import Foundation

extension Report.Chart {
    /// A drawing with axes, a line for each series, and a legend with the last values.
    var html: String {
        let points = series.flatMap { zip($0.x, $0.y).filter { $0.isFinite && $1.isFinite } }
        guard let first = points.first else { return "" }
        let spanX = points.reduce(first.0...first.0) { min($0.lowerBound, $1.0)...max($0.upperBound, $1.0) }
        let spanY = points.reduce(first.1...first.1) { min($0.lowerBound, $1.1)...max($0.upperBound, $1.1) }
        let ticksX = ticks(over: spanX, about: 6)
        let ticksY = ticks(over: spanY, about: 5)
        let plot = Plot(x: spanX, y: min(spanY.lowerBound, ticksY[0])...max(spanY.upperBound, ticksY[ticksY.count - 1]))
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
        for (index, line) in series.enumerated() { drawing += path(of: line, plot, color: index % 6) }
        let legend = series.enumerated().map { index, line in
            let last = line.y.last(where: \.isFinite).map { " <b>\(label($0, digits: 4))</b>" } ?? ""
            return "<li><i class=\"c\(index % 6)\"></i>\(escaped(line.name))\(last)</li>"
        }
        return """
            <figure class="chart"><figcaption>\(escaped(title))<ul>\(legend.joined())</ul></figcaption>\
            <svg viewBox="0 0 \(Plot.width) \(Plot.height)" role="img" aria-label="\(escaped(title)) over \
            \(escaped(horizontal))">\(drawing)</svg></figure>
            """
    }

    private func path(of line: Series, _ plot: Plot, color: Int) -> String {
        var commands = ""
        var isDrawing = false
        var count = 0
        for (x, y) in zip(line.x, line.y) {
            guard x.isFinite, y.isFinite else {
                isDrawing = false
                continue
            }
            commands += "\(isDrawing ? "L" : "M")\(plot.horizontal(x)) \(plot.vertical(y))"
            isDrawing = true
            count += 1
        }
        if count == 1, let x = line.x.first(where: \.isFinite), let y = line.y.first(where: \.isFinite) {
            return "<circle class=\"c\(color)\" cx=\"\(plot.horizontal(x))\" cy=\"\(plot.vertical(y))\" r=\"3\"/>"
        }
        return "<path class=\"c\(color)\" d=\"\(commands)\"/>"
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

    func horizontal(_ value: Double) -> String { coordinate(value, x, Plot.left, Plot.right) }
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

private func label(_ value: Double, digits: Int = 3) -> String {
    abs(value) < 1e-12 ? "0" : String(format: "%.\(digits)g", value)
}
