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

extension LayerNorm: Layer {
    public func forward(_ x: Tensor) -> Tensor { self(x) }
}

extension GroupNorm: Layer {
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

extension ConvolutionNormActivation: Layer {
    public func forward(_ x: Tensor) -> Tensor { self(x) }

    /// A stem: 3×3 convolutions of stride 2 with batch norm, GELU between them.
    /// - Parameter widths: the channels of the image, then of each convolution
    public static func stem(_ widths: [Int]) -> [any Layer] {
        let units = zip(widths, widths.dropFirst()).map {
            ConvolutionNormActivation($0, $1, kernel: 3, stride: 2, names: ("0", "1"))
        }
        return Array(units.map { [$0] }.joined(separator: [ActivationLayer(.gelu)] as [any Layer]))
    }
}
