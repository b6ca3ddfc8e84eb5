import Tessera

/// A module that makes one tensor of another. An array of layers is a layer: its places are the numbers that PyTorch's
/// `Sequential` gives its parts in checkpoints.
public protocol Layer: Module {
    func forward(_ x: Tensor) -> Tensor
}

extension Array where Element == any Layer {
    /// One layer after the other; an activation behind a convolution is part of its kernel.
    public func callAsFunction(_ x: Tensor) -> Tensor {
        var (x, rest) = (x, self[...])
        while let layer = rest.popFirst() {
            if let convolution = layer as? Convolution2D, let next = rest.first as? ActivationLayer {
                x = convolution(x, activation: next.activation)
                rest.removeFirst()
            } else {
                x = layer.forward(x)
            }
        }
        return x
    }
}

extension Convolution2D: Layer {
    public func forward(_ x: Tensor) -> Tensor { self(x) }
}

extension BatchNorm: Layer {
    public func forward(_ x: Tensor) -> Tensor { self(x) }
}

/// An activation that takes a place in a sequence.
public final class ActivationLayer: Module, Layer {
    let activation: Activation

    public init(_ activation: Activation) { self.activation = activation }

    public func forward(_ x: Tensor) -> Tensor { x.activated(activation) }
}

/// A convolution without bias and the batch norm that replaces it.
public final class ConvolutionNorm: Module, Layer {
    public let convolution: Convolution2D
    public let norm: BatchNorm

    public override var keys: [String: String] { ["convolution": "0", "norm": "1"] }

    public init(
        _ inputs: Int, _ outputs: Int, kernel: Int, stride: Int = 1, padding: Int = 0, groups: Int = 1,
        initializer: Initializer? = nil
    ) {
        convolution = Convolution2D(
            inputs, outputs, kernel: kernel, stride: stride, padding: padding, groups: groups, bias: false,
            initializer: initializer)
        norm = BatchNorm(outputs)
    }

    public func forward(_ x: Tensor) -> Tensor { norm(convolution(x)) }
}

extension ConvolutionNorm {
    /// A stem: 3×3 convolutions of stride 2 with batch norm, GELU between them.
    /// - Parameter widths: the channels of the image, then of each convolution
    public static func stem(_ widths: [Int]) -> [any Layer] {
        let units = zip(widths, widths.dropFirst()).map {
            ConvolutionNorm($0, $1, kernel: 3, stride: 2, padding: 1)
        }
        return Array(units.map { [$0] }.joined(separator: [ActivationLayer(.gelu)] as [any Layer]))
    }
}
