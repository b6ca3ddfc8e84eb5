import Tessera
import TesseraNN

/// DHVT: "Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on Small Datasets" (2022), arXiv
/// 2210.05958.
///
/// A plain vision transformer for training from scratch on little data. Patches are embedded by a stack of overlapping
/// convolutions instead of learned positions; the perceptron contains a depthwise convolution, and what it made of the
/// patches rescales the class token; and every head sends a token of its own into the attention, so that heads
/// exchange what they saw.
///
/// The reference is ArieSeirack/DHVT (Apache-2.0), where the token grid must be square; here it may have any shape.
public final class DynamicHybridTransformer: Module, ImageClassifier {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        /// 2, 4 or 16: one halving convolution for each factor of two.
        public var patchSize = 16
        public var channels = 3
        public var classes = 1000
        public var width = 768
        public var depth = 12
        public var heads = 12
        public var mlpRatio: Float = 4
        public var qkvBias = true
        /// After the projection of the attention only.
        public var dropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0

        /// Channels after each convolution of the patch embedding.
        var stemWidths: [Int] {
            switch patchSize {
            case 2: [width]
            case 4: [width / 2, width]
            default: [width / 8, width / 4, width / 2, width]
            }
        }
    }

    let clsToken: Parameter
    let patchEmbed: OverlappingPatchEmbedding
    let blocks: [Block]
    let norm: LayerNorm
    let head: Linear

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        clsToken = Parameter([1, 1, c.width], .truncatedNormal(0.02))
        patchEmbed = OverlappingPatchEmbedding(c)
        blocks = DropPath.linear(to: c.dropPath, depth: c.depth).map { Block(c, dropPath: $0) }
        norm = LayerNorm(c.width, epsilon: 1e-6)
        head = Linear(c.width, c.classes, initializer: .truncatedNormal(0.02))
    }

    /// x · α + β for every channel.
    final class Affine: Module {
        let alpha: Parameter
        let beta: Parameter

        init(_ channels: Int) {
            alpha = Parameter([1, channels, 1, 1], .ones)
            beta = Parameter([1, channels, 1, 1], .zeros)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            x * alpha.tensor.reshaped([x.shape[-1]]) + beta.tensor.reshaped([x.shape[-1]])
        }
    }

    /// Convolutions of stride 2 between two affine maps ("sequential overlapping patch embedding").
    final class OverlappingPatchEmbedding: Module {
        let preAffine: Affine
        let proj: [any Layer]
        let postAffine: Affine

        init(_ c: Configuration) {
            preAffine = Affine(c.channels)
            let stem = ConvolutionNormActivation.stem([c.channels] + c.stemWidths)
            // Only where it is the one convolution has it an activation behind it.
            proj = c.patchSize == 2 ? stem + [ActivationLayer(.gelu)] : stem
            postAffine = Affine(c.width)
        }

        /// `[batch, height, width, channels]` → `[batch, rows, columns, width]`
        func callAsFunction(_ image: Tensor) -> Tensor { postAffine(proj(preAffine(image))) }
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)).
    final class Block: Module {
        let norm1: LayerNorm
        let attn: HeadInteractedAttention
        let norm2: LayerNorm
        let mlp: AggregationFeedForward
        private let dropPath: DropPath

        init(_ c: Configuration, dropPath: Float) {
            norm1 = LayerNorm(c.width, epsilon: 1e-6)
            attn = HeadInteractedAttention(c)
            norm2 = LayerNorm(c.width, epsilon: 1e-6)
            mlp = AggregationFeedForward(c.width, hidden: Int(Float(c.width) * c.mlpRatio))
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor, grid: Size) -> Tensor {
            let x = x + dropPath(attn(norm1(x)))
            return x + dropPath(mlp(norm2(x), grid: grid))
        }
    }

    /// Self-attention over the tokens and one token for every head, made of the mean of what that head sees; afterwards
    /// the class token takes up the mean of the head tokens.
    final class HeadInteractedAttention: Module {
        let qkv: Linear
        let proj: Linear
        let htProj: Linear
        let htNorm: LayerNorm
        let posEmbed: Parameter
        private let heads: Int
        private let attentionDropout: Float
        private let dropout: Dropout

        init(_ c: Configuration) {
            let initializer = Initializer.truncatedNormal(0.02)
            qkv = Linear(c.width, 3 * c.width, bias: c.qkvBias, initializer: initializer)
            proj = Linear(c.width, c.width, initializer: initializer)
            htProj = Linear(c.width / c.heads, c.width, initializer: initializer)
            htNorm = LayerNorm(c.width / c.heads, epsilon: 1e-5)
            posEmbed = Parameter([1, c.heads, c.width], initializer)
            (heads, attentionDropout, dropout) = (c.heads, c.attentionDropout, Dropout(c.dropout))
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let (batch, count, width) = (x.shape[0], x.shape[1], x.shape[2])
            let projected = htProj(x.mean(axes: [1]).reshaped([batch, heads, width / heads]))
            let normalized = htNorm(projected.reshaped([batch, heads, heads, width / heads]))
            let headTokens = normalized.gelu().reshaped([batch, heads, width]) + posEmbed.tensor
            let pass = attentionDropout > 0 ? TrainingPass.current : nil
            let mixed = attention(
                packed: qkv(concatenate([x, headTokens], axis: 1)), heads: heads,
                dropout: pass == nil ? 0 : attentionDropout, seed: pass?.nextSeed() ?? 0)
            let parts = proj(mixed).split(axis: 1, sizes: [1, count - 1, heads])
            let token = parts[0] + parts[2].mean(axes: [1], keepingAxes: true)
            return dropout(concatenate([token, parts[1]], axis: 1))
        }
    }

    /// An inverted residual on the patches; the class token is multiplied by what a squeeze and excitation makes of
    /// them, and passes through nothing else ("dynamic aggregation feed-forward").
    final class AggregationFeedForward: Module {
        let conv1: Convolution2D
        let bn1: BatchNorm
        let conv2: Convolution2D
        let bn2: BatchNorm
        let conv3: Convolution2D
        let bn3: BatchNorm
        let compress: Linear
        let excitation: Linear

        init(_ width: Int, hidden: Int) {
            conv1 = Convolution2D(width, hidden, kernel: 1)
            bn1 = BatchNorm(hidden)
            conv2 = Convolution2D(hidden, hidden, kernel: 3, padding: 1, groups: hidden)
            bn2 = BatchNorm(hidden)
            conv3 = Convolution2D(hidden, width, kernel: 1)
            bn3 = BatchNorm(width)
            compress = Linear(width, width / 4, initializer: .truncatedNormal(0.02))
            excitation = Linear(width / 4, width, initializer: .truncatedNormal(0.02))
        }

        func callAsFunction(_ x: Tensor, grid: Size) -> Tensor {
            let (batch, count, width) = (x.shape[0], x.shape[1], x.shape[2])
            let parts = x.split(axis: 1, sizes: [1, count - 1])
            let map = parts[1].reshaped([batch, grid.height, grid.width, width])
            let expanded = bn1(conv1(map)).gelu()
            let mixed = expanded + bn2(conv2(expanded)).gelu()
            let patches = bn3(conv3(mixed))
            // No sigmoid: the factors may be negative.
            let factors = excitation(compress(patches.globalAveragePool(), activation: .gelu))
            return concatenate(
                [parts[0] * factors.reshaped([batch, 1, width]), patches.reshaped([batch, count - 1, width])], axis: 1)
        }
    }

    public func features(_ image: Tensor) -> Features {
        let map = patchEmbed(image)
        let (batch, width) = (map.shape[0], map.shape[3])
        let grid = Size(map.shape[1], map.shape[2])
        let count = grid.height * grid.width
        var x = concatenate(
            [clsToken.tensor.broadcast(to: [batch, 1, width]), map.reshaped([batch, count, width])], axis: 1)
        for block in blocks {
            x = BlockProbe.show(checkpointed(block, x) { block($0, grid: grid) }, prefix: 1, grid: grid)
        }
        let parts = norm(x).split(axis: 1, sizes: [1, count])
        let pooled = parts[0].reshaped([batch, width])
        return Features(
            logits: head(pooled), pooled: pooled, tokens: parts[1].reshaped([batch, grid.height, grid.width, width]))
    }

    public var headPrefixes: [String] { ["head."] }
    public var prefixTokens: Int { 1 }
    public var undecayedKeys: Set<String> { ["cls_token"] }
}

