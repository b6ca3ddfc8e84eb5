import Foundation
import TesseraRuntime

/// How the range of a quantizer is chosen from calibration values.
public enum RangeMode: String, Sendable, CaseIterable {
    /// The greatest magnitude is the greatest code.
    case minmax
    /// The clipped range with the least mean squared error.
    case mse
}

/// The search of one quantizer's scale, and of its regions' ratio.
///
/// Of the clips 1.00, 0.99 ... 0.30 and, where there are two regions, the shifts 0 ... `codeBits` − bits, the first with
/// the least mean squared error on the values. OPT-m of "MPTQ-ViT" (2024), arXiv 2401.14895, searches the ratio of the
/// regions on data; the grid is this package's definition.
public struct RangeSearch: Sendable {
    public var mode: RangeMode
    /// The bits that a code with its shift may take: 8 for the kernels.
    public var codeBits: Int

    public init(mode: RangeMode, codeBits: Int = 8) { (self.mode, self.codeBits) = (mode, codeBits) }

    /// - Parameter greatest: the greatest value, or for `uniform` the greatest magnitude; found in `values` if nil.
    public func quantizer(
        _ kind: Quantizer.Kind, bits: Int, values: [Float], greatest: Float? = nil
    ) -> Quantizer {
        let top = greatest ?? (kind == .uniform ? values.map(abs).max() : values.max()) ?? 0
        let step = max(top, 1e-8) / Float(Quantizer.greatest(bits: bits))
        let shifts = kind == .uniform ? 0...0 : 0...max(0, codeBits - bits)
        let clips = mode == .minmax ? [1] : (30...100).reversed().map { Float(Double($0) / 100) }
        var best = Quantizer(kind: kind, bits: bits, scale: step)
        if clips.count == 1 && shifts.count == 1 { return best }
        var least = Double.infinity
        for clip in clips {
            for shift in shifts {
                let candidate = Quantizer(
                    kind: kind, bits: bits, scale: clip * step / Float(1 << shift), shift: shift)
                let error = candidate.meanSquaredError(values)
                if error < least { (least, best) = (error, candidate) }
            }
        }
        return best
    }
}
