import Foundation

/// How values between the pixels are found.
public enum Interpolation: String, Codable, Sendable, CaseIterable {
    case nearest, bilinear, bicubic
}

extension Tensor {
    /// A feature map `[batch, height, width, channels]` at another size, with PyTorch's numerics.
    ///
    /// Each axis is a small matrix of weights, so the map is two matrix products and its gradient is exact. Cubic
    /// kernels have a = −0.75, or a = −0.5 with `antialias`, which also widens the kernel when the map shrinks.
    /// - Parameter alignCorners: the corner pixels' centres coincide, instead of the maps' edges.
    public func resized(
        height: Int, width: Int, interpolation: Interpolation, alignCorners: Bool = false, antialias: Bool = false
    ) -> Tensor {
        precondition(rank == 4, "resized: \(shape) is not a feature map")
        let (batch, oldHeight, oldWidth, channels) = (shape[0], shape[1], shape[2], shape[3])
        func weights(_ from: Int, _ to: Int) -> Tensor {
            resamplingWeights(from, to, interpolation, alignCorners: alignCorners, antialias: antialias)
        }
        // Float32 products whatever the precision of the model: these are positions and pictures.
        return Precision.float32.use {
            let rows = weights(oldHeight, height).multiplied(
                by: reshaped([batch, oldHeight, oldWidth * channels]))
            let columns = weights(oldWidth, width).multiplied(
                by: rows.reshaped([batch * height, oldWidth, channels]))
            return columns.reshaped([batch, height, width, channels])
        }
    }
}

/// Row i holds the weights of the source pixels in target pixel i: `[to, from]`.
func resamplingWeights(
    _ from: Int, _ to: Int, _ interpolation: Interpolation, alignCorners: Bool, antialias: Bool
) -> Tensor {
    Tensor([to, from]) { buffer in
        buffer.update(repeating: 0)
        for i in 0..<to {
            let row = UnsafeMutableBufferPointer(rebasing: buffer[(i * from)..<((i + 1) * from)])
            if antialias, interpolation != .nearest {
                antialiasedWeights(row, i, Double(from) / Double(to), interpolation)
            } else {
                plainWeights(row, i, from, to, interpolation, alignCorners)
            }
        }
    }
}

/// Pillow's rule: a kernel widened by the scale when shrinking; pixels outside are dropped and the rest sums to one.
private func antialiasedWeights(
    _ row: UnsafeMutableBufferPointer<Float>, _ index: Int, _ scale: Double, _ interpolation: Interpolation
) {
    let filterScale = max(scale, 1)
    let support = (interpolation == .bilinear ? 1.0 : 2.0) * filterScale
    let centre = scale * (Double(index) + 0.5)
    let first = max(Int((centre - support + 0.5).rounded(.down)), 0)
    let last = min(Int((centre + support + 0.5).rounded(.down)), row.count)
    let values = (first..<max(first, last)).map { j in
        let x = abs((Double(j) - centre + 0.5) / filterScale)
        return interpolation == .bilinear ? max(0, 1 - x) : cubic(x, -0.5)
    }
    let sum = values.reduce(0, +)
    for (offset, value) in values.enumerated() { row[first + offset] = Float(value / sum) }
}

/// Two or four taps around the place in the source, clamped to the edge.
private func plainWeights(
    _ row: UnsafeMutableBufferPointer<Float>, _ index: Int, _ from: Int, _ to: Int, _ interpolation: Interpolation,
    _ alignCorners: Bool
) {
    let scale = Double(from) / Double(to)
    if interpolation == .nearest {
        row[min(from - 1, Int(Double(index) * scale))] = 1
        return
    }
    var place = alignCorners ? (to > 1 ? Double(index * (from - 1)) / Double(to - 1) : 0) : scale * (Double(index) + 0.5) - 0.5
    if interpolation == .bilinear { place = max(0, place) }
    let base = Int(place.rounded(.down))
    let taps = interpolation == .bilinear ? base...(base + 1) : (base - 1)...(base + 2)
    for j in taps {
        let x = abs(place - Double(j))
        let weight = interpolation == .bilinear ? max(0, 1 - x) : cubic(x, -0.75)
        row[min(max(j, 0), from - 1)] += Float(weight)
    }
}

/// Keys' cubic convolution kernel with parameter a.
private func cubic(_ x: Double, _ a: Double) -> Double {
    if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
    if x < 2 { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a }
    return 0
}
