import Tessera

/// Two-dimensional convolution on `[batch, height, width, channels]`.
public final class Convolution2D: Module {
    /// `[outputs, kernel height, kernel width, inputs / groups]`
    public let weight: Parameter
    /// `[outputs]`
    public let bias: Parameter?
    private let stride: (Int, Int)
    private let padding: Padding
    private let dilation: (Int, Int)
    private let groups: Int

    /// - Parameters:
    ///   - initializer: for the weight; uniform in ±1/√fan-in if nil
    ///   - biasInitializer: for the bias; uniform in ±1/√fan-in if nil
    public init(
        _ inputs: Int, _ outputs: Int, kernel: (Int, Int), stride: (Int, Int) = (1, 1),
        padding: Padding = Padding(0), dilation: (Int, Int) = (1, 1), groups: Int = 1, bias: Bool = true,
        initializer: Initializer? = nil, biasInitializer: Initializer? = nil
    ) {
        let fanIn = inputs / groups * kernel.0 * kernel.1
        weight = Parameter(
            [outputs, kernel.0, kernel.1, inputs / groups], initializer ?? .fanIn(fanIn), layout: .convolution)
        self.bias = bias ? Parameter([outputs], biasInitializer ?? .fanIn(fanIn)) : nil
        (self.stride, self.padding, self.dilation, self.groups) = (stride, padding, dilation, groups)
    }

    /// The same in both directions.
    public convenience init(
        _ inputs: Int, _ outputs: Int, kernel: Int, stride: Int = 1, padding: Int = 0, dilation: Int = 1,
        groups: Int = 1, bias: Bool = true, initializer: Initializer? = nil, biasInitializer: Initializer? = nil
    ) {
        self.init(
            inputs, outputs, kernel: (kernel, kernel), stride: (stride, stride), padding: Padding(padding),
            dilation: (dilation, dilation), groups: groups, bias: bias, initializer: initializer,
            biasInitializer: biasInitializer)
    }

    public func callAsFunction(_ x: Tensor, activation: Activation = .identity) -> Tensor {
        convolution(
            x, weight: weight.tensor, bias: bias?.tensor, stride: stride, padding: padding, dilation: dilation,
            groups: groups, activation: activation)
    }
}