extension DynamicHybridTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        patchSize = try arguments.int("patch_size", default: patchSize, in: Limits.side)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depth = try arguments.int("depth", default: depth, in: Limits.depth)
        heads = try arguments.int("num_heads", default: heads, in: Limits.heads)
        mlpRatio = Float(try arguments.double("mlp_ratio", default: Double(mlpRatio), in: Limits.ratio))
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        dropout = try arguments.rate("drop_rate", dropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        guard try arguments.bool("apply_dhvt", default: true) else {
            throw ArgumentError(field: "apply_dhvt", found: "false", expected: "true (a plain ViT is the system vit)")
        }
    }

    public func validate() throws {
        guard [2, 4, 16].contains(patchSize) else {
            throw ArgumentError(field: "patch_size", found: "\(patchSize)", expected: "2, 4 or 16")
        }
        try require("embed_dim", width, divisibleBy: heads, "num_heads")
        try require(
            "embed_dim", width, divisibleBy: max(4, patchSize / 2), "what the patch embedding and excitation halve")
    }

    public func makeModel() -> any ImageClassifier { DynamicHybridTransformer(self) }

    init(_ width: Int, heads: Int, image: Int, patch: Int, classes: Int) {
        (self.width, self.heads, self.classes) = (width, heads, classes)
        (imageSize, patchSize, dropPath) = (Size(image), patch, 0.1)
    }

    public static let tinyCIFAR4 = Self(192, heads: 4, image: 32, patch: 4, classes: 100)
    public static let smallCIFAR4 = Self(384, heads: 8, image: 32, patch: 4, classes: 100)
    public static let tinyCIFAR2 = Self(192, heads: 4, image: 32, patch: 2, classes: 100)
    public static let smallCIFAR2 = Self(384, heads: 8, image: 32, patch: 2, classes: 100)
    public static let tinyDomain = Self(192, heads: 4, image: 224, patch: 16, classes: 345)
    public static let smallDomain = Self(384, heads: 6, image: 224, patch: 16, classes: 345)
    public static let tiny = Self(192, heads: 3, image: 224, patch: 16, classes: 1000)
    public static let small = Self(384, heads: 6, image: 224, patch: 16, classes: 1000)
}

extension DynamicHybridTransformer {
    static let system = ModelSystem(
        id: "dhvt",
        title: "Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on Small Datasets",
        year: 2022, arxiv: "2210.05958",
        variants: [
            ("dhvt_tiny_cifar_patch4", .tinyCIFAR4), ("dhvt_small_cifar_patch4", .smallCIFAR4),
            ("dhvt_tiny_cifar_patch2", .tinyCIFAR2), ("dhvt_small_cifar_patch2", .smallCIFAR2),
            ("dhvt_tiny_domain_patch16", .tinyDomain), ("dhvt_small_domain_patch16", .smallDomain),
            ("dhvt_tiny_imagenet_patch16", .tiny), ("dhvt_small_imagenet_patch16", .small),
        ] as [(String, Configuration)],
        reference: { _ in Configuration() })
}
