import Tessera
import TesseraNN

/// Vision Transformer: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale" (2020), arXiv
/// 2010.11929; the small variants are from "How to train your ViT?" (2021), arXiv 2106.10270.
///
/// An image is cut into square patches, each patch becomes one token through a linear map, learned position vectors
/// are added, and a pre-norm transformer encoder classifies from a class token or from the mean of the tokens.
///
/// The reference is timm's `VisionTransformer` (huggingface/pytorch-image-models, Apache-2.0). Its GELU is the exact
/// one; the original JAX code uses the tanh approximation.
public class VisionTransformer: Module, ImageClassifier {
    /// The hyper-parameters, under the paper's names.
    public struct Configuration: ClassifierConfiguration, Hashable {
        public enum Pooling: String, Codable, Sendable, CaseIterable {
            case token
            case average = "avg"
        }

        /// The perceptron of a block.
        public enum Perceptron: String, Codable, Sendable, CaseIterable {
            case plain = "Mlp"
            /// Gated: silu(a) · b ("GLU Variants Improve Transformer", 2020, arXiv 2002.05202).
            case swiGLU = "SwiGLUPacked"
        }

        public var imageSize = Size(224)
        public var patchSize = Size(16)
        public var channels = 3
        /// 0: no head, the pooled features are the answer.
        public var classes = 1000
        public var width = 768
        public var depth = 12
        public var heads = 12
        public var mlpRatio: Float = 4
        public var perceptron = Perceptron.plain
        public var qkvBias = true
        public var hasClassToken = true
        /// Learned tokens that follow the class token and that no head reads ("Vision Transformers Need Registers",
        /// 2023, arXiv 2309.16588).
        public var registers = 0
        /// The class token and the registers get no row of the position table (DeiT III).
        public var excludesClassFromPositions = false
        /// How the position table is brought to another grid.
        public var resampling = PositionTable.Resampling.bicubicAntialiased
        public var pooling = Pooling.token
        /// The last norm acts on the mean instead of on the tokens; nil: exactly when pooling is by the mean.
        public var normalizesAfterPooling: Bool?
        /// The initial value of layer scale; nil: none.
        public var layerScale: Float?
        public var dropout: Float = 0
        public var positionDropout: Float = 0
        public var projectionDropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0

        public var grid: Size { Size(imageSize.height / patchSize.height, imageSize.width / patchSize.width) }
        var pooledNorm: Bool { normalizesAfterPooling ?? (pooling == .average) }
    }

