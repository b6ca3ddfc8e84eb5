import Tessera

/// y = x Wᵀ + b over the last axis.
public final class Linear: Module {
    /// `[outputs, inputs]`
    public let weight: Parameter
    /// `[outputs]`
    public let bias: Parameter?

    /// - Parameters:
    ///   - initializer: for the weight; uniform in ±1/√inputs if nil
    ///   - biasInitializer: for the bias; zeros with a given `initializer`, else as the weight
    ///   - isConvolution: checkpoints hold the weight as that of a 1×1 convolution
    public init(
        _ inputs: Int, _ outputs: Int, bias: Bool = true, initializer: Initializer? = nil,
        biasInitializer: Initializer? = nil, isConvolution: Bool = false
    ) {
        weight = Parameter(
            [outputs, inputs], initializer ?? .fanIn(inputs), layout: isConvolution ? .pointwise : .same)
        let biasRule = biasInitializer ?? (initializer == nil ? .fanIn(inputs) : .zeros)
        self.bias = bias ? Parameter([outputs], biasRule) : nil
    }

    /// `[..., inputs]` → `[..., outputs]`; the activation comes after the bias, the residual last.
    /// - Parameter isForProducts: whether only linear layers and attentions will read the result
    public func callAsFunction(
        _ x: Tensor, activation: Activation = .identity, residual: Tensor? = nil, isForProducts: Bool = false
    ) -> Tensor {
        linear(
            x, weight: weight.tensor, bias: bias?.tensor, activation: activation, residual: residual,
            isForProducts: isForProducts)
    }
}
