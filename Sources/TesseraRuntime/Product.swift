import Tessera

/// residual + activation(norm(x) Wᵀ + b): a linear layer or convolution with what stands before and after it, the unit
/// that one kernel computes.
package struct Product: Operation {
    /// What an input is.
    package enum Role: Sendable { case x, weight, bias, normWeight, normBias, residual }

    package static let name = "product"
    /// The convolution whose patches are the rows of x; nil for a linear layer.
    package let convolution: Convolution?
    let precision: Precision
    /// The normalisation of x.
    package private(set) var norm: LayerNormalization?
    package var activation: Activation
    /// How x, after the norm, and the weight become codes; nil for a product of floats.
    package var quantization: Quantization.Layer?
    package private(set) var roles: [Role]

    init(_ linear: LinearOperation) {
        (convolution, precision, activation) = (nil, linear.precision, linear.activation)
        roles = [.x, .weight] + (linear.hasBias ? [.bias] : []) + (linear.hasResidual ? [.residual] : [])
    }

    init(_ convolution: Convolution) {
        (self.convolution, precision, activation) = (convolution, convolution.precision, convolution.activation)
        roles = [.x, .weight] + (convolution.hasBias ? [.bias] : [])
    }

    package func has(_ role: Role) -> Bool { roles.contains(role) }

    package func operand<Element>(_ role: Role, _ inputs: [Element]) -> Element? {
        roles.firstIndex(of: role).map { inputs[$0] }
    }

    /// Makes `value` the operand with a role.
    mutating func set<Element>(_ role: Role, _ value: Element, in inputs: inout [Element]) {
        if let index = roles.firstIndex(of: role) {
            inputs[index] = value
        } else {
            roles.append(role)
            inputs.append(value)
        }
    }

    /// Lets the product normalise its input, whose norm has `operands` (input, weight, bias).
    mutating func absorb<Element>(_ norm: LayerNormalization, _ operands: [Element], in inputs: inout [Element]) {
        self.norm = norm
        set(.x, operands[0], in: &inputs)
        if norm.hasWeight { set(.normWeight, operands[1], in: &inputs) }
        if norm.hasBias { set(.normBias, operands.last!, in: &inputs) }
    }

    /// Whether the product can add a residual: the kernels of convolutions in groups cannot.
    var takesResidual: Bool { convolution?.groups ?? 1 == 1 && !has(.residual) }

    /// Whether there is a kernel for codes: not for convolutions in groups, nor for sums beyond 32 bits.
    func isQuantizable(_ weight: Shape) -> Bool { convolution?.groups ?? 1 == 1 && weight.stride(0) <= 1 << 16 }

    /// Whether it is x Wᵀ + b and no more.
    var isPlainLinear: Bool {
        convolution == nil && endsWithBias && norm == nil && quantization == nil
    }

    /// Whether nothing comes after the sums and the bias, so that an affine map can be folded into them.
    var endsWithBias: Bool { activation == .identity && !has(.residual) }

    package func shape(_ inputs: [Shape]) -> Shape {
        let (x, weight) = (operand(.x, inputs)!, operand(.weight, inputs)!)
        guard let convolution else { return x.replacing(-1, with: weight[0]) }
        return convolution.shape([x, weight, [weight[0]]])
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        var x = operand(.x, inputs)!
        let (weight, bias) = (operand(.weight, inputs)!, operand(.bias, inputs))
        if let norm {
            x = layerNorm(
                x, weight: operand(.normWeight, inputs), bias: operand(.normBias, inputs), epsilon: norm.epsilon)
        }
        if let quantization { x = quantization.input.rounded(x) }
        let residual = operand(.residual, inputs)?.reshaped(shape)
        return precision.use {
            guard let c = convolution else {
                return linear(x, weight: weight, bias: bias, activation: activation, residual: residual)
            }
            let y = Tessera.convolution(
                x, weight: weight, bias: bias, stride: c.stride, padding: c.padding, dilation: c.dilation,
                groups: c.groups, activation: activation)
            return residual.map { y + $0 } ?? y
        }
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        preconditionFailure("a compiled product is not differentiated")
    }

    package func cost(_ inputs: [Shape], _ output: Shape) -> Cost {
        Cost(multiplyAdds: output.count * operand(.weight, inputs)!.stride(0), inputs, output)
    }
}
