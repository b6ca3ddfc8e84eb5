import Tessera
import TesseraNN

/// The agent of a transformer: "Bootstrapping ViTs: Towards Liberating Vision Transformers from Pre-training" (2021),
/// arXiv 2112.03552.
///
/// A convolutional network of the transformer's depth and widths, whose blocks have a convolution where the transformer
/// has attention. It learns from few images, and the transformer learns from its features. Its blocks may have no
/// weights of their own: with attention fixed on one neighbour for each head, the transformer's values and outputs are a
/// convolution too.
///
/// The reference is zhfeing/Bootstrapping-ViTs-pytorch (MIT).
public final class AgentNetwork: Module, ImageClassifier {
    /// The hyper-parameters, under the reference's names in files.
    public struct Configuration: ClassifierConfiguration, Hashable {
        public enum Stem: String, Codable, Sendable, CaseIterable {
            /// The transformer's patches.
            case patches = "vit_like"
            /// 7×7 with stride 2, the maximum of 3×3 with stride 2, 3×3 with stride 2.
            case convolutions = "resnet_like"
        }

        public enum Convolution: String, Codable, Sendable, CaseIterable {
            /// 3×3.
            case standard = "conv_sl"
            /// One place for each head.
            case heads = "conv_manyhead"
        }

        public var imageSize = Size(224)
        public var patchSize = Size(16)
        public var channels = 3
        public var classes = 1000
        public var width = 288
        public var depth = 6
        public var hidden = 1152
        public var heads = 9
        public var stem = Stem.patches
        /// Channels of the first convolutions of the other stem.
        public var stemWidth = 64
        public var convolution = Convolution.standard
        /// The blocks after which the map is halved.
        public var pooledBlocks: [Int] = []
        /// What a branch gives is normalised instead of what it takes.
        public var normalizesResults = false
        /// Between the two maps of a perceptron.
        public var dropout: Float = 0
        public var dropPath: Float = 0
        /// The deviation of the perceptrons' first biases. The code has 1, where 10⁻⁶ may have been meant.
        public var biasDeviation: Float = 1

        /// The first block's map.
        var grid: Size {
            guard stem == .convolutions else {
                return Size(imageSize.height / patchSize.height, imageSize.width / patchSize.width)
            }
            func extent(_ pixels: Int) -> Int { (0..<3).reduce(pixels) { size, _ in (size + 1) / 2 } }
            return Size(extent(imageSize.height), extent(imageSize.width))
        }
    }

    let inputProj: any Layer
    let layers: [Block]
    let bn: BatchNorm
    let linear: Linear
    private let configuration: Configuration

    /// - Parameter weights: those of the transformer's blocks, to be used instead of its own
    /// - Precondition: the configuration is valid, and the weights are of its depth and widths.
    public init(_ configuration: Configuration, sharing weights: [BlockWeights]? = nil) {
        let c = configuration
        precondition(weights.map { $0.count == c.depth } ?? true, "an agent shares all blocks of its transformer")
        self.configuration = c
        inputProj =
            c.stem == .patches
            ? Convolution2D(
                c.channels, c.width, kernel: (c.patchSize.height, c.patchSize.width),
                stride: (c.patchSize.height, c.patchSize.width),
                initializer: xavier(c.channels, c.width, c.patchSize.height * c.patchSize.width),
                biasInitializer: .zeros)
            : ConvolutionalStem(c)
        let rates = DropPath.linear(to: c.dropPath, depth: c.depth)
        layers = (0..<c.depth).map { Block(c, weights?[$0], dropPath: rates[$0]) }
        bn = BatchNorm(c.width)
        linear = Linear(c.width, c.classes, initializer: xavier(c.width, c.classes))
    }

    final class ConvolutionalStem: Module, Layer {
        let conv1: Convolution2D
        let norm: BatchNorm
        let conv2: Convolution2D

        init(_ c: Configuration) {
            conv1 = Convolution2D(
                c.channels, c.stemWidth, kernel: 7, stride: 2, padding: 3, bias: false,
                initializer: xavier(c.channels, c.stemWidth, 49))
            norm = BatchNorm(c.stemWidth)
            conv2 = Convolution2D(
                c.stemWidth, c.width, kernel: 3, stride: 2, padding: 1, initializer: xavier(c.stemWidth, c.width, 9),
                biasInitializer: .zeros)
        }

        func forward(_ image: Tensor) -> Tensor {
            conv2(norm(conv1(image)).activated(.gelu).maxPool(kernel: 3, stride: 2, padding: 1))
        }
    }

    /// x + convolution(norm(x)), then x + perceptron(norm(x)), on a map; or with the norms behind.
    final class Block: Module {
        let cnnBlock: any Layer
        let mlpBlock: any Layer
        let norm1: BatchNorm
        let norm2: BatchNorm
        private let normalizesResults: Bool
        private let dropPath: DropPath

