import CKernels

/// Normalisation over positions and the channels of a group, for each sample; over a batch, the whole batch is the one
/// sample.
package struct GroupNormalization: DirectOperation, RecomputableOperation {
    package static let name = "groupNorm"
    package let groups: Int
    package let spansBatch: Bool
    package let epsilon: Float
    package let hasWeight: Bool
    package let hasBias: Bool
    /// Where the means and the biased variances go, `[2, samples, groups]`: new memory if nil.
    package var statistics: Tensor?

    package func shape(_ inputs: [Shape]) -> Shape {
        let x = inputs[0]
        precondition(
            x.rank >= 2 && groups > 0 && x[-1] % groups == 0, "groupNorm: \(groups) groups of the channels of \(x)")
        for parameter in inputs.dropFirst() {
            precondition(parameter == [x[-1]], "groupNorm: parameter \(parameter) for input \(x)")
        }
        return x
    }

    private func extents(_ x: Shape) -> (samples: Int64, positions: Int64, channels: Int64) {
        let samples = spansBatch ? 1 : x[0]
        return (Int64(samples), Int64(x.count / max(1, samples * x[-1])), Int64(x[-1]))
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        let statistics = newStatistics(shape)
        compute(inputs, into: output, statistics)
        if saved.isNeeded { saved.tensors = inputs + [statistics] }
        return output
    }

    package var isRecomputable: Bool { true }

    package func recompute(_ saved: (Int) -> Tensor, _ shape: Shape) -> Tensor {
        let saved = (0..<2 + (hasWeight ? 1 : 0) + (hasBias ? 1 : 0)).map(saved)
        let (samples, positions, channels) = extents(shape)
        let output = Tensor(uninitialized: shape)
        withExtendedLifetime((saved, output)) {
            tk_group_norm_given(
                saved[0].pointer, hasWeight ? saved[1].pointer : nil, hasBias ? saved[saved.count - 2].pointer : nil,
                epsilon, output.mutablePointer, saved.last!.pointer, samples, positions, channels, Int64(groups))
        }
        return output
    }

    package func compute(_ inputs: [Tensor], into output: Tensor) {
        compute(inputs, into: output, newStatistics(output.shape))
    }

    private func newStatistics(_ x: Shape) -> Tensor {
        statistics ?? Tensor(uninitialized: [2, Int(extents(x).samples), groups])
    }

    private func compute(_ inputs: [Tensor], into output: Tensor, _ statistics: Tensor) {
        let (samples, positions, channels) = extents(output.shape)
        withExtendedLifetime((inputs, output, statistics)) {
            tk_group_norm(
                inputs[0].pointer, hasWeight ? inputs[1].pointer : nil, hasBias ? inputs.last!.pointer : nil, epsilon,
                output.mutablePointer, statistics.mutablePointer, samples, positions, channels, Int64(groups))
        }
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let (samples, positions, channels) = extents(context.inputShapes[0])
        let results = zip(context.inputShapes, context.wanted).map { $1 ? Tensor(uninitialized: $0) : nil }
        withExtendedLifetime((context, results)) {
            tk_group_norm_backward(
                context.gradient.pointer, context.saved[0].pointer, hasWeight ? context.saved[1].pointer : nil,
                context.saved.last!.pointer, epsilon, false, results[0]?.mutablePointer,
                hasWeight ? results[1]?.mutablePointer : nil, hasBias ? results.last!?.mutablePointer : nil, samples,
                positions, channels, Int64(groups))
        }
        return results
    }
}

/// Normalisation over all positions and the channels of each group, for each sample, with the biased variance.
///
/// "Group Normalization" (2018), arXiv 1803.08494.
/// - Parameters:
///   - x: `[batch, ..., channels]`
///   - groups: how many runs of neighbouring channels share their statistics
///   - weight: `[channels]`, or nil for ones
///   - bias: `[channels]`, or nil for zeros
public func groupNorm(_ x: Tensor, groups: Int, weight: Tensor?, bias: Tensor?, epsilon: Float) -> Tensor {
    let operation = GroupNormalization(
        groups: groups, spansBatch: false, epsilon: epsilon, hasWeight: weight != nil, hasBias: bias != nil)
    return apply(operation, [x] + [weight, bias].compactMap { $0 })
}