    let clsToken: Parameter?
    let regToken: Parameter?
    package let posEmbed: Parameter
    let patchEmbed: PatchEmbedding
    package let blocks: [Block]
    let norm: LayerNorm?
    let fcNorm: LayerNorm?
    let head: Linear?
    package let configuration: Configuration

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration, prefixTokens: Int? = nil) {
        let c = configuration
        self.configuration = c
        self.prefixTokens = prefixTokens ?? ((c.hasClassToken ? 1 : 0) + c.registers)
        clsToken = c.hasClassToken ? Parameter([1, 1, c.width], .normal(1e-6)) : nil
        regToken = c.registers > 0 ? Parameter([1, c.registers, c.width], .normal(1e-6)) : nil
        let positions = c.grid.height * c.grid.width + (c.excludesClassFromPositions ? 0 : self.prefixTokens)
        posEmbed = Parameter([1, positions, c.width], .truncatedNormal(0.02))
        patchEmbed = PatchEmbedding(
            channels: c.channels, width: c.width, patch: (c.patchSize.height, c.patchSize.width))
        blocks = DropPath.linear(to: c.dropPath, depth: c.depth).map { Block(c, dropPath: $0) }
        norm = c.pooledNorm ? nil : LayerNorm(c.width, epsilon: 1e-6)
        fcNorm = c.pooledNorm ? LayerNorm(c.width, epsilon: 1e-6) : nil
        head = c.classes > 0 ? Linear(c.width, c.classes, initializer: .truncatedNormal(0.02)) : nil
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)); optional layer scale and stochastic depth on both.
    package final class Block: Module {
        package let norm1: LayerNorm
        package let attn: SelfAttention
        let ls1: LayerScale?
        let norm2: LayerNorm
        let mlp: any TokenPerceptron
        let ls2: LayerScale?
        fileprivate var dropPath: DropPath

        package init(_ c: Configuration, dropPath: Float) {
            let initializer = Initializer.truncatedNormal(0.02)
            norm1 = LayerNorm(c.width, epsilon: 1e-6, isForProducts: true)
            attn = SelfAttention(
                c.width, heads: c.heads, qkvBias: c.qkvBias, attentionDropout: c.attentionDropout,
                dropout: c.projectionDropout, initializer: initializer)
            ls1 = c.layerScale.map { LayerScale(c.width, initialValue: $0) }
            norm2 = LayerNorm(c.width, epsilon: 1e-6, isForProducts: true)
            let hidden = Int(Float(c.width) * c.mlpRatio)
            switch c.perceptron {
            case .plain:
                mlp = FeedForward(c.width, hidden: hidden, dropout: c.projectionDropout, initializer: initializer)
            case .swiGLU:
                mlp = SwiGLU(
                    c.width, hidden: hidden / 2, dropout: c.projectionDropout, initializer: initializer)
            }
            ls2 = c.layerScale.map { LayerScale(c.width, initialValue: $0) }
            self.dropPath = DropPath(dropPath)
        }

        /// Every token attends, or only the first `queries` ones, and they alone are returned.
        package func callAsFunction(_ tokens: Tensor, queries: Int? = nil) -> Tensor {
            let kept = queries.map { tokens.sliced(axis: 1, from: 0, to: $0) } ?? tokens
            let x = dropPath.adding(to: kept, from: tokens) { tokens, residual in
                scaled(ls1, residual) { attn(norm1(tokens), queries: queries, residual: $0) }
            }
            return dropPath.adding(to: x) { x, residual in scaled(ls2, residual) { mlp(norm2(x), residual: $0) } }
        }

        /// A branch, which adds the residual in its last product if nothing scales it before.
        private func scaled(_ scale: LayerScale?, _ residual: Tensor?, _ branch: (Tensor?) -> Tensor) -> Tensor {
            guard let scale else { return branch(residual) }
            let y = scale(branch(nil))
            return residual.map { $0 + y } ?? y
        }
    }

    /// Where the heads read nothing but the leading tokens, the last block computes no others.
    public func classify(_ image: Tensor) -> Classification {
        classify(tokens: encode(image, keeping: configuration.pooling == .token ? prefixTokens : nil).tokens)
    }

    /// What the heads make of normalised tokens.
    func classify(tokens z: Tensor) -> Classification {
        var pooled: Tensor
        switch configuration.pooling {
        case .token: pooled = token(0, of: z)
        case .average: pooled = patches(of: z).mean(axes: [1])
        }
        if let fcNorm { pooled = fcNorm(pooled) }
        let logits = head.map { $0(Dropout(configuration.dropout)(pooled)) }
        return Classification(logits: logits ?? pooled, pooled: pooled)
    }

    public func features(_ image: Tensor) -> Features {
        let (z, grid) = encode(image)
        return Features(
            classify(tokens: z),
            tokens: patches(of: z).reshaped([z.shape[0], grid.height, grid.width, configuration.width]))
    }

    /// Patches to normalised tokens `[batch, prefix + patches, width]`, or only the first `keeping` of them.
    func encode(_ image: Tensor, keeping: Int? = nil) -> (tokens: Tensor, grid: Size) {
        let (tokens, grid) = embedded(image)
        var x = tokens
        for block in blocks.dropLast() {
            x = BlockProbe.show(checkpointed(block, x) { block($0) }, prefix: prefixTokens, grid: grid)
        }
        if let last = blocks.last { x = checkpointed(last, x) { last($0, queries: keeping) } }
        if keeping == nil { x = BlockProbe.show(x, prefix: prefixTokens, grid: grid) }
        return (norm.map { $0(x) } ?? x, grid)
    }

    /// What the first block sees: patches behind the learned tokens, all with their positions,
    /// `[batch, prefix + patches, width]`.
    /// - Parameter trainsPositions: whether gradients reach the position table
    package func embedded(_ image: Tensor, trainsPositions: Bool = true) -> (tokens: Tensor, grid: Size) {
        let patches = patchEmbed(image)
        let grid = Size(patches.shape[1], patches.shape[2])
        let count = grid.height * grid.width
        var x = patches.reshaped([patches.shape[0], count, configuration.width])
        let positions = PositionTable.resampled(
            trainsPositions ? posEmbed.tensor : posEmbed.value, prefix: positionPrefix,
            from: (configuration.grid.height, configuration.grid.width), to: (grid.height, grid.width),
            configuration.resampling)
        let prefix = prefixParameters.map {
            $0.tensor.broadcast(to: [x.shape[0], $0.shape[1], configuration.width])
        }
        if configuration.excludesClassFromPositions {
            x = concatenate(prefix + [x + positions], axis: 1)
        } else {
            x = (prefix.isEmpty ? x : concatenate(prefix + [x], axis: 1)) + positions
        }
        return (Dropout(configuration.positionDropout)(x), grid)
    }

    /// Tokens after the first `count` blocks.
    package func transformed(_ tokens: Tensor, blocks count: Int) -> Tensor {
        blocks[..<count].reduce(tokens) { x, block in checkpointed(block, x) { block($0) } }
    }

    /// Lets every block drop its branches as often as the last one.
    package func dropPathsEqually() {
        for block in blocks { block.dropPath = DropPath(configuration.dropPath) }
    }

    /// The norm behind the last block, wherever classification applies it: to tokens or to their mean.
    package var lastNorm: LayerNorm { norm ?? fcNorm! }

    func token(_ index: Int, of z: Tensor) -> Tensor {
        z.sliced(axis: 1, from: index, to: index + 1).reshaped([z.shape[0], configuration.width])
    }

    private func patches(of z: Tensor) -> Tensor { z.sliced(axis: 1, from: prefixTokens, to: z.shape[1]) }

    /// The learned tokens that lead the sequence, in order.
    var prefixParameters: [Parameter] { [clsToken, regToken].compactMap { $0 } }

    /// Rows of the position table without a place in the image.
    package var positionPrefix: Int { configuration.excludesClassFromPositions ? 0 : prefixTokens }

    public let prefixTokens: Int
    public var headPrefixes: [String] { ["head."] }
    public var undecayedKeys: Set<String> { ["pos_embed", "cls_token", "reg_token"] }

    /// How a position table for another image size is converted.
    var resampling: PositionTable.Resampling { configuration.resampling }

    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? {
        guard key == "pos_embed", tensor.rank == 3, tensor.shape[0] == 1, tensor.shape[2] == configuration.width,
            let grid = PositionTable.squareGrid(tensor.shape[1], prefix: positionPrefix)
        else { return nil }
        return PositionTable.resampled(
            tensor, prefix: positionPrefix, from: grid, to: (configuration.grid.height, configuration.grid.width),
            resampling)
    }

    /// Checkpoint tensors in which the class token has a row of the position table, for a model where it has none: the
    /// row is added to the token once and for all.
    public func withPositionOfClassToken(in tensors: [String: Tensor]) -> [String: Tensor] {
        guard configuration.excludesClassFromPositions, let token = tensors["cls_token"],
            let table = tensors["pos_embed"], table.rank == 3, token.shape == [1, 1, table.shape[2]],
            PositionTable.squareGrid(table.shape[1], prefix: 0) == nil,
            PositionTable.squareGrid(table.shape[1], prefix: 1) != nil
        else { return tensors }
        var tensors = tensors
        tensors["cls_token"] = token + table.sliced(axis: 1, from: 0, to: 1)
        tensors["pos_embed"] = table.sliced(axis: 1, from: 1, to: table.shape[1])
        return tensors
    }
}