        init(_ c: Configuration, _ weights: BlockWeights?, dropPath: Float) {
            if let weights {
                cnnBlock = AttentionConvolution(weights, heads: c.heads)
                mlpBlock = SharedPerceptron(weights, dropout: c.dropout)
            } else {
                cnnBlock =
                    c.convolution == .heads ? HeadConvolution(c.width, heads: c.heads) : PlainConvolution(c.width)
                mlpBlock = Perceptron(
                    c.width, hidden: c.hidden, dropout: c.dropout, biasDeviation: c.biasDeviation,
                    names: ("conv1", "conv2"), isConvolution: true)
            }
            (norm1, norm2) = (BatchNorm(c.width), BatchNorm(c.width))
            normalizesResults = c.normalizesResults
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = x + dropPath(branch(cnnBlock, norm1, x))
            return x + dropPath(branch(mlpBlock, norm2, x))
        }

        private func branch(_ layer: any Layer, _ norm: BatchNorm, _ x: Tensor) -> Tensor {
            normalizesResults ? norm(layer.forward(x)) : layer.forward(norm(x))
        }
    }

    public func features(_ image: Tensor) -> Features {
        var x = inputProj.forward(image)
        for (index, block) in layers.enumerated() {
            x = BlockProbe.show(block(x))
            if configuration.pooledBlocks.contains(index) { x = x.averagePool(kernel: 2, stride: 2) }
        }
        let pooled = bn(x).activated(.gelu).globalAveragePool()
        return Features(logits: linear(pooled), pooled: pooled, tokens: x)
    }

    public var headPrefixes: [String] { ["linear."] }
}

extension AgentNetwork.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        let patch = try arguments.pair("patch_size", default: (patchSize.height, patchSize.width), in: Limits.side)
        (imageSize, patchSize) = (Size(image.0, image.1), Size(patch.0, patch.1))
        channels = try arguments.int("image_channels", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depth = try arguments.int("num_layers", default: depth, in: Limits.depth)
        hidden = try arguments.int("dim_feedforward", default: hidden, in: Limits.width)
        heads = try arguments.int("num_heads", default: heads, in: Limits.heads)
        stem = try arguments.choice("input_proj", default: stem)
        stemWidth = try arguments.int("mid_channel", default: stemWidth, in: Limits.width)
        convolution = try arguments.choice("conv_block", default: convolution)
        pooledBlocks = try arguments.ints("down_sample_layers", default: pooledBlocks, in: 0...1023)
        normalizesResults = try !arguments.bool("pre_norm", default: !normalizesResults)
        dropout = try arguments.rate("dropout", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        biasDeviation = Float(try arguments.double("mlp_bias_std", default: Double(biasDeviation), in: 0...1))
    }

    public func validate() throws {
        if stem == .patches {
            try require("img_size", imageSize.height, divisibleBy: patchSize.height, "patch_size")
            try require("img_size", imageSize.width, divisibleBy: patchSize.width, "patch_size")
        }
        if let block = pooledBlocks.first(where: { $0 >= depth }) {
            throw ArgumentError(field: "down_sample_layers", found: "\(block)", expected: "0 to \(depth - 1)")
        }
        guard min(grid.height, grid.width) >> Set(pooledBlocks).count > 0 else {
            throw ArgumentError(
                field: "down_sample_layers", found: "\(pooledBlocks)", expected: "fewer, for a map of \(grid)")
        }
        let side = HeadWindow.side(heads)
        guard convolution == .standard || side % 2 == 1 else {
            throw ArgumentError(
                field: "num_heads", found: "\(heads), a window of \(side)×\(side)",
                expected: "a window with a centre: 1, 5 to 9 or 17 to 25 heads")
        }
    }

    public func makeModel() -> any ImageClassifier { AgentNetwork(self) }

    init(_ width: Int, _ depth: Int, heads: Int, dropout: Float = 0.1) {
        (self.width, self.depth, self.heads, hidden) = (width, depth, heads, 4 * width)
        self.dropout = dropout
    }

    static let small = Self(288, 6, heads: 9)
    static let base: Self = {
        var c = Self(384, 12, heads: 6)
        (c.convolution, c.normalizesResults) = (.heads, true)
        return c
    }()

    /// With the other stem, on maps of 28×28, 14×14 and 7×7.
    func convolutional(pooling blocks: [Int]) -> Self {
        var copy = self
        (copy.stem, copy.pooledBlocks) = (.convolutions, blocks)
        return copy
    }
}

extension AgentNetwork {
    static let system = ModelSystem(
        id: "agent_cnn", group: "bootstrapping",
        title: "Bootstrapping ViTs: Towards Liberating Vision Transformers from Pre-training", year: 2021,
        arxiv: "2112.03552",
        variants: ModelSystem.trainedOnTwo([
            ("agent_small", Configuration.small), ("agent_base", .base),
            ("agent_small_res_like", .small.convolutional(pooling: [0, 1])),
            ("agent_base_res_like", .base.convolutional(pooling: [2, 8])),
        ]),
        reference: { _ in nil })
}

extension ModelSystem {
    /// The same variants for CIFAR-100 and for ImageNet.
    static func trainedOnTwo<C: ClassifierConfiguration>(_ variants: [(String, C)]) -> [(String, C)] {
        [("_c100", 100), ("_in1k", 1000)].flatMap { suffix, classes in
            variants.map { name, configuration in
                var configuration = configuration
                configuration.classes = classes
                return (name + suffix, configuration)
            }
        }
    }
}
