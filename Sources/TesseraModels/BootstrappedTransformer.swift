import Tessera
import TesseraNN

/// The Vision Transformer of "Bootstrapping ViTs: Towards Liberating Vision Transformers from Pre-training" (2021), arXiv
/// 2112.03552, which learns beside its convolutional agent (see ``AgentNetwork``).
///
/// A ViT with dropout in other places, whose attention may give no weight at all to most tokens (1.5-entmax) and whose
/// norms may stand behind the branches.
///
/// The reference is zhfeing/Bootstrapping-ViTs-pytorch (MIT).
public final class BootstrappedTransformer: Module, PlainTransformer {
    /// The hyper-parameters, under the reference's names in files.
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var patchSize = Size(16)
        public var channels = 3
        public var classes = 1000
        public var width = 288
        public var depth = 6
        public var heads = 9
        public var hidden = 1152
        /// Of attention weights, of each branch, and between the two maps of a perceptron.
        public var dropout: Float = 0
        /// After the position table.
        public var positionDropout: Float = 0
        public var dropPath: Float = 0
        public var normEpsilon: Float = 1e-5
        /// What a branch gives is normalised instead of what it takes, and the last norm comes before the blocks.
        public var normalizesResults = false
        /// 1.5-entmax instead of the softmax.
        public var isSparse = false
        /// The deviation of the perceptrons' first biases. The code has 1, where 10⁻⁶ may have been meant.
        public var biasDeviation: Float = 1

        public var grid: Size { Size(imageSize.height / patchSize.height, imageSize.width / patchSize.width) }
    }

    let patchEmbed: Convolution2D
    let clsToken: Parameter
    /// `[1 + rows · columns, 1, width]`
    let posEmbed: Parameter
    let layers: [Block]
    let norm: LayerNorm
    let clsHead: Linear
    let configuration: Configuration

    public override var keys: [String: String] {
        [
            "patchEmbed": "patch_embed.proj", "posEmbed": "pos_embed.pos_embed", "layers": "transformer.layers",
            "norm": "transformer.norm",
        ]
    }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        patchEmbed = Convolution2D(
            c.channels, c.width, kernel: (c.patchSize.height, c.patchSize.width),
            stride: (c.patchSize.height, c.patchSize.width), initializer: .normal(1), biasInitializer: .zeros)
        clsToken = Parameter([1, 1, c.width], .normal(0.02))
        posEmbed = Parameter([1 + c.grid.height * c.grid.width, 1, c.width], .normal(0.02))
        layers = DropPath.linear(to: c.dropPath, depth: c.depth).map { Block(c, dropPath: $0) }
        norm = LayerNorm(c.width, epsilon: c.normEpsilon)
        clsHead = Linear(c.width, c.classes, initializer: xavier(c.width, c.classes))
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)), on tokens; or with the norms behind.
    final class Block: Module {
        let attention: Attention
        let mlp: Perceptron
        let norm1: LayerNorm
        let norm2: LayerNorm
        private let normalizesResults: Bool
        private let dropout: Dropout
        private let dropPath: DropPath

        init(_ c: Configuration, dropPath: Float) {
            attention = Attention(c)
            mlp = Perceptron(
                c.width, hidden: c.hidden, dropout: c.dropout, biasDeviation: c.biasDeviation,
                names: ("linear1", "linear2"))
            norm1 = LayerNorm(c.width, epsilon: c.normEpsilon)
            norm2 = LayerNorm(c.width, epsilon: c.normEpsilon)
            normalizesResults = c.normalizesResults
            (dropout, self.dropPath) = (Dropout(c.dropout), DropPath(dropPath))
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = x + branch(attention, norm1, x)
            return x + branch(mlp, norm2, x)
        }

        private func branch(_ layer: any Layer, _ norm: LayerNorm, _ x: Tensor) -> Tensor {
            dropPath(dropout(normalizesResults ? norm(layer.forward(x)) : layer.forward(norm(x))))
        }
    }

    /// Multi-head self-attention by softmax or 1.5-entmax.
    final class Attention: Module, Layer {
        let linearQkv: Linear
        let linearOut: Linear
        private let heads: Int
        private let isSparse: Bool
        private let dropout: Dropout

        init(_ c: Configuration) {
            linearQkv = Linear(c.width, 3 * c.width, initializer: xavier(c.width, 3 * c.width))
            linearOut = Linear(c.width, c.width, initializer: xavier(c.width, c.width))
            (heads, isSparse, dropout) = (c.heads, c.isSparse, Dropout(c.dropout))
        }

        func forward(_ x: Tensor) -> Tensor {
            let packed = linearQkv(x)
            if isSparse { return linearOut(sparse(packed)) }
            let pass = dropout.rate > 0 ? TrainingPass.current : nil
            return linearOut(
                attention(
                    packed: packed, heads: heads, dropout: pass == nil ? 0 : dropout.rate, seed: pass?.nextSeed() ?? 0))
        }

        private func sparse(_ packed: Tensor) -> Tensor {
            let (batch, count, width) = (packed.shape[0], packed.shape[1], packed.shape[2] / 3)
            let size = width / heads
            let parts = packed.split(axis: 2, sizes: [width, width, width]).map {
                $0.reshaped([batch, count, heads, size]).transposed([0, 2, 1, 3])
            }
            let scores = (parts[0] * (1 / Float(size).squareRoot())).multiplied(
                by: parts[1], transposing: (false, true))
            let weights = scores.entmax()
            AttentionProbe.show(weights)
            return dropout(weights).multiplied(by: parts[2]).transposed([0, 2, 1, 3]).reshaped([batch, count, width])
        }
    }

    public func features(_ image: Tensor) -> Features {
        let map = patchEmbed(image)
        let (batch, grid, width) = (map.shape[0], Size(map.shape[1], map.shape[2]), map.shape[3])
        let count = 1 + grid.height * grid.width
        let tokens = map.reshaped([batch, count - 1, width])
        let positions = PositionTable.resampled(
            posEmbed.tensor.reshaped([1, posEmbed.shape[0], width]), prefix: 1,
            from: (configuration.grid.height, configuration.grid.width), to: (grid.height, grid.width), .bicubic)
        var x = concatenate([clsToken.tensor.broadcast(to: [batch, 1, width]), tokens], axis: 1) + positions
        x = Dropout(configuration.positionDropout)(x)
        if configuration.normalizesResults { x = norm(x) }
        for block in layers {
            x = BlockProbe.show(checkpointed(block, x) { block($0) }, prefix: 1, grid: grid)
        }
        if !configuration.normalizesResults { x = norm(x) }
        let pooled = x.sliced(axis: 1, from: 0, to: 1).reshaped([batch, width])
        return Features(
            logits: clsHead(pooled), pooled: pooled,
            tokens: x.sliced(axis: 1, from: 1, to: count).reshaped([batch, grid.height, grid.width, width]))
    }

    public var agent: AgentNetwork.Configuration {
        let own = configuration
        var c = AgentNetwork.Configuration(own.width, own.depth, heads: own.heads, dropout: own.dropout)
        (c.imageSize, c.patchSize, c.channels) = (own.imageSize, own.patchSize, own.channels)
        (c.classes, c.hidden, c.biasDeviation) = (own.classes, own.hidden, own.biasDeviation)
        return c
    }

    public var blockWeights: [BlockWeights]? {
        layers.map {
            BlockWeights(
                qkv: $0.attention.linearQkv, out: $0.attention.linearOut, first: $0.mlp.first, second: $0.mlp.second)
        }
    }

    public var headPrefixes: [String] { ["cls_head."] }
    public var prefixTokens: Int { 1 }

    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? {
        guard key == "pos_embed.pos_embed", tensor.rank == 3, tensor.shape[1] == 1,
            tensor.shape[2] == configuration.width,
            let grid = PositionTable.squareGrid(tensor.shape[0], prefix: 1)
        else { return nil }
        return PositionTable.resampled(
            tensor.reshaped([1, tensor.shape[0], configuration.width]), prefix: 1, from: grid,
            to: (configuration.grid.height, configuration.grid.width), .bicubic
        ).reshaped(posEmbed.shape)
    }
}