/// What follows the attention in a block.
protocol TokenPerceptron: Module {
    /// `[..., channels]` → the same; `residual` is added to the result.
    func callAsFunction(_ x: Tensor, residual: Tensor?) -> Tensor
}

extension FeedForward: TokenPerceptron {}
extension SwiGLU: TokenPerceptron {}

extension VisionTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        let patch = try arguments.pair("patch_size", default: (patchSize.height, patchSize.width), in: Limits.side)
        (imageSize, patchSize) = (Size(image.0, image.1), Size(patch.0, patch.1))
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: 0...Limits.classes.upperBound)
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depth = try arguments.int("depth", default: depth, in: Limits.depth)
        heads = try arguments.int("num_heads", default: heads, in: Limits.heads)
        mlpRatio = Float(try arguments.double("mlp_ratio", default: Double(mlpRatio), in: Limits.ratio))
        perceptron = try arguments.choice("mlp_layer", default: perceptron)
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        hasClassToken = try arguments.bool("class_token", default: hasClassToken)
        registers = try arguments.int("reg_tokens", default: registers, in: 0...1024)
        excludesClassFromPositions = try arguments.bool("no_embed_class", default: excludesClassFromPositions)
        pooling = try arguments.choice("global_pool", default: pooling)
        // A text (such as "default: …") describes the default; only true and false decide.
        normalizesAfterPooling = arguments.json("fc_norm")?.bool ?? normalizesAfterPooling
        layerScale = try arguments.optionalDouble("init_values").map { Float($0) } ?? layerScale
        dropout = try arguments.rate("drop_rate", dropout)
        positionDropout = try arguments.rate("pos_drop_rate", positionDropout)
        projectionDropout = try arguments.rate("proj_drop_rate", projectionDropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        // Other image sizes than `img_size` always work here.
        _ = try arguments.bool("dynamic_img_size", default: true)
        guard try arguments.double("norm_eps", default: 1e-6) == 1e-6 else {
            throw ArgumentError(field: "norm_eps", found: "another value", expected: "1e-6")
        }
    }

    public func validate() throws {
        try require("embed_dim", width, divisibleBy: heads, "num_heads")
        try require("img_size", imageSize.height, divisibleBy: patchSize.height, "patch_size")
        try require("img_size", imageSize.width, divisibleBy: patchSize.width, "patch_size")
        guard hasClassToken || pooling == .average else {
            throw ArgumentError(field: "global_pool", found: "token", expected: "avg, as there is no class token")
        }
    }

    public func makeModel() -> any ImageClassifier { VisionTransformer(self) }

    init(_ width: Int, _ depth: Int, _ heads: Int, patch: Int, image: Int = 224) {
        (self.width, self.depth, self.heads) = (width, depth, heads)
        (patchSize, imageSize) = (Size(patch), Size(image))
    }

    /// No class token, the norm before the mean.
    func averaged() -> Self {
        var copy = self
        (copy.hasClassToken, copy.pooling, copy.normalizesAfterPooling) = (false, .average, false)
        return copy
    }

    public static let tiny16 = Self(192, 12, 3, patch: 16)
    public static let small16 = Self(384, 12, 6, patch: 16)
    public static let small32 = Self(384, 12, 6, patch: 32)
    public static let base8 = Self(768, 12, 12, patch: 8)
    public static let base16 = Self(768, 12, 12, patch: 16)
    public static let base32 = Self(768, 12, 12, patch: 32)
    public static let large14 = Self(1024, 24, 16, patch: 14)
    public static let large16 = Self(1024, 24, 16, patch: 16)
    public static let large32 = Self(1024, 24, 16, patch: 32)
    public static let huge14 = Self(1280, 32, 16, patch: 14)

    /// The same at another image size.
    public func at(_ side: Int) -> Self {
        var copy = self
        copy.imageSize = Size(side)
        return copy
    }
}

