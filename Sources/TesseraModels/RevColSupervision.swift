import Tessera
import TesseraNN

/// From the last map of a column to the image: logits `[batch, height, width, 3]`.
protocol ImageDecoder: Module {
    func callAsFunction(_ map: Tensor) -> Tensor
}

/// RevCol's intermediate supervision: heads and image decoders after each quarter of the columns, which training needs
/// and the finished model does not.
extension RevCol {
    static func makeDecoder(_ c: Configuration) -> any ImageDecoder {
        c.classes <= 1000 ? StagedDecoder(c) : DirectDecoder(c.widths.last!, stride: 32)
    }

    /// Three times a narrower map of twice the size, then patches of 4×4.
    final class StagedDecoder: Module, ImageDecoder {
        let projLayers: [Projection]
        let normalLayers: [[ConvolutionBlock]]
        let projback: [Linear]

        init(_ c: Configuration) {
            let widths = Array(c.widths.reversed())
            projLayers = (1...3).map { Projection(widths[$0 - 1], widths[$0], side: 1) }
            normalLayers = (1...3).map { [ConvolutionBlock(widths[$0], hidden: widths[$0], kernel: 3)] }
            projback = [
                Linear(widths[3], 4 * 4 * 3, initializer: .truncatedNormal(0.02), isConvolution: true)
            ]
        }

        func callAsFunction(_ map: Tensor) -> Tensor {
            let map = zip(projLayers, normalLayers).reduce(map) { x, layers in
                let y = layers.0(x).gelu()
                let larger = y.resized(
                    height: 2 * y.shape[1], width: 2 * y.shape[2], interpolation: .bilinear, alignCorners: true)
                return layers.1.reduce(larger) { $1($0) }
            }
            return projback[0](map).pixelShuffled(4)
        }
    }

    /// One linear map from a place to its patch.
    final class DirectDecoder: Module, ImageDecoder {
        let norm: LayerNorm
        let linear: Linear
        private let stride: Int

        override var keys: [String: String] { ["norm": "projback.0", "linear": "projback.1"] }

        init(_ width: Int, stride: Int) {
            norm = LayerNorm(width, epsilon: 1e-6)
            linear = Linear(
                width, stride * stride * 3, initializer: .truncatedNormal(0.02), isConvolution: true)
            self.stride = stride
        }

        func callAsFunction(_ map: Tensor) -> Tensor { linear(norm(map)).pixelShuffled(stride) }
    }

    /// Whether the network has heads between its columns.
    public var supervisesColumns: Bool { configuration.supervisesColumns }

    /// What the supervised columns answer, the first one first.
    public struct Supervised {
        /// Four times `[batch, classes]`; the last is the model's answer.
        public let logits: [Tensor]
        /// Three times `[batch, height, width, 3]`: logits of the image's values.
        public let images: [Tensor]

        public init(logits: [Tensor], images: [Tensor]) { (self.logits, self.images) = (logits, images) }
    }

    /// - Precondition: the configuration asks for supervision.
    public func supervised(_ image: Tensor) -> Supervised {
        precondition(configuration.supervisesColumns, "this RevCol has no heads between its columns")
        let last = maps(image, quarters: true).map { $0.last! }
        return Supervised(
            logits: zip(clsBlocks, last).map { $0($1).logits }, images: zip(decoderBlocks, last).map { $0($1) })
    }

    func supervisedOutputs(_ image: Tensor) -> [(key: String, tensor: Tensor)] {
        let outputs = supervised(image)
        return outputs.logits.enumerated().map { ("output.cls\($0)", $1) }
            + outputs.images.enumerated().map { ("output.img\($0)", $1.transposed([0, 3, 1, 2])) }
    }

    /// The loss of the supervised columns: towards the last, seeing the image counts less and less and naming it more.
    ///
    /// - Parameters:
    ///   - targets: class probabilities `[batch, classes]`
    ///   - image: `[batch, height, width, 3]` with values from 0 to 1, as the model saw it
    ///   - imageWeight: λ of the binary cross-entropy with the image
    ///   - classWeight: λ of the heads between
    /// - Returns: the parts for each head, whose sum is the loss
    public static func losses(
        _ outputs: Supervised, targets: Tensor, image: Tensor, imageWeight: Float = 3, classWeight: Float = 0.7
    ) -> [Tensor] {
        let target = minimum(maximum(image, Tensor(0.01)), Tensor(0.99))
        let count = Float(outputs.images.count)
        return outputs.logits.enumerated().map { index, logits in
            let classes = crossEntropy(logits, targets)
            guard index < outputs.images.count else { return classes }
            let place = Float(index)
            return binaryCrossEntropy(outputs.images[index], target) * ((1 - place / count) * imageWeight)
                + classes * ((place + 1) / (count + 1) * classWeight)
        }
    }
}
