import Tessera
import TesseraNN

/// Swin: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (2021), arXiv 2103.14030.
///
/// Attention inside small windows of the token map, which every second layer shifts by half a window, costs linear time
/// in the number of tokens; between stages, 2×2 neighbours are merged into one token of twice the width.
///
/// The reference is timm's `SwinTransformer` (huggingface/pytorch-image-models, Apache-2.0), where a stage begins with
/// the merging; in the original repository the stage before ends with it, under that stage's number.
public final class SwinTransformer: Module, PyramidClassifier {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var patchSize = 4
        public var channels = 3
        public var classes = 1000
        /// Channels of the first stage; each stage doubles them.
        public var width = 96
        public var depths = [2, 2, 6, 2]
        public var heads = [3, 6, 12, 24]
        public var window = Size(7)
        public var mlpRatio: Float = 4
        public var qkvBias = true
        public var dropout: Float = 0
        public var projectionDropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0.1

        func width(_ stage: Int) -> Int { width << stage }
    }

    let patchEmbed: NormalizedPatchEmbedding
    let layers: [Stage]
    let norm: LayerNorm
    let head: Linear
    let configuration: Configuration

    public override var keys: [String: String] { ["head": "head.fc"] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        patchEmbed = NormalizedPatchEmbedding(c.channels, c.width, kernel: c.patchSize)
        var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
        var grid = Size(c.imageSize.height / c.patchSize, c.imageSize.width / c.patchSize)
        layers = c.depths.indices.map { stage in
            if stage > 0 { grid = Size((grid.height + 1) / 2, (grid.width + 1) / 2) }
            let window = Size(min(c.window.height, grid.height), min(c.window.width, grid.width))
            defer { rates = rates.dropFirst(c.depths[stage]) }
            return Stage(c, stage, window, dropPath: Array(rates.prefix(c.depths[stage])))
        }
        norm = LayerNorm(c.width(c.depths.count - 1), epsilon: 1e-5)
        head = Linear(c.width(c.depths.count - 1), c.classes, initializer: .truncatedNormal(0.02))
    }

    final class Stage: Module {
        let downsample: PatchMerging?
        let blocks: [Block]

        init(_ c: Configuration, _ stage: Int, _ window: Size, dropPath: [Float]) {
            downsample = stage > 0 ? PatchMerging(c.width(stage - 1)) : nil
            blocks = dropPath.enumerated().map {
                Block(c, stage, window, isShifted: $0 % 2 == 1, dropPath: $1)
            }
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            blocks.reduce(downsample.map { $0(x) } ?? x) { x, block in
                BlockProbe.show(checkpointed(block, x) { block($0) })
            }
        }
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)), on a map.
    final class Block: Module {
        let norm1: LayerNorm
        let attn: WindowAttention
        let norm2: LayerNorm
        let mlp: FeedForward
        private let dropPath: DropPath

        init(_ c: Configuration, _ stage: Int, _ window: Size, isShifted: Bool, dropPath: Float) {
            let width = c.width(stage)
            norm1 = LayerNorm(width, epsilon: 1e-5)
            attn = WindowAttention(
                width, heads: c.heads[stage], window: (window.height, window.width), isShifted: isShifted,
                qkvBias: c.qkvBias, attentionDropout: c.attentionDropout, dropout: c.projectionDropout,
                initializer: .truncatedNormal(0.02))
            norm2 = LayerNorm(width, epsilon: 1e-5, isForProducts: true)
            mlp = FeedForward(
                width, hidden: Int(Float(width) * c.mlpRatio), dropout: c.projectionDropout,
                initializer: .truncatedNormal(0.02))
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = dropPath.adding(to: x) { attn(norm1($0)) }
            return dropPath.adding(to: x) { mlp(norm2($0), residual: $1) }
        }
    }

    /// Four neighbours become one token of twice the width.
    final class PatchMerging: Module {
        let norm: LayerNorm
        let reduction: Linear

        init(_ width: Int) {
            norm = LayerNorm(4 * width, epsilon: 1e-5)
            reduction = Linear(4 * width, 2 * width, bias: false, initializer: .truncatedNormal(0.02))
        }

        func callAsFunction(_ x: Tensor) -> Tensor { reduction(norm(x.neighboursMerged())) }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var x = Dropout(configuration.dropout)(patchEmbed(image))
        return layers.map { stage in
            x = stage(x)
            return x
        }
    }

    public func features(of maps: [Tensor]) -> Features {
        let last = norm(maps.last!)
        let pooled = last.globalAveragePool()
        return Features(logits: head(Dropout(configuration.dropout)(pooled)), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] { layers.indices.map { configuration.patchSize << $0 } }
    public var pyramidChannels: [Int] { layers.indices.map(configuration.width) }
    public var headPrefixes: [String] { ["head.fc."] }
    public var undecayedKeys: Set<String> {
        Set(parameters.map(\.key).filter { $0.hasSuffix("relative_position_bias_table") })
    }
}

extension SwinTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        patchSize = try arguments.int("patch_size", default: patchSize, in: Limits.side)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depths = try arguments.ints("depths", default: depths, in: Limits.depth)
        heads = try arguments.ints("num_heads", default: heads, in: Limits.heads)
        let side = try arguments.pair("window_size", default: (window.height, window.width), in: Limits.side)
        window = Size(side.0, side.1)
        mlpRatio = Float(try arguments.double("mlp_ratio", default: Double(mlpRatio), in: Limits.ratio))
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        dropout = try arguments.rate("drop_rate", dropout)
        projectionDropout = try arguments.rate("proj_drop_rate", projectionDropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    public func validate() throws {
        try requireStages(depths, ("num_heads", heads))
        for (stage, count) in heads.enumerated() {
            try require("embed_dim", width(stage), divisibleBy: count, "num_heads")
        }
        try require("img_size", imageSize.height, divisibleBy: patchSize, "patch_size")
        try require("img_size", imageSize.width, divisibleBy: patchSize, "patch_size")
    }

    public func makeModel() -> any ImageClassifier { SwinTransformer(self) }

    init(_ width: Int, _ depths: [Int], heads: Int, image: Int = 224, window: Int = 7) {
        (self.width, self.depths) = (width, depths)
        self.heads = depths.indices.map { heads << $0 }
        (imageSize, self.window) = (Size(image), Size(window))
    }

    public static let tiny = Self(96, [2, 2, 6, 2], heads: 3)
    public static let small = Self(96, [2, 2, 18, 2], heads: 3)
    public static let base = Self(128, [2, 2, 18, 2], heads: 4)
    public static let large = Self(192, [2, 2, 18, 2], heads: 6)
}

extension SwinTransformer {
    static let system = ModelSystem(
        id: "swin", group: "baselines",
        title: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", year: 2021,
        arxiv: "2103.14030",
        variants: [
            ("swin_tiny_patch4_window7_224", .tiny), ("swin_small_patch4_window7_224", .small),
            ("swin_base_patch4_window7_224", .base), ("swin_large_patch4_window7_224", .large),
            (
                "swin_base_patch4_window12_384",
                Configuration(128, [2, 2, 18, 2], heads: 4, image: 384, window: 12)
            ),
        ] as [(String, Configuration)],
        reference: { $0.contains("swin_transformer") ? Configuration() : nil })
}
