import Tessera
import TesseraNN

/// PVT v2: "PVT v2: Improved Baselines with Pyramid Vision Transformer" (2021), arXiv 2106.13797.
///
/// As PVT, with overlapping patches, with a depthwise convolution inside the perceptron instead of learned positions,
/// and, in the linear form, with keys and values from a mean over 7×7 places.
///
/// The reference is timm's `PyramidVisionTransformerV2` (huggingface/pytorch-image-models, Apache-2.0).
public final class PyramidVisionTransformerV2: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var widths = [64, 128, 320, 512]
        public var depths = [3, 4, 6, 3]
        public var heads = [1, 2, 5, 8]
        public var mlpRatios: [Float] = [8, 8, 4, 4]
        public var reductions = [8, 4, 2, 1]
        /// Keys and values are means over a grid of fixed size.
        public var isLinear = false
        public var qkvBias = true
        public var dropout: Float = 0
        public var projectionDropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0.1
    }

    let patchEmbed: NormalizedPatchEmbedding
    let stages: [Stage]
    let head: Linear
    let configuration: Configuration

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        patchEmbed = NormalizedPatchEmbedding(
            c.channels, c.widths[0], kernel: 7, stride: 4, padding: 3,
            initializer: .kaimingNormal(fan: 49 * c.widths[0]))
        var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
        stages = c.depths.indices.map { stage in
            defer { rates = rates.dropFirst(c.depths[stage]) }
            return Stage(c, stage, dropPath: Array(rates.prefix(c.depths[stage])))
        }
        head = Linear(c.widths.last!, c.classes, initializer: .truncatedNormal(0.02))
    }

    final class Stage: Module {
        let downsample: NormalizedPatchEmbedding?
        let blocks: [Block]
        let norm: LayerNorm

        init(_ c: Configuration, _ stage: Int, dropPath: [Float]) {
            let width = c.widths[stage]
            downsample =
                stage == 0
                ? nil
                : NormalizedPatchEmbedding(
                    c.widths[stage - 1], width, kernel: 3, stride: 2, padding: 1,
                    initializer: .kaimingNormal(fan: 9 * width))
            blocks = dropPath.map { Block(c, stage, dropPath: $0) }
            norm = LayerNorm(width, epsilon: 1e-6)
        }

        /// A map to the next one.
        func callAsFunction(_ map: Tensor) -> Tensor {
            let map = downsample.map { $0(map) } ?? map
            let grid = Size(map.shape[1], map.shape[2])
            var x = map.reshaped([map.shape[0], grid.height * grid.width, map.shape[3]])
            for block in blocks {
                x = checkpointed(block, x) { block($0, grid: (grid.height, grid.width)) }
                x = BlockProbe.show(x, prefix: 0, grid: grid)
            }
            return norm(x).reshaped(map.shape)
        }
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)).
    final class Block: Module {
        let norm1: LayerNorm
        let attn: SpatialReductionAttention
        let norm2: LayerNorm
        let mlp: DepthwiseFeedForward
        private let dropPath: DropPath

        init(_ c: Configuration, _ stage: Int, dropPath: Float) {
            let (width, ratio) = (c.widths[stage], c.reductions[stage])
            let initializer = Initializer.truncatedNormal(0.02)
            norm1 = LayerNorm(width, epsilon: 1e-6)
            attn = SpatialReductionAttention(
                width, heads: c.heads[stage], reduction: c.isLinear ? .pooling : .convolution(ratio),
                qkvBias: c.qkvBias, attentionDropout: c.attentionDropout, dropout: c.projectionDropout,
                initializer: initializer,
                convolutionInitializer: .kaimingNormal(fan: (c.isLinear ? 1 : ratio * ratio) * width))
            norm2 = LayerNorm(width, epsilon: 1e-6)
            mlp = DepthwiseFeedForward(
                width, hidden: Int(Float(width) * c.mlpRatios[stage]), hasRelu: c.isLinear,
                dropout: c.projectionDropout, initializer: initializer, convolutionInitializer: .kaimingNormal(fan: 9))
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor, grid: (rows: Int, columns: Int)) -> Tensor {
            let x = x + dropPath(attn(norm1(x), grid: grid))
            return x + dropPath(mlp(norm2(x), grid: grid))
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var x = patchEmbed(image)
        return stages.map { stage in
            x = stage(x)
            return x
        }
    }

    public func features(_ image: Tensor) -> Features {
        let last = pyramid(image).last!
        let pooled = last.globalAveragePool()
        return Features(logits: head(Dropout(configuration.dropout)(pooled)), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] { stages.indices.map { 4 << $0 } }
    public var pyramidChannels: [Int] { configuration.widths }
    public var headPrefixes: [String] { ["head."] }
}

extension PyramidVisionTransformerV2.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        widths = try arguments.ints("embed_dims", default: widths, in: Limits.width)
        depths = try arguments.ints("depths", default: depths, in: Limits.depth)
        heads = try arguments.ints("num_heads", default: heads, in: Limits.heads)
        mlpRatios = try arguments.doubles("mlp_ratios", default: mlpRatios.map(Double.init), in: Limits.ratio)
            .map { Float($0) }
        reductions = try arguments.ints("sr_ratios", default: reductions, in: 1...64)
        isLinear = try arguments.bool("linear", default: isLinear)
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        dropout = try arguments.rate("drop_rate", dropout)
        projectionDropout = try arguments.rate("proj_drop_rate", projectionDropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    public func validate() throws {
        try requireStages(
            depths, ("embed_dims", widths), ("num_heads", heads), ("mlp_ratios", mlpRatios), ("sr_ratios", reductions))
        for (width, count) in zip(widths, heads) {
            try require("embed_dims", width, divisibleBy: count, "num_heads")
        }
        for (stage, ratio) in reductions.enumerated() where !isLinear {
            let side = (min(imageSize.height, imageSize.width) - 1) / (4 << stage) + 1
            guard side >= ratio else {
                throw ArgumentError(
                    field: "img_size", found: "\(imageSize)",
                    expected: "stage \(stage + 1) at least \(ratio) tokens wide")
            }
        }
    }

    public func makeModel() -> any ImageClassifier { PyramidVisionTransformerV2(self) }

    init(_ depths: [Int], widths: [Int]? = nil, ratio: Float = 8, isLinear: Bool = false, dropPath: Float = 0.1) {
        self.depths = depths
        self.widths = widths ?? self.widths
        (mlpRatios, self.isLinear, self.dropPath) = ([ratio, ratio, 4, 4], isLinear, dropPath)
    }

    public static let b0 = Self([2, 2, 2, 2], widths: [32, 64, 160, 256])
    public static let b1 = Self([2, 2, 2, 2])
    public static let b2 = Self([3, 4, 6, 3])
    public static let b2Linear = Self([3, 4, 6, 3], isLinear: true)
    public static let b3 = Self([3, 4, 18, 3], dropPath: 0.3)
    public static let b4 = Self([3, 8, 27, 3], dropPath: 0.3)
    public static let b5 = Self([3, 6, 40, 3], ratio: 4, dropPath: 0.3)
}

extension PyramidVisionTransformerV2 {
    static let system = ModelSystem(
        id: "pvt_v2", group: "baselines", title: "PVT v2: Improved Baselines with Pyramid Vision Transformer",
        year: 2021, arxiv: "2106.13797",
        variants: [
            ("pvt_v2_b0", .b0), ("pvt_v2_b1", .b1), ("pvt_v2_b2", .b2), ("pvt_v2_b2_li", .b2Linear), ("pvt_v2_b3", .b3),
            ("pvt_v2_b4", .b4), ("pvt_v2_b5", .b5),
        ] as [(String, Configuration)],
        reference: { $0.contains("pvt_v2") ? Configuration.b2 : nil })
}
