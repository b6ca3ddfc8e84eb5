import CKernels
import Tessera

/// How whole numbers of a few bits stand for the values of a tensor: x ≈ scale · code.
///
/// The definitions of `uniform` are the usual ones of symmetric quantization. The two others are OPT-m of "MPTQ-ViT"
/// (2024), arXiv 2401.14895, as this package defines it: the equations of the paper were not available. One of the bits
/// says in which of two regions a value lies, and the step of the coarse region is 2^shift times that of the fine one.
/// Codes count fine steps in both, so a product of whole numbers needs one scale.
public struct Quantizer: Sendable, Equatable {
    public enum Kind: String, Sendable, CaseIterable {
        /// code = clamp(round(x / scale), ±greatest)
        case uniform
        /// Values after GELU: the negative ones are the fine region.
        case splitSigns = "split_signs"
        /// Weights of attention: those that `greatest` fine steps reach are the fine region, and none is negative.
        case splitSizes = "split_sizes"

        fileprivate var kernel: tk_code_kind {
            switch self {
            case .uniform: TK_UNIFORM
            case .splitSigns: TK_SPLIT_SIGNS
            case .splitSizes: TK_SPLIT_SIZES
            }
        }
    }

    public var kind: Kind
    public var bits: Int
    /// The value of one step; of the fine region where there are two.
    public var scale: Float
    /// The coarse step is 2^shift fine ones.
    public var shift: Int

    public init(kind: Kind = .uniform, bits: Int, scale: Float, shift: Int = 0) {
        (self.kind, self.bits, self.scale, self.shift) = (kind, bits, scale, shift)
    }

    /// The greatest magnitude in a region: 2^(bits − 1) − 1.
    public static func greatest(bits: Int) -> Int { 1 << (bits - 1) - 1 }

    package var kernel: tk_quantizer {
        tk_quantizer(
            kind: kind.kernel, greatest: Int32(Quantizer.greatest(bits: bits)), shift: Int32(shift), scale: scale)
    }

    /// What the codes of `x` stand for: scale · code, of the same shape.
    public func rounded(_ x: Tensor) -> Tensor {
        var kernel = kernel
        return Tensor(x.shape) { y in
            x.withUnsafeBuffer { tk_round_to_codes($0.baseAddress, y.baseAddress, Int64(x.count), &kernel) }
        }
    }

    /// The codes of `x`, in its order.
    public func codes(_ x: Tensor) -> [Int32] { rounded(x).scalars.map { Int32(($0 / scale).rounded()) } }

    /// The mean of the squares of what rounding changes.
    public func meanSquaredError(_ values: [Float]) -> Double {
        var kernel = kernel
        return tk_rounding_error(values, Int64(values.count), &kernel) / Double(max(1, values.count))
    }
}

/// A weight in codes: each row of `[outputs, ...]` has its own scale, max |row| / greatest.
public struct QuantizedWeight: Sendable {
    public let shape: Shape
    public let bits: Int
    /// Of each row.
    public let scales: [Float]
    /// In row-major order.
    public let codes: [Int8]

    public init(shape: Shape, bits: Int, scales: [Float], codes: [Int8]) {
        (self.shape, self.bits, self.scales, self.codes) = (shape, bits, scales, codes)
    }

    /// The nearest codes.
    public init(_ weight: Tensor, bits: Int) {
        let scales = QuantizedWeight.scales(of: weight, bits: bits)
        let columns = weight.shape.stride(0)
        let codes = weight.withUnsafeBuffer { values in
            values.indices.map {
                Int8(($0 / columns < scales.count ? values[$0] / scales[$0 / columns] : 0).rounded(.toNearestOrEven))
            }
        }
        self.init(shape: weight.shape, bits: bits, scales: scales, codes: codes)
    }

    /// The scale of each row. Of a weight that stands in codes already: those codes' scales.
    static func scales(of weight: Tensor, bits: Int) -> [Float] {
        var scales = [Float](repeating: 0, count: weight.shape[0])
        weight.withUnsafeBuffer {
            tk_int8_row_scales(
                $0.baseAddress, Int64(weight.shape[0]), Int64(weight.shape.stride(0)),
                Int32(Quantizer.greatest(bits: bits)), &scales)
        }
        return scales
    }

    /// scale · code.
    public var tensor: Tensor {
        let columns = shape.stride(0)
        return Tensor(shape) { values in
            for index in values.indices { values[index] = scales[index / columns] * Float(codes[index]) }
        }
    }
}
