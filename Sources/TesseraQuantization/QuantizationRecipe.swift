/// How a model is to be quantized.
public struct QuantizationRecipe: Sendable, Equatable {
    public enum Method: String, Sendable, CaseIterable {
        /// SQ-b before linear layers, OPT-m after GELU and softmax.
        case mptq
        /// Channels are scaled, not shifted; one region everywhere.
        case smoothquant
        /// Ranges as they are.
        case minmax
        /// SQ-b alone, to see what each part brings.
        case sqb
    }

    public enum Bits: Sendable, Equatable {
        case uniform(weights: Int, activations: Int)
        /// Greedy MP chooses for each unit.
        case average(Double)
    }

    public var method = Method.mptq
    public var bits = Bits.uniform(weights: 8, activations: 8)
    /// How much of a channel's range smoothing moves into the weights.
    public var alpha: Float = 0.5
    /// The bits that codes of two regions may take with their shift; the kernels' is 8.
    public var codeBits = 8

    public init(method: Method = .mptq, bits: Bits = .uniform(weights: 8, activations: 8)) {
        (self.method, self.bits) = (method, bits)
    }
}

/// A model or its calibration images do not let themselves be quantized.
public struct QuantizationError: Error, Equatable, CustomStringConvertible {
    public let subject: String
    public let found: String
    public let expected: String

    public init(_ subject: String, found: String, expected: String) {
        (self.subject, self.found, self.expected) = (subject, found, expected)
    }

    public var description: String { "\(subject): expected \(expected), found \(found)" }
}
