import Foundation

/// How values between the pixels are found.
public enum Interpolation: String, Codable, Sendable, CaseIterable {
    case nearest, bilinear, bicubic
}

extension Tensor {
    /// A feature map `[batch, height, width, channels]` at another size, with PyTorch's numerics.
    ///
    /// Each axis is a sparse matrix of weights, and its transpose gives the exact gradient. Cubic
    /// kernels have a = −0.75, or a = −0.5 with `antialias`, which also widens the kernel when the map shrinks.
    /// - Parameter alignCorners: the corner pixels' centres coincide, instead of the maps' edges.
    public func resized(
        height: Int, width: Int, interpolation: Interpolation, alignCorners: Bool = false, antialias: Bool = false
    ) -> Tensor {
        precondition(rank == 4, "resized: \(shape) is not a feature map")
        func weights(_ from: Int, _ to: Int) -> SparseRows {
            .resizing(from, to: to, interpolation, alignCorners: alignCorners, antialias: antialias)
        }
        return apply(Resample(rows: weights(shape[1], height), columns: weights(shape[2], width)), [self])
    }
}

extension SparseRows {
    /// What resizing does along an axis.
    package static func resizing(
        _ from: Int, to: Int, _ interpolation: Interpolation, alignCorners: Bool = false, antialias: Bool = false
    ) -> SparseRows {
        let scale = Double(from) / Double(to)
        return SparseRows(
            extent: from,
            rows: (0..<to).map { index in
                antialias && interpolation != .nearest
                    ? antialiasedWeights(index, from, scale, interpolation)
                    : plainWeights(index, from, to, interpolation, alignCorners)
            })
    }
}

/// A source pixel and its weight.
private typealias Tap = (column: Int, weight: Double)

/// Pillow's rule: a kernel widened by the scale when shrinking; pixels outside are dropped and the rest sums to one.
private func antialiasedWeights(
    _ index: Int, _ size: Int, _ scale: Double, _ interpolation: Interpolation
) -> [Tap] {
    let filterScale = max(scale, 1)
    let support = (interpolation == .bilinear ? 1.0 : 2.0) * filterScale
    let centre = scale * (Double(index) + 0.5)
    let first = max(Int((centre - support + 0.5).rounded(.down)), 0)
    let last = min(Int((centre + support + 0.5).rounded(.down)), size)
    let taps = (first..<max(first, last)).map { j in
        let x = abs((Double(j) - centre + 0.5) / filterScale)
        return (column: j, weight: interpolation == .bilinear ? max(0, 1 - x) : cubic(x, -0.5))
    }
    let sum = taps.reduce(0) { $0 + $1.weight }
    return taps.map { ($0.column, $0.weight / sum) }
}

/// Two or four taps around the place in the source, clamped to the edge.
private func plainWeights(
    _ index: Int, _ from: Int, _ to: Int, _ interpolation: Interpolation, _ alignCorners: Bool
) -> [Tap] {
    let scale = Double(from) / Double(to)
    if interpolation == .nearest { return [(min(from - 1, Int(Double(index) * scale)), 1)] }
    let aligned = to > 1 ? Double(index * (from - 1)) / Double(to - 1) : 0
    var place = alignCorners ? aligned : scale * (Double(index) + 0.5) - 0.5
    if interpolation == .bilinear { place = max(0, place) }
    let base = Int(place.rounded(.down))
    let taps = interpolation == .bilinear ? base...(base + 1) : (base - 1)...(base + 2)
    return taps.map { j in
        let x = abs(place - Double(j))
        return (min(max(j, 0), from - 1), interpolation == .bilinear ? max(0, 1 - x) : cubic(x, -0.75))
    }
}

/// Keys' cubic convolution kernel with parameter a.
private func cubic(_ x: Double, _ a: Double) -> Double {
    if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
    if x < 2 { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a }
    return 0
}
