import Foundation
import Tessera

/// Shifts and scales of the channels that go from a LayerNorm to linear layers: X' = (X − shift) / scale, W' = W · scale,
/// d' = d + W shift, so that X'W'ᵀ + d' = XWᵀ + d.
///
/// SQ-b of "MPTQ-ViT" (2024), arXiv 2401.14895: "SmoothQuant" (2022), arXiv 2211.10438, with a shift to the middle of
/// each channel's range, which symmetric codes waste otherwise. The shift is folded into the LayerNorm's bias, the scale
/// into its weight and bias.
public struct Smoothing: Sendable, Equatable {
    /// Of each channel.
    public let shift: [Float]
    public let scale: [Float]

    private static let floor: Float = 1e-5

    /// - Parameters:
    ///   - ranges: of each channel over the calibration rows
    ///   - weights: `[outputs, channels]`, of every layer that reads the channels
    ///   - shifts: false for plain SmoothQuant
    ///   - alpha: how much of a channel's range moves into the weights
    public init(
        ranges: [ClosedRange<Float>], weights: [Tensor], shifts: Bool = true, alpha: Float = 0.5
    ) {
        let channels = ranges.count
        var greatest = [Float](repeating: Smoothing.floor, count: channels)
        for weight in weights {
            weight.withUnsafeBuffer { values in
                for index in values.indices {
                    greatest[index % channels] = max(greatest[index % channels], abs(values[index]))
                }
            }
        }
        shift = ranges.map { shifts ? ($0.upperBound + $0.lowerBound) / 2 : 0 }
        scale = zip(zip(ranges, shift), greatest).map { pair, weight in
            let (range, shift) = pair
            let reach = max(range.upperBound - shift, shift - range.lowerBound, Smoothing.floor)
            return max(reach.power(alpha) / weight.power(1 - alpha), Smoothing.floor)
        }
    }

    /// The LayerNorm's weight and bias for X'.
    public func folded(normWeight: Tensor, normBias: Tensor) -> (weight: Tensor, bias: Tensor) {
        let (shift, scale) = (Tensor(shift, [shift.count]), Tensor(scale, [scale.count]))
        return (normWeight / scale, (normBias - shift) / scale)
    }

    /// A layer's weight `[outputs, channels]` and bias for X'. Without a shift a layer may have no bias.
    public func folded(weight: Tensor, bias: Tensor?) -> (weight: Tensor, bias: Tensor?) {
        let scaled = weight * Tensor(scale, [scale.count])
        let moved = linear(Tensor(shift, [1, shift.count]), weight: weight).reshaped([weight.shape[0]])
        return (scaled, bias.map { $0 + moved })
    }
}

extension Float {
    fileprivate func power(_ exponent: Float) -> Float {
        exponent == 0.5 ? squareRoot() : Float(pow(Double(self), Double(exponent)))
    }
}
