import CKernels

/// y = residual + activation(x Wᵀ + b) over the last axis, with everything after the product fused into it.
package struct LinearOperation: RecomputableOperation {
    package static let name = "linear"
    package let activation: Activation
    package let hasBias: Bool
    package let hasResidual: Bool
    /// Whether only products will read the result: in bfloat16 it is then held so.
    package var isForProducts = false
    package let precision: Precision

    package func shape(_ inputs: [Shape]) -> Shape {
        let (x, weight) = (inputs[0], inputs[1])
        precondition(
            x.rank >= 1 && weight.rank == 2 && x[-1] == weight[1], "linear: input \(x) does not fit weight \(weight)")
        precondition(!hasBias || inputs[2] == [weight[0]], "linear: bias \(inputs[2]) does not fit weight \(weight)")
        let output = x.replacing(-1, with: weight[0])
        precondition(!hasResidual || inputs.last == output, "linear: residual \(inputs.last!) is not \(output)")
        return output
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let (x, weight) = (inputs[0], inputs[1])
        let (outputs, channels) = (weight.shape[0], weight.shape[1])
        let isRounded = isForProducts && precision.holdsRounded
        let output = isRounded ? Tensor(uninitializedRounded: shape) : Tensor(uninitialized: shape)
        let keepsPreactivation = saved.isNeeded && activation != .identity
        let preactivation = keepsPreactivation && !roundsPreactivation ? Tensor(uninitialized: shape) : nil
        let rounded = keepsPreactivation && roundsPreactivation ? Tensor(uninitializedRounded: shape) : nil
        var product = tk_product(rows: channels == 0 ? 0 : x.count / channels, outputs, channels, precision)
        (product.a, product.a_is_rounded) = x.operand
        (product.a_row, product.a_column) = (Int64(channels), 1)
        product.b = weight.pointer
        (product.b_row, product.b_column) = (1, Int64(channels))
        (product.c, product.c_is_rounded) = output.target
        product.c_row = Int64(outputs)
        product.bias = hasBias ? inputs[2].pointer : nil
        product.activation = activation.kernel
        product.preactivation = preactivation?.mutablePointer
        product.rounded_preactivation = rounded?.halves
        product.residual = hasResidual ? inputs.last!.pointer : nil
        product.residual_row = Int64(outputs)
        withExtendedLifetime((inputs, output, preactivation, rounded)) { tk_multiply(&product) }
        if saved.isNeeded {
            saved.tensors = [x, weight] + [preactivation, rounded].compactMap { $0 }
            saved.operands = precision.holdsRounded ? 0..<1 : 0..<0
        }
        return output
    }

    /// Its derivative is then computed from the rounded value, as in other implementations of bfloat16.
    private var roundsPreactivation: Bool { precision.holdsRounded }

    package var isRecomputable: Bool { activation != .identity && !hasResidual }

    package func recompute(_ saved: (Int) -> Tensor, _ shape: Shape) -> Tensor {
        activation(saved(2), rounds: isForProducts && roundsPreactivation)
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let (x, weight) = (context.saved[0], context.saved[1])
        let (outputs, channels) = (weight.shape[0], weight.shape[1])
        let rows = context.gradient.count / max(1, outputs)
        var gradient = context.gradient
        var biasGradient: Tensor?
        let wantsBias = hasBias && context.wanted[2]
        if activation != .identity {
            (gradient, biasGradient) = activation.backward(
                gradient, context.saved[2], sumsColumns: wantsBias, rounds: precision.holdsRounded)
        } else if wantsBias {
            biasGradient =
                context.wanted[1] && channels > 0
                ? Tensor(uninitialized: [outputs]) : gradient.reshaped([rows, outputs]).sum(axes: [0])
        }
        var results: [Tensor?] = [nil, nil]
        if context.wanted[0] {
            let isRounded = context.rounded[0]
            results[0] = isRounded ? Tensor(uninitializedRounded: x.shape) : Tensor(uninitialized: x.shape)
            multiply(
                gradient, (outputs, 1), weight, (channels, 1), results[0]!, rows, channels, outputs, precision)
        }
        if context.wanted[1] {
            results[1] = Tensor(uninitialized: weight.shape)
            // The product reads the whole gradient in any case, and sums its columns on the way.
            multiply(
                gradient, (1, outputs), x, (channels, 1), results[1]!, outputs, channels, rows, precision.wide,
                rowSums: activation == .identity ? biasGradient : nil)
        }
        if hasBias { results.append(biasGradient) }
        if hasResidual { results.append(context.wanted.last! ? context.gradient : nil) }
        return results
    }

    package func cost(_ inputs: [Shape], _ output: Shape) -> Cost {
        Cost(multiplyAdds: output.count * inputs[1][1], inputs, output)
    }
}

/// `residual` + `activation`(x Wᵀ + b) over the last axis.
///
/// - Parameters:
///   - x: `[..., channels]`
///   - weight: `[outputs, channels]`
///   - bias: `[outputs]`, or nil
///   - residual: `[..., outputs]`, added last, or nil
///   - isForProducts: whether only linear layers and attentions will read the result; in bfloat16 it and its gradient are
///     then held in half of the memory, and a GELU before the rounding is computed to 0.0002
/// - Returns: `[..., outputs]`
public func linear(
    _ x: Tensor, weight: Tensor, bias: Tensor? = nil, activation: Activation = .identity, residual: Tensor? = nil,
    isForProducts: Bool = false
) -> Tensor {
    let operation = LinearOperation(
        activation: activation, hasBias: bias != nil, hasResidual: residual != nil, isForProducts: isForProducts,
        precision: .current)
    return apply(operation, [x, weight] + [bias, residual].compactMap { $0 })
}

extension tk_product {
    init(rows m: Int, _ n: Int, _ k: Int, _ precision: Precision) {
        self.init()
        (self.m, self.n, self.k) = (Int64(m), Int64(n), Int64(k))
        batch = 1
        alpha = 1
        self.precision = precision.kernel
    }
}

/// c = a × b for matrices given as tensors with (row, column) strides; c is dense. `rowSums` receives the sums of the
/// rows of a.
func multiply(
    _ a: Tensor, _ aStrides: (Int, Int), _ b: Tensor, _ bStrides: (Int, Int), _ c: Tensor, _ m: Int, _ n: Int, _ k: Int,
    _ precision: Precision, rowSums: Tensor? = nil
) {
    var product = tk_product(rows: m, n, k, precision)
    (product.a, product.a_is_rounded) = a.operand
    (product.a_row, product.a_column) = (Int64(aStrides.0), Int64(aStrides.1))
    (product.b, product.b_is_rounded) = b.operand
    (product.b_row, product.b_column) = (Int64(bStrides.0), Int64(bStrides.1))
    (product.c, product.c_is_rounded) = c.target
    product.c_row = Int64(n)
    product.row_sums = rowSums?.mutablePointer
    withExtendedLifetime((a, b, c, rowSums)) { tk_multiply(&product) }
}
