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

    /// A branch's result as it counts now. For branches whose samples see one another (batch norm); others need not be
    /// computed where they are dropped: see `adding(to:)`.
    public func callAsFunction(_ x: Tensor) -> Tensor {
        guard rate > 0, let pass = TrainingPass.current else { return x }
        return dropPath(x, rate: rate, seed: pass.nextSeed())
    }

    /// `x` plus a branch, which runs on the samples that keep it and on no others.
    ///
    /// - Parameters:
    ///   - x: `[batch, ...]`
    ///   - input: what the branch reads, `[batch, ...]`; x if nil
    ///   - branch: its result for the samples it is given, each on its own, plus the residual if there is one: then it can
    ///     be added inside the branch's last product
    public func adding(
        to x: Tensor, from input: Tensor? = nil, _ branch: (_ samples: Tensor, _ residual: Tensor?) -> Tensor
    ) -> Tensor {
        let input = input ?? x
        guard rate > 0, let pass = TrainingPass.current else { return branch(input, x) }
        guard pass.skipsSamples else { return x + dropPath(branch(input, nil), rate: rate, seed: pass.nextSeed()) }
        let kept = samplesKept(of: x.shape[0], rate: rate, seed: pass.nextSeed())
        if kept.count == x.shape[0] {
            return x.adding(branch(input, nil), times: 1 / (1 - rate), toSamples: kept)
        }
        // Where all are dropped, one runs and counts nothing: every parameter has a gradient, if only of zeros.
        let (samples, factor) = kept.isEmpty ? ([0], 0) : (kept, 1 / (1 - rate))
        return x.adding(branch(input.gathered(samples, axis: 0), nil), times: factor, toSamples: samples)
    }

    /// The same for a branch that has no last product to add `x` in.
    public func adding(to x: Tensor, _ branch: (_ samples: Tensor) -> Tensor) -> Tensor {
        adding(to: x) { samples, residual in
            let result = branch(samples)
            return residual.map { $0 + result } ?? result
        }
    }
}

/// x · γ with one learned factor a channel ("Going deeper with Image Transformers", 2021, arXiv 2103.17239).
public final class LayerScale: Module {
    public let gamma: Parameter

    public init(_ channels: Int, initialValue: Float) { gamma = Parameter([channels], .constant(initialValue)) }

    public func callAsFunction(_ x: Tensor) -> Tensor { x * gamma.tensor }
}
