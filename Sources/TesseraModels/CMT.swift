import Tessera
import TesseraNN

/// CMT: "CMT: Convolutional Neural Networks Meet Vision Transformers" (2021), arXiv 2107.06263.
///
/// A convolutional stem and four stages whose blocks are a depthwise convolution (the local perception unit), attention
/// with keys and values from a shrunken map and a learned bias for every pair of places, and a perceptron with a
/// depthwise convolution inside (the inverted residual feed-forward network).
///
/// The reference is ggjy/CMT.pytorch (MIT, as its README says). It activates before it normalises, reduces keys with a
/// batch norm that the paper does not have, and pools after the last projection. Its bias tables fit one image size;
/// here they are resampled for others.
public final class CMT: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var stemWidth = 16
        public var widths = [46, 92, 184, 368]
        public var depths = [2, 2, 10, 2]
        public var heads = [1, 2, 4, 8]
        public var mlpRatios: [Double] = [3.6, 3.6, 3.6, 3.6]
        /// By how much the sides of the map of keys and values are divided.
        public var reductions = [8, 4, 2, 1]
        /// How much narrower than values queries and keys are.
        public var queryRatio = 1
        public var qkvBias = true
        /// Channels before the classifier.
        public var headWidth = 1280
        public var headDropout: Float = 0.1
        public var dropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0.1

        /// The map of a stage, and of its keys, for an image of `size`.
        func grids(_ stage: Int, _ size: Size) -> (queries: Size, keys: Size) {
            let queries = Size(((size.height + 1) / 2) >> (stage + 1), ((size.width + 1) / 2) >> (stage + 1))
            return (queries, Size(queries.height / reductions[stage], queries.width / reductions[stage]))
        }
    }

    let stem: [ConvolutionNormActivation]
    let stages: [Stage]
    let fc: Convolution2D
    let bn: BatchNorm
    let head: Linear
    let configuration: Configuration

    public override var keys: [String: String] { ["stem": "", "stages": "", "fc": "_fc", "bn": "_bn"] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        stem = (1...3).map {
            activatedConvolution(
                $0 == 1 ? c.channels : c.stemWidth, c.stemWidth, kernel: 3, stride: $0 == 1 ? 2 : 1,
                names: ("stem_conv\($0)", "stem_norm\($0)"))
        }
        var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
        stages = c.depths.indices.map { stage in
            defer { rates = rates.dropFirst(c.depths[stage]) }
            return Stage(c, stage, dropPath: Array(rates.prefix(c.depths[stage])))
        }
        fc = Convolution2D(
            c.widths.last!, c.headWidth, kernel: 1, initializer: .kaimingNormal(fan: c.headWidth),
            biasInitializer: .zeros)
        bn = BatchNorm(c.headWidth)
        head = Linear(c.headWidth, c.classes, initializer: .truncatedNormal(0.02))
    }

    /// Checkpoints tell the stages apart by letters.
    final class Stage: Module {
        let patchEmbed: NormalizedPatchEmbedding
        /// `[heads, queries, keys]`, shared by all blocks.
        let relativePos: Parameter
        let blocks: [Block]
        private let configuration: Configuration
        private let index: Int

        override var keys: [String: String] {
            let letter = ["a", "b", "c", "d", "e", "f", "g", "h"][index]
            return [
                "patchEmbed": "patch_embed_\(letter)", "relativePos": "relative_pos_\(letter)",
                "blocks": "blocks_\(letter)",
            ]
        }

        init(_ c: Configuration, _ index: Int, dropPath: [Float]) {
            (configuration, self.index) = (c, index)
            patchEmbed = NormalizedPatchEmbedding(
                index == 0 ? c.stemWidth : c.widths[index - 1], c.widths[index], kernel: 2,
                initializer: .kaimingNormal(fan: 4 * c.widths[index]))
            let (queries, keys) = c.grids(index, c.imageSize)
            relativePos = Parameter(
                [c.heads[index], queries.height * queries.width, keys.height * keys.width], .normal(1))
            blocks = dropPath.map { Block(c, index, dropPath: $0) }
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            blocks.reduce(patchEmbed(x)) { x, block in
                // The bias belongs to the stage, so the stage is what a checkpoint differentiates.
                BlockProbe.show(
                    checkpointed(self, x) { [self] in block($0, bias: bias(Size($0.shape[1], $0.shape[2]))) })
            }
        }

        /// `[1, heads, queries, keys]`, resampled along both maps if they have other sizes than in training.
        private func bias(_ grid: Size) -> Tensor {
            let trained = configuration.grids(index, configuration.imageSize)
            let ratio = configuration.reductions[index]
            let table = resampled(
                relativePos.tensor, from: trained, to: (grid, Size(grid.height / ratio, grid.width / ratio)))
            return table.reshaped([1, table.shape[0], table.shape[1], table.shape[2]])
        }
    }

    /// x + convolution(x), then x + attention(norm(x)), then x + perceptron(norm(x)), on a map.
    final class Block: Module {
        let proj: Convolution2D
        let norm1: LayerNorm
        let attn: LightweightAttention
        let norm2: LayerNorm
        let mlp: InvertedResidualFeedForward
        private let dropPath: DropPath

        init(_ c: Configuration, _ stage: Int, dropPath: Float) {
            let width = c.widths[stage]
            proj = depthwiseConvolution(width)
            norm1 = LayerNorm(width, epsilon: 1e-6)
            attn = LightweightAttention(c, stage)
            norm2 = LayerNorm(width, epsilon: 1e-6)
            mlp = InvertedResidualFeedForward(
                width, hidden: Int(Double(width) * c.mlpRatios[stage]), dropout: c.dropout)
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor, bias: Tensor) -> Tensor {
            var x = proj(x) + x
            x = x + dropPath(attn(norm1(x), bias: bias))
            return x + dropPath(mlp(norm2(x)))
        }
    }

    /// Attention whose keys and values come from a map that a depthwise convolution has shrunk.
    final class LightweightAttention: Module {
        let q: Linear
        let k: Linear
        let v: Linear
        let sr: ConvolutionNormActivation?
        let proj: Linear
        private let heads: Int
        private let attentionDropout: Float
        private let dropout: Dropout

        init(_ c: Configuration, _ stage: Int) {
            let (width, ratio) = (c.widths[stage], c.reductions[stage])
            let initializer = Initializer.truncatedNormal(0.02)
            q = Linear(width, width / c.queryRatio, bias: c.qkvBias, initializer: initializer)
            k = Linear(width, width / c.queryRatio, bias: c.qkvBias, initializer: initializer)
            v = Linear(width, width, bias: c.qkvBias, initializer: initializer)
            proj = Linear(width, width, initializer: initializer)
            sr =
                ratio == 1
                ? nil
                : ConvolutionNormActivation(
                    width, width, kernel: ratio, stride: ratio, padding: 0, groups: width, bias: true,
                    initializer: .kaimingNormal(fan: width * ratio * ratio), names: ("0", "1"))
            heads = c.heads[stage]
            attentionDropout = c.attentionDropout
            dropout = Dropout(c.dropout)
        }

        /// `[batch, height, width, channels]` → the same; `bias`: `[1, heads, queries, keys]`
        func callAsFunction(_ x: Tensor, bias: Tensor) -> Tensor {
            let channels = x.shape[3]
            func tokens(_ map: Tensor) -> Tensor {
                map.reshaped([map.shape[0], map.shape[1] * map.shape[2], channels])
            }
            let source = tokens(sr?(x) ?? x)
            let pass = attentionDropout > 0 ? TrainingPass.current : nil
            // The scale is that of the values' heads, whatever the width of the queries.
            let mixed = attention(
                q(tokens(x)), k(source), v(source), heads: heads, scale: 1 / Float(channels / heads).squareRoot(),
                bias: bias, dropout: pass == nil ? 0 : attentionDropout, seed: pass?.nextSeed() ?? 0)
            return dropout(proj(mixed)).reshaped(x.shape)
        }
    }

    /// A perceptron of 1×1 convolutions with a depthwise one, and its own shortcut, between them.
    final class InvertedResidualFeedForward: Module {
        let conv1: ConvolutionNormActivation
        let proj: Convolution2D
        let projBn: BatchNorm
        let conv2: ConvolutionNormActivation
        private let dropout: Dropout

        init(_ width: Int, hidden: Int, dropout: Float) {
            conv1 = activatedConvolution(width, hidden, kernel: 1, names: ("0", "2"))
            proj = depthwiseConvolution(hidden)
            projBn = BatchNorm(hidden)
            conv2 = ConvolutionNormActivation(
                hidden, width, kernel: 1, bias: true, initializer: .kaimingNormal(fan: width), names: ("0", "1"))
            self.dropout = Dropout(dropout)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let y = dropout(conv1(x))
            return dropout(conv2(projBn((proj(y) + y).gelu())))
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var x = stem.reduce(image) { $1($0) }
        return stages.map { stage in
            x = stage(x)
            return x
        }
    }

    public func features(_ image: Tensor) -> Features {
        let last = pyramid(image).last!
        let pooled = bn(fc(last)).silu().globalAveragePool()
        return Features(logits: head(Dropout(configuration.headDropout)(pooled)), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] { stages.indices.map { 4 << $0 } }
    public var pyramidChannels: [Int] { configuration.widths }
    public var headPrefixes: [String] { ["head."] }

    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? {
        guard let stage = stages.indices.first(where: { stages[$0].keys["relativePos"] == key }), tensor.rank == 3,
            tensor.shape[0] == configuration.heads[stage],
            let queries = PositionTable.squareGrid(tensor.shape[1], prefix: 0),
            let keys = PositionTable.squareGrid(tensor.shape[2], prefix: 0)
        else { return nil }
        return resampled(
            tensor, from: (Size(queries.rows, queries.columns), Size(keys.rows, keys.columns)),
            to: configuration.grids(stage, configuration.imageSize))
    }
}

/// A convolution, GELU and batch norm.
private func activatedConvolution(
    _ inputs: Int, _ outputs: Int, kernel: Int, stride: Int = 1, names: (String, String)
) -> ConvolutionNormActivation {
    ConvolutionNormActivation(
        inputs, outputs, kernel: kernel, stride: stride, bias: true, activation: .gelu, order: .activationThenNorm,
        initializer: .kaimingNormal(fan: outputs * kernel * kernel), names: names)
}

/// The reference counts all channels as a depthwise convolution's fan: its first values are very small.
private func depthwiseConvolution(_ width: Int) -> Convolution2D {
    Convolution2D(
        width, width, kernel: 3, padding: 1, groups: width, initializer: .kaimingNormal(fan: 9 * width),
        biasInitializer: .zeros)
}

/// A table `[heads, queries, keys]` for maps of other sizes, bicubic along both.
private func resampled(
    _ table: Tensor, from: (queries: Size, keys: Size), to: (queries: Size, keys: Size)
) -> Tensor {
    guard from != to else { return table }
    let heads = table.shape[0]
    func resize(_ x: Tensor, _ from: Size, _ to: Size) -> Tensor {
        x.reshaped([heads, from.height, from.width, x.shape[2]])
            .resized(height: to.height, width: to.width, interpolation: .bicubic)
            .reshaped([heads, to.height * to.width, x.shape[2]])
    }
    let byKey = resize(table, from.queries, to.queries).transposed([0, 2, 1])
    return resize(byKey, from.keys, to.keys).transposed([0, 2, 1])
}

extension CMT.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        stemWidth = try arguments.int("stem_channel", default: stemWidth, in: Limits.width)
        widths = try arguments.ints("embed_dims", default: widths, in: Limits.width)
        depths = try arguments.ints("depths", default: depths, in: Limits.depth)
        heads = try arguments.ints("num_heads", default: heads, in: Limits.heads)
        mlpRatios = try arguments.doubles("mlp_ratios", default: mlpRatios, in: Limits.ratio)
        reductions = try arguments.ints("sr_ratios", default: reductions, in: 1...64)
        queryRatio = try arguments.int("qk_ratio", default: queryRatio, in: 1...64)
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        headWidth = try arguments.int("fc_dim", default: headWidth, in: Limits.width)
        headDropout = try arguments.rate("dp", headDropout)
        dropout = try arguments.rate("drop_rate", dropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        for (name, value) in [("layer_norm_eps_blocks", 1e-6), ("layer_norm_eps_patch_embed", 1e-5)] {
            guard try arguments.double(name, default: value) == value else {
                throw ArgumentError(field: name, found: "another value", expected: "\(value)")
            }
        }
    }

    public func validate() throws {
        try requireStages(
            depths, ("embed_dims", widths), ("num_heads", heads), ("mlp_ratios", mlpRatios), ("sr_ratios", reductions))
        for stage in depths.indices {
            try require("embed_dims", widths[stage], divisibleBy: heads[stage] * queryRatio, "num_heads · qk_ratio")
            let (_, keys) = grids(stage, imageSize)
            guard min(keys.height, keys.width) > 0 else {
                throw ArgumentError(
                    field: "img_size", found: "\(imageSize)",
                    expected: "stage \(stage + 1) at least \(reductions[stage]) tokens wide")
            }
        }
    }

    public func makeModel() -> any ImageClassifier { CMT(self) }

    init(
        _ image: Int, stem: Int, width: Int, _ depths: [Int], mlpRatio: Double, dropPath: Float,
        headDropout: Float = 0.1
    ) {
        (imageSize, stemWidth, self.depths) = (Size(image), stem, depths)
        widths = depths.indices.map { width << $0 }
        mlpRatios = depths.map { _ in mlpRatio }
        (self.dropPath, self.headDropout) = (dropPath, headDropout)
    }

    public static let tiny = Self(160, stem: 16, width: 46, [2, 2, 10, 2], mlpRatio: 3.6, dropPath: 0.1)
    public static let extraSmall = Self(192, stem: 16, width: 52, [3, 3, 12, 3], mlpRatio: 3.77, dropPath: 0.08)
    public static let small = Self(224, stem: 32, width: 64, [3, 3, 16, 3], mlpRatio: 4, dropPath: 0.1)
    public static let base = Self(
        256, stem: 38, width: 76, [4, 4, 20, 4], mlpRatio: 4, dropPath: 0.25, headDropout: 0.3)
}

extension CMT {
    static let system = ModelSystem(
        id: "cmt", title: "CMT: Convolutional Neural Networks Meet Vision Transformers", year: 2021,
        arxiv: "2107.06263",
        variants: [
            ("CMT_Ti", .tiny), ("CMT_Ti@224", .tiny.with(imageSize: 224)),
            ("CMT_XS", .extraSmall), ("CMT_XS@224", .extraSmall.with(imageSize: 224)),
            ("CMT_S", .small), ("CMT_B", .base), ("CMT_B@224", .base.with(imageSize: 224)),
        ] as [(String, Configuration)],
        reference: { _ in Configuration() })
}
