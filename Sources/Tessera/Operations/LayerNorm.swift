import CKernels

/// (x − mean) / √(variance + ε) · weight + bias over the last axis.
package struct LayerNormalization: RecomputableOperation {
    package static let name = "layerNorm"
    package let epsilon: Float
    package let hasWeight: Bool
    package let hasBias: Bool
    package var isForProducts = false
    package var precision = Precision.float32

    package func shape(_ inputs: [Shape]) -> Shape {
        for parameter in inputs.dropFirst() {
            precondition(parameter == [inputs[0][-1]], "layerNorm: parameter \(parameter) for input \(inputs[0])")
        }
        return inputs[0]
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let statistics = saved.isNeeded ? Tensor(uninitialized: [2, shape.count / max(1, shape[-1])]) : nil
        if let statistics { saved.tensors = inputs + [statistics] }
        return compute(inputs, statistics)
    }

    package var isRecomputable: Bool { !(isForProducts && precision.holdsRounded) }

    package func recompute(_ saved: (Int) -> Tensor, _ shape: Shape) -> Tensor {
        compute((0..<1 + (hasWeight ? 1 : 0) + (hasBias ? 1 : 0)).map(saved), nil)
    }

    private func compute(_ inputs: [Tensor], _ statistics: Tensor?) -> Tensor {
        let x = inputs[0], isRounded = isForProducts && precision.holdsRounded
        let output = isRounded ? Tensor(uninitializedRounded: x.shape) : Tensor(uninitialized: x.shape)
        let columns = x.shape[-1]
        let rows = x.count / max(1, columns)
        withExtendedLifetime((inputs, output, statistics)) {
            tk_layer_norm(
                x.pointer, hasWeight ? inputs[1].pointer : nil, hasBias ? inputs.last!.pointer : nil, epsilon,
                output.target.pointer, isRounded, statistics?.mutablePointer,
                statistics.map { $0.mutablePointer + rows }, Int64(rows), Int64(columns))
        }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let (g, x, statistics) = (context.gradient, context.saved[0], context.saved.last!)
        let columns = x.shape[-1]
        let rows = columns == 0 ? 0 : x.count / columns
        let result = context.wanted[0] ? Tensor(uninitialized: x.shape) : nil
        let weightGradient = hasWeight && context.wanted[1] ? Tensor(uninitialized: [columns]) : nil
        let biasGradient = hasBias && context.wanted.last! ? Tensor(uninitialized: [columns]) : nil
        withExtendedLifetime((context, result, weightGradient, biasGradient)) {
            tk_layer_norm_backward(
                g.operand.pointer, g.operand.isRounded, x.pointer, hasWeight ? context.saved[1].pointer : nil,
                statistics.pointer,
                statistics.pointer + rows, result?.mutablePointer, weightGradient?.mutablePointer,
                biasGradient?.mutablePointer, Int64(rows), Int64(columns))
        }
        return [result] + (hasWeight ? [weightGradient] : []) + (hasBias ? [biasGradient] : [])
    }
}

/// Layer normalisation over the last axis: (x − mean) / √(variance + ε) · weight + bias, with the biased variance.
///
/// "Layer Normalization" (2016), arXiv 1607.06450.
/// - Parameters:
///   - x: `[..., channels]`
///   - weight: `[channels]`, or nil for ones
///   - bias: `[channels]`, or nil for zeros
///   - isForProducts: whether only linear layers will read the result; in bfloat16 it is then held in half of the memory
public func layerNorm(
    _ x: Tensor, weight: Tensor?, bias: Tensor?, epsilon: Float, isForProducts: Bool = false
) -> Tensor {
    apply(
        LayerNormalization(
            epsilon: epsilon, hasWeight: weight != nil, hasBias: bias != nil, isForProducts: isForProducts,
            precision: .current),
        [x] + [weight, bias].compactMap { $0 })
}