extension BootstrappedTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        let patch = try arguments.pair("patch_size", default: (patchSize.height, patchSize.width), in: Limits.side)
        (imageSize, patchSize) = (Size(image.0, image.1), Size(patch.0, patch.1))
        channels = try arguments.int("image_channels", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depth = try arguments.int("num_encoder_layers", default: depth, in: Limits.depth)
        heads = try arguments.int("num_heads", default: heads, in: Limits.heads)
        hidden = try arguments.int("dim_feedforward", default: hidden, in: Limits.width)
        dropout = try arguments.rate("dropout", dropout)
        positionDropout = try arguments.rate("pos_dropout", positionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        normEpsilon = Float(try arguments.double("norm_eps", default: Double(normEpsilon), in: 1e-12...1e-1))
        normalizesResults = try !arguments.bool("pre_norm", default: !normalizesResults)
        isSparse = try arguments.bool("use_entmax", default: isSparse)
        biasDeviation = Float(try arguments.double("mlp_bias_std", default: Double(biasDeviation), in: 0...1))
    }

    public func validate() throws {
        try require("embed_dim", width, divisibleBy: heads, "num_heads")
        try require("img_size", imageSize.height, divisibleBy: patchSize.height, "patch_size")
        try require("img_size", imageSize.width, divisibleBy: patchSize.width, "patch_size")
    }

    public func makeModel() -> any ImageClassifier { BootstrappedTransformer(self) }

    init(_ width: Int, _ depth: Int, heads: Int, dropout: Float = 0, epsilon: Float = 1e-5) {
        (self.width, self.depth, self.heads, hidden) = (width, depth, heads, 4 * width)
        (self.dropout, normEpsilon) = (dropout, epsilon)
    }

    static let small = Self(288, 6, heads: 9, dropout: 0.1)
    static let base = Self(384, 12, heads: 6, epsilon: 1e-6)
}

extension BootstrappedTransformer {
    static let system = ModelSystem(
        id: "bootstrapped_vit", group: "bootstrapping",
        title: "Bootstrapping ViTs: Towards Liberating Vision Transformers from Pre-training", year: 2021,
        arxiv: "2112.03552",
        variants: ModelSystem.trainedOnTwo([
            ("bootstrapped_vit_small", Configuration.small), ("bootstrapped_vit_base", .base),
        ]),
        reference: { _ in nil })
}
