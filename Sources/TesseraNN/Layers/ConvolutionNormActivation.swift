import Tessera

/// A convolution, a batch norm and an activation, in this order or with the activation before the norm.
public final class ConvolutionNormActivation: Module {
    public enum Order: Sendable { case normThenActivation, activationThenNorm }

    public let conv: Convolution2D
    public let bn: BatchNorm
    private let activation: Activation
    private let order: Order
    private let names: (conv: String, norm: String)

    public override var keys: [String: String] { ["conv": names.conv, "bn": names.norm] }

    /// - Parameters:
    ///   - padding: what keeps the size of a map at stride 1 if nil
    ///   - initializer: for the convolution's weight; its bias is then zero at first
    ///   - normInitializer: for the norm's weight
    ///   - names: what the two are called in checkpoints
    public init(
        _ inputs: Int, _ outputs: Int, kernel: Int, stride: Int = 1, padding: Int? = nil, groups: Int = 1,
        bias: Bool = false, activation: Activation = .identity, order: Order = .normThenActivation,
        initializer: Initializer? = nil, normInitializer: Initializer = .ones,
        names: (conv: String, norm: String) = ("conv", "bn")
    ) {
        conv = Convolution2D(
            inputs, outputs, kernel: kernel, stride: stride, padding: padding ?? (kernel - 1) / 2, groups: groups,
            bias: bias, initializer: initializer, biasInitializer: initializer.map { _ in .zeros })
        bn = BatchNorm(outputs, initializer: normInitializer)
        (self.activation, self.order, self.names) = (activation, order, names)
    }

    /// `[batch, height, width, inputs]` → `[batch, rows, columns, outputs]`
    public func callAsFunction(_ x: Tensor) -> Tensor {
        switch order {
        case .normThenActivation: bn(conv(x)).activated(activation)
        case .activationThenNorm: bn(conv(x, activation: activation))
        }
    }
}
