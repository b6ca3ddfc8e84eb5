import CKernels

/// Batch normalisation with given statistics, through which no gradient flows.
package struct FixedBatchNormalization: Operation {
    package static let name = "batchNorm"
    package let epsilon: Float
    package let hasWeight: Bool
    package let hasBias: Bool

    package func shape(_ inputs: [Shape]) -> Shape {
        for parameter in inputs.dropFirst() {
            precondition(parameter == [inputs[0][-1]], "batchNorm: parameter \(parameter) for input \(inputs[0])")
        }
        return inputs[0]
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let (x, mean, variance) = (inputs[0], inputs[1], inputs[2])
        let (channels, output) = (shape[-1], Tensor(uninitialized: shape))
        let (slope, shift) = Tape.pause {
            let inverse = 1 / (variance + epsilon).squareRoot()
            let slope = hasWeight ? inputs[3] * inverse : inverse
            return (slope, (hasBias ? inputs.last! : Tensor(zeros: [channels])) - mean * slope)
        }
        withExtendedLifetime((x, slope, shift, output)) {
            tk_scale_and_shift(
                x.pointer, slope.pointer, shift.pointer, output.mutablePointer, Int64(x.count / max(1, channels)),
                Int64(channels))
        }
        if saved.isNeeded { saved.tensors = inputs }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let x = context.saved[0]
        let channels = Int64(x.shape[-1])
        let statistics = concatenate([context.saved[1], context.saved[2]], axis: 0)
        let results = context.inputShapes.indices.map { index in
            context.wanted[index] && index != 1 && index != 2 ? Tensor(uninitialized: context.inputShapes[index]) : nil
        }
        withExtendedLifetime((context, statistics, results)) {
            tk_group_norm_backward(
                context.gradient.pointer, x.pointer, hasWeight ? context.saved[3].pointer : nil, statistics.pointer,
                epsilon, true, results[0]?.mutablePointer, hasWeight ? results[3]?.mutablePointer : nil,
                hasBias ? results.last!?.mutablePointer : nil, 1, Int64(x.count) / max(1, channels), channels, channels)
        }
        return results
    }
}

/// Batch normalisation over all axes but the last, with the batch's own statistics.
///
/// - Parameters:
///   - x: `[..., channels]`
///   - weight: `[channels]`, or nil for ones
///   - bias: `[channels]`, or nil for zeros
/// - Returns: the normalised tensor, and the batch's mean and biased variance `[channels]`, which carry no gradient.
public func batchNorm(
    _ x: Tensor, weight: Tensor?, bias: Tensor?, epsilon: Float
) -> (output: Tensor, mean: Tensor, variance: Tensor) {
    let channels = x.shape[-1]
    let statistics = x.isAbstract ? Tensor(abstract: [2, channels]) : Tensor(uninitialized: [2, channels])
    let operation = GroupNormalization(
        groups: channels, spansBatch: true, epsilon: epsilon, hasWeight: weight != nil, hasBias: bias != nil,
        statistics: statistics)
    let output = apply(operation, [x] + [weight, bias].compactMap { $0 })
    let parts = statistics.split(axis: 0, sizes: [1, 1]).map { $0.reshaped([channels]) }
    return (output, parts[0], parts[1])
}

/// Batch normalisation with given statistics: (x − mean) / √(variance + ε) · weight + bias.
///
/// - Parameters:
///   - x: `[..., channels]`
///   - mean: `[channels]`; like `variance`, it receives no gradient
///   - variance: `[channels]`
///   - weight: `[channels]`, or nil for ones
///   - bias: `[channels]`, or nil for zeros
public func batchNorm(
    _ x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor?, bias: Tensor?, epsilon: Float
) -> Tensor {
    let operation = FixedBatchNormalization(epsilon: epsilon, hasWeight: weight != nil, hasBias: bias != nil)
    return apply(operation, [x, mean.detached, variance.detached] + [weight, bias].compactMap { $0 })
}
