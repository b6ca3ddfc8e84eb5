import Tessera
import TesseraNN

/// PVT: "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions" (2021), arXiv
/// 2102.12122.
///
/// Four stages of transformer blocks on ever coarser maps; keys and values are taken from a shrunken map, so that
/// attention over fine maps can be paid for. Each stage has its own learned positions; the last one has a class token.
///
/// The reference is whai362/PVT (Apache-2.0).
public final class PyramidVisionTransformer: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var patchSize = 4
        public var channels = 3
        public var classes = 1000
        public var widths = [64, 128, 320, 512]
        public var depths = [2, 2, 2, 2]
        public var heads = [1, 2, 5, 8]
        public var mlpRatios: [Float] = [8, 8, 4, 4]
        /// By how much the sides of the map of keys and values are divided.
        public var reductions = [8, 4, 2, 1]
        public var qkvBias = true
        public var dropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0.1

        /// The grid of a stage's tokens for an image of `size`.
        func grid(_ stage: Int, _ size: Size) -> Size {
            Size(size.height / (patchSize << stage), size.width / (patchSize << stage))
        }
    }

    let patchEmbed: [NormalizedPatchEmbedding]
    let posEmbed: [Parameter]
    let block: [[Block]]
    let clsToken: Parameter
    let norm: LayerNorm
    let head: Linear
    let configuration: Configuration

    public override var keys: [String: String] {
        ["patchEmbed": "patch_embed#", "posEmbed": "pos_embed#", "block": "block#"]
    }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        let initializer = Initializer.truncatedNormal(0.02)
        patchEmbed = c.widths.indices.map {
            $0 == 0
                ? NormalizedPatchEmbedding(c.channels, c.widths[0], kernel: c.patchSize)
                : NormalizedPatchEmbedding(c.widths[$0 - 1], c.widths[$0], kernel: 2)
        }
        posEmbed = c.widths.indices.map { stage in
            let grid = c.grid(stage, c.imageSize)
            let prefix = stage == c.widths.count - 1 ? 1 : 0
            return Parameter([1, prefix + grid.height * grid.width, c.widths[stage]], initializer)
        }
        var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
        block = c.depths.indices.map { stage in
            (0..<c.depths[stage]).map { _ in Block(c, stage, dropPath: rates.removeFirst()) }
        }
        clsToken = Parameter([1, 1, c.widths.last!], initializer)
        norm = LayerNorm(c.widths.last!, epsilon: 1e-6)
        head = Linear(c.widths.last!, c.classes, initializer: initializer)
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)).
    final class Block: Module {
        let norm1: LayerNorm
        let attn: SpatialReductionAttention
        let norm2: LayerNorm
        let mlp: FeedForward
        private let dropPath: DropPath

        init(_ c: Configuration, _ stage: Int, dropPath: Float) {
            let (width, initializer) = (c.widths[stage], Initializer.truncatedNormal(0.02))
            norm1 = LayerNorm(width, epsilon: 1e-6)
            attn = SpatialReductionAttention(
                width, heads: c.heads[stage], reduction: .convolution(c.reductions[stage]), qkvBias: c.qkvBias,
                attentionDropout: c.attentionDropout, dropout: c.dropout, initializer: initializer)
            norm2 = LayerNorm(width, epsilon: 1e-6, isForProducts: true)
            mlp = FeedForward(
                width, hidden: Int(Float(width) * c.mlpRatios[stage]), dropout: c.dropout, initializer: initializer)
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor, grid: Size) -> Tensor {
            let x = dropPath.adding(to: x) { attn(norm1($0), grid: (grid.height, grid.width)) }
            return dropPath.adding(to: x) { mlp(norm2($0), residual: $1) }
        }
    }

    /// The maps of all stages, and the normalised class token `[batch, channels]`.
    private func encode(_ image: Tensor) -> (maps: [Tensor], token: Tensor) {
        var map = image
        var maps: [Tensor] = []
        var token = image
        for stage in block.indices {
            let embedded = patchEmbed[stage](map)
            let (batch, width) = (embedded.shape[0], embedded.shape[3])
            let grid = Size(embedded.shape[1], embedded.shape[2])
            var x = embedded.reshaped([batch, grid.height * grid.width, width])
            let prefix = stage == block.count - 1 ? 1 : 0
            if prefix == 1 { x = concatenate([clsToken.tensor.broadcast(to: [batch, 1, width]), x], axis: 1) }
            x = Dropout(configuration.dropout)(x + positions(stage, prefix, grid))
            for layer in block[stage] {
                x = BlockProbe.show(checkpointed(layer, x) { layer($0, grid: grid) }, prefix: prefix, grid: grid)
            }
            if prefix == 1 { token = norm(x.sliced(axis: 1, from: 0, to: 1)).reshaped([batch, width]) }
            map = x.sliced(axis: 1, from: prefix, to: x.shape[1])
                .reshaped([batch, grid.height, grid.width, width])
            maps.append(map)
        }
        return (maps, token)
    }

    private func positions(_ stage: Int, _ prefix: Int, _ grid: Size) -> Tensor {
        let trained = configuration.grid(stage, configuration.imageSize)
        return PositionTable.resampled(
            posEmbed[stage].tensor, prefix: prefix, from: (trained.height, trained.width),
            to: (grid.height, grid.width), .bilinear)
    }

    public func pyramid(_ image: Tensor) -> [Tensor] { encode(image).maps }

    public func features(_ image: Tensor) -> Features {
        let (maps, token) = encode(image)
        return Features(logits: head(token), pooled: token, tokens: maps.last!)
    }

    public var pyramidStrides: [Int] { block.indices.map { configuration.patchSize << $0 } }
    public var pyramidChannels: [Int] { configuration.widths }
    public var headPrefixes: [String] { ["head."] }
    public var prefixTokens: Int { 1 }
    public var undecayedKeys: Set<String> { Set((1...block.count).map { "pos_embed\($0)" } + ["cls_token"]) }

    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? {
        guard key.hasPrefix("pos_embed"), let stage = Int(key.dropFirst(9)).map({ $0 - 1 }),
            block.indices.contains(stage), tensor.rank == 3, tensor.shape[2] == configuration.widths[stage]
        else { return nil }
        let prefix = stage == block.count - 1 ? 1 : 0
        let grid = configuration.grid(stage, configuration.imageSize)
        return PositionTable.squareGrid(tensor.shape[1], prefix: prefix).map {
            PositionTable.resampled(tensor, prefix: prefix, from: $0, to: (grid.height, grid.width), .bilinear)
        }
    }
}

