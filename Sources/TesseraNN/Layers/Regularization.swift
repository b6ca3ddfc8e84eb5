import Tessera

/// Zeroes elements with probability `rate` in training and divides the rest by 1 − rate.
public struct Dropout: Sendable {
    public let rate: Float

    public init(_ rate: Float) { self.rate = rate }

    public func callAsFunction(_ x: Tensor) -> Tensor {
        guard rate > 0, let pass = TrainingPass.current else { return x }
        return dropout(x, rate: rate, seed: pass.nextSeed())
    }
}

/// Stochastic depth: drops a whole residual branch for a sample with probability `rate` in training.
///
/// "Deep Networks with Stochastic Depth" (2016), arXiv 1603.09382.
public struct DropPath: Sendable {
    public let rate: Float

    public init(_ rate: Float) { self.rate = rate }

    /// Rates that grow linearly from 0 at the first of `depth` blocks to `last` at the last one.
    public static func linear(to last: Float, depth: Int) -> [Float] {
        (0..<depth).map { depth == 1 ? 0 : last * Float($0) / Float(depth - 1) }
    }

    /// Whether branches are dropped now; if not, a residual can be added inside the branch's last product.
    public var isActive: Bool { rate > 0 && TrainingPass.current != nil }

    public func callAsFunction(_ x: Tensor) -> Tensor {
        guard rate > 0, let pass = TrainingPass.current else { return x }
        return dropPath(x, rate: rate, seed: pass.nextSeed())
    }
}

/// x · γ with one learned factor a channel ("Going deeper with Image Transformers", 2021, arXiv 2103.17239).
public final class LayerScale: Module {
    public let gamma: Parameter

    public init(_ channels: Int, initialValue: Float) { gamma = Parameter([channels], .constant(initialValue)) }

    public func callAsFunction(_ x: Tensor) -> Tensor { x * gamma.tensor }
}