extension VisionTransformer {
    static let system = ModelSystem(
        id: "vit", title: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", year: 2020,
        arxiv: "2010.11929",
        variants: [
            ("vit_tiny_patch16_224", .tiny16), ("vit_tiny_patch16_384", .tiny16.at(384)),
            ("vit_small_patch32_224", .small32), ("vit_small_patch32_384", .small32.at(384)),
            ("vit_small_patch16_224", .small16), ("vit_small_patch16_384", .small16.at(384)),
            ("vit_base_patch32_224", .base32), ("vit_base_patch32_384", .base32.at(384)),
            ("vit_base_patch16_224", .base16), ("vit_base_patch16_384", .base16.at(384)),
            ("vit_base_patch8_224", .base8),
            ("vit_large_patch32_224", .large32), ("vit_large_patch32_384", .large32.at(384)),
            ("vit_large_patch16_224", .large16), ("vit_large_patch16_384", .large16.at(384)),
            ("vit_large_patch14_224", .large14), ("vit_huge_patch14_224", .huge14),
            ("vit_base_patch16_gap_224", .base16.averaged()), ("vit_base_patch32_gap_224", .base32.averaged()),
            ("vit_small_patch16_gap_224", .small16.averaged()),
        ] as [(String, Configuration)],
        reference: { _ in Configuration() })
}