extension PyramidVisionTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        patchSize = try arguments.int("patch_size", default: patchSize, in: Limits.side)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        widths = try arguments.ints("embed_dims", default: widths, in: Limits.width)
        depths = try arguments.ints("depths", default: depths, in: Limits.depth)
        heads = try arguments.ints("num_heads", default: heads, in: Limits.heads)
        mlpRatios = try arguments.doubles("mlp_ratios", default: mlpRatios.map(Double.init), in: Limits.ratio)
            .map { Float($0) }
        reductions = try arguments.ints("sr_ratios", default: reductions, in: 1...64)
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        dropout = try arguments.rate("drop_rate", dropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        guard try arguments.double("norm_eps", default: 1e-6) == 1e-6 else {
            throw ArgumentError(field: "norm_eps", found: "another value", expected: "1e-6")
        }
    }

    public func validate() throws {
        try requireStages(
            depths, ("embed_dims", widths), ("num_heads", heads), ("mlp_ratios", mlpRatios), ("sr_ratios", reductions))
        for (width, count) in zip(widths, heads) {
            try require("embed_dims", width, divisibleBy: count, "num_heads")
        }
        guard reductions.last == 1 else {
            throw ArgumentError(
                field: "sr_ratios", found: "\(reductions.last!) at the end", expected: "1 where the class token is")
        }
        let coarsest = patchSize << (depths.count - 1)
        try require("img_size", imageSize.height, divisibleBy: coarsest, "the last stage's patch")
        try require("img_size", imageSize.width, divisibleBy: coarsest, "the last stage's patch")
        for (stage, ratio) in reductions.enumerated() {
            let grid = grid(stage, imageSize)
            guard min(grid.height, grid.width) >= ratio else {
                throw ArgumentError(
                    field: "img_size", found: "\(imageSize)",
                    expected: "stage \(stage + 1) at least \(ratio) tokens wide")
            }
        }
    }

    public func makeModel() -> any ImageClassifier { PyramidVisionTransformer(self) }

    init(_ depths: [Int], dropPath: Float) { (self.depths, self.dropPath) = (depths, dropPath) }

    public static let tiny = Self([2, 2, 2, 2], dropPath: 0.1)
    public static let small = Self([3, 4, 6, 3], dropPath: 0.1)
    public static let medium = Self([3, 4, 18, 3], dropPath: 0.3)
    public static let large = Self([3, 8, 27, 3], dropPath: 0.3)
}

extension PyramidVisionTransformer {
    static let system = ModelSystem(
        id: "pvt", group: "baselines",
        title: "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
        year: 2021, arxiv: "2102.12122",
        variants: [
            ("pvt_tiny", .tiny), ("pvt_small", .small), ("pvt_medium", .medium), ("pvt_large", .large),
        ] as [(String, Configuration)],
        reference: { $0.contains("classification/pvt.py") ? Configuration.tiny : nil })
}
