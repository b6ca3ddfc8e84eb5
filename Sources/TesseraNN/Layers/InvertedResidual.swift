import Tessera

/// Widens the channels, convolves each for itself, and narrows them again; where the shape stays, adds what it was given.
///
/// "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), arXiv 1801.04381.
public final class InvertedResidual: Module, Layer {
    /// How checkpoints call the three convolutions.
    public enum Naming: Sendable {
        /// `conv1_1x1.conv`, `conv1_1x1.bn`, `conv2_kxk.conv`…
        case timm
        /// One list with the activations between: `conv.0`, `conv.1`, `conv.3`, …
        case sequential
    }

    public let expand: ConvolutionNormActivation
    public let depthwise: ConvolutionNormActivation
    public let project: ConvolutionNormActivation
    private let isResidual: Bool
    private let naming: Naming

    public override var keys: [String: String] {
        switch naming {
        case .timm: ["expand": "conv1_1x1", "depthwise": "conv2_kxk", "project": "conv3_1x1"]
        case .sequential: ["expand": "conv", "depthwise": "conv", "project": "conv"]
        }
    }

    /// - Parameters:
    ///   - hidden: the channels in the middle
    ///   - initializer: for the weight of a convolution whose inputs have `fanOut` connections each
    ///   - zeroesLastNorm: the last norm of a residual block starts at zero
    public init(
        _ inputs: Int, _ outputs: Int, hidden: Int, kernel: Int = 3, stride: Int = 1, activation: Activation,
        naming: Naming, zeroesLastNorm: Bool = false, initializer: (_ fanOut: Int) -> Initializer? = { _ in nil }
    ) {
        func names(_ index: Int) -> (conv: String, norm: String) {
            naming == .timm ? ("conv", "bn") : ("\(3 * index)", "\(3 * index + 1)")
        }
        isResidual = stride == 1 && inputs == outputs
        self.naming = naming
        expand = ConvolutionNormActivation(
            inputs, hidden, kernel: 1, activation: activation, initializer: initializer(hidden), names: names(0))
        depthwise = ConvolutionNormActivation(
            hidden, hidden, kernel: kernel, stride: stride, groups: hidden, activation: activation,
            initializer: initializer(kernel * kernel), names: names(1))
        project = ConvolutionNormActivation(
            hidden, outputs, kernel: 1, initializer: initializer(outputs),
            normInitializer: zeroesLastNorm && isResidual ? .zeros : .ones, names: names(2))
    }

    /// `[batch, height, width, inputs]` → `[batch, rows, columns, outputs]`
    public func forward(_ x: Tensor) -> Tensor {
        let y = project(depthwise(expand(x)))
        return isResidual ? x + y : y
    }
}
