import Foundation

extension Image {
    /// Gaussian blur as Pillow approximates it: three box blurs of fractional radius along the rows, then three along the
    /// columns, rounded to 8 bits after each (Gwosdek et al., "Theoretical Foundations of Gaussian Convolution by
    /// Extended Box Filtering", 2011).
    func gaussianBlurred(radius: Double) -> Image {
        let variance = radius * radius / 3
        let whole = ((12 * variance + 1).squareRoot() - 1) / 2
        let l = whole.rounded(.down)
        let edge = (2 * l + 1) * (l * (l + 1) - 3 * variance) / (6 * (variance - (l + 1) * (l + 1)))
        var result = self
        for _ in 0..<3 {
            result = result.boxBlurred(radius: l + edge, lines: height, along: channels, across: rowBytes)
        }
        for _ in 0..<3 { result = result.boxBlurred(radius: l + edge, lines: width, along: rowBytes, across: channels) }
        return result
    }

    /// One box blur in 24-bit fixed point; `along` and `across` are the byte steps in and between the lines.
    private func boxBlurred(radius: Double, lines: Int, along: Int, across: Int) -> Image {
        let reach = Int(radius)
        let full = Int(Double(1 << 24) / (2 * radius + 1))
        let edge = ((1 << 24) - (2 * reach + 1) * full) / 2
        let length = height * width / lines
        var result = self
        for line in 0..<lines {
            for c in 0..<channels {
                let start = line * across + c
                func value(_ i: Int) -> Int { Int(pixels[start + max(0, min(length - 1, i)) * along]) }
                for i in 0..<length {
                    var sum = 0
                    for j in i - reach...i + reach { sum += value(j) }
                    let ends = value(i - reach - 1) + value(i + reach + 1)
                    result.pixels[start + i * along] = UInt8((full * sum + edge * ends + (1 << 23)) >> 24)
                }
            }
        }
        return result
    }
}
