import Foundation
import Tessera
import TesseraNN

/// XCiT: "XCiT: Cross-Covariance Image Transformers" (2021), arXiv 2106.09681; with the embeddings SNE, P-SNE and F-SNE
/// of "Rethinking Query, Key, and Value Embedding in Vision Transformer under Tiny Model Constraints" (2021), arXiv
/// 2111.10017.
///
/// Channels instead of tokens attend to each other: softmax(τ k̂ᵀ q̂) over normalised keys and queries is a small matrix
/// for each head, so the cost is linear in the number of tokens. A depthwise convolution lets neighbouring tokens
/// talk, and a class token is only added for the last layers. The second paper makes queries, keys and values by two
/// layers with a ReLU between them, of which one or both may be shared.
///
/// The reference for XCiT is timm's `Xcit` (huggingface/pytorch-image-models, Apache-2.0). The embeddings have no public
/// code; where their abstract leaves a choice, it is an option of the configuration.
public final class CrossCovarianceTransformer: Module, ImageClassifier {
    public struct Configuration: ClassifierConfiguration, Hashable {
        /// How queries, keys and values are made of tokens.
        public enum Embedding: String, Codable, Sendable, CaseIterable {
            case linear
            /// Two layers for each of the three.
            case separate = "sne"
            /// One of the two layers is shared.
            case partlyShared = "psne"
            /// Both are shared; a learned code tells queries, keys and values apart.
            case fullyShared = "fsne"
        }
        public enum SharedLayer: String, Codable, Sendable, CaseIterable { case first, second }
        public enum CodeOperation: String, Codable, Sendable, CaseIterable { case concatenate, add }

        public var imageSize = Size(224)
        /// 8 or 16.
        public var patchSize = 16
        public var channels = 3
        public var classes = 1000
        public var width = 768
        public var depth = 12
        public var heads = 12
        public var mlpRatio: Float = 4
        public var qkvBias = true
        /// Layers at the end in which only the class token attends.
        public var classLayers = 2
        public var hasPositions = true
        /// The initial value of layer scale.
        public var eta: Float = 1
        /// Whether the class layers' second norm is for all tokens.
        public var normalizesTokens = false
        public var embedding = Embedding.linear
        /// Width between the two layers of the embedding; nil: that of the tokens.
        public var embeddingHidden: Int?
        /// Width of the codes of the fully shared embedding; nil: that of the tokens.
        public var codeWidth: Int?
        public var sharedLayer = SharedLayer.first
        public var codeOperation = CodeOperation.concatenate
        public var dropout: Float = 0
        public var positionDropout: Float = 0
        public var projectionDropout: Float = 0
        public var attentionDropout: Float = 0
        /// The same for all blocks.
        public var dropPath: Float = 0

        var stemWidths: [Int] {
            (patchSize == 16 ? [width / 8] : []) + [width / 4, width / 2, width]
        }
        var hidden: Int { Int(Float(width) * mlpRatio) }
    }

    let clsToken: Parameter
    let patchEmbed: Stem
    let posEmbed: FourierPositions?
    let blocks: [Block]
    let clsAttnBlocks: [ClassBlock]
    let norm: LayerNorm
    let head: Linear
    let configuration: Configuration

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        clsToken = Parameter([1, 1, c.width], .truncatedNormal(0.02))
        patchEmbed = Stem(c)
        posEmbed = c.hasPositions ? FourierPositions(c.width) : nil
        blocks = (0..<c.depth).map { _ in Block(c) }
        clsAttnBlocks = (0..<c.classLayers).map { _ in ClassBlock(c) }
        norm = LayerNorm(c.width, epsilon: 1e-6)
        head = Linear(c.width, c.classes, initializer: .truncatedNormal(0.02))
    }

    final class Stem: Module {
        let proj: [any Layer]

        init(_ c: Configuration) { proj = ConvolutionNormActivation.stem([c.channels] + c.stemWidths) }
    }

    /// Sines and cosines of rows and columns, relative to the size of the grid, through a linear map: any grid has its
    /// positions.
    final class FourierPositions: Module {
        let tokenProjection: Convolution2D

        init(_ width: Int) { tokenProjection = Convolution2D(64, width, kernel: 1) }

        /// `[1, rows, columns, width]`
        func callAsFunction(rows: Int, columns: Int) -> Tensor {
            func waves(_ index: Int, of count: Int) -> [Float] {
                let place = Float(index + 1) / (Float(count) + 1e-6) * (2 * Float.pi)
                return (0..<32).map { k in
                    let angle = place / pow(10000, Float(2 * (k / 2)) / 32)
                    return k % 2 == 0 ? sin(angle) : cos(angle)
                }
            }
            let (down, across) = ((0..<rows).map { waves($0, of: rows) }, (0..<columns).map { waves($0, of: columns) })
            let table = down.flatMap { row in across.flatMap { row + $0 } }
            return tokenProjection(Tensor(table, [1, rows, columns, 64]))
        }
    }

    /// Channel attention, then local patch interaction, then a perceptron, each a scaled residual.
    final class Block: Module {
        let norm1: LayerNorm
        let attn: CrossCovarianceAttention
        let norm3: LayerNorm
        let localMp: LocalPatchInteraction
        let norm2: LayerNorm
        let mlp: FeedForward
        let gamma1: Parameter
        let gamma3: Parameter
        let gamma2: Parameter
        private let dropPath: DropPath

        init(_ c: Configuration) {
            norm1 = LayerNorm(c.width, epsilon: 1e-6)
            attn = CrossCovarianceAttention(c)
            norm3 = LayerNorm(c.width, epsilon: 1e-6)
            localMp = LocalPatchInteraction(c.width)
            norm2 = LayerNorm(c.width, epsilon: 1e-6)
            mlp = FeedForward(
                c.width, hidden: c.hidden, dropout: c.projectionDropout, initializer: .truncatedNormal(0.02))
            gamma1 = Parameter([c.width], .constant(c.eta))
            gamma3 = Parameter([c.width], .constant(c.eta))
            gamma2 = Parameter([c.width], .constant(c.eta))
            dropPath = DropPath(c.dropPath)
        }

        func callAsFunction(_ x: Tensor, grid: Size) -> Tensor {
            var x = x + dropPath(attn(norm1(x)) * gamma1.tensor)
            x = x + dropPath(localMp(norm3(x), grid: grid) * gamma3.tensor)
            return x + dropPath(mlp(norm2(x)) * gamma2.tensor)
        }
    }

    /// Attention between the channels of a head. Queries and keys have length one over the tokens, channel by channel;
    /// a learned temperature takes the place of 1/√size.
    final class CrossCovarianceAttention: Module {
        let temperature: Parameter
        let qkv: Linear?
        let q1, k1, v1, fc1: Linear?
        let code: Parameter?
        let q2, k2, v2, fc2: Linear?
        let proj: Linear
        private let heads: Int
        private let attentionDropout: Dropout
        private let dropout: Dropout

        init(_ c: Configuration) {
            let (width, initializer) = (c.width, Initializer.truncatedNormal(0.02))
            let hidden = c.embeddingHidden ?? width
            let codeWidth = c.codeWidth ?? width
            let joins = c.embedding == .fullyShared && c.codeOperation == .concatenate
            let sharesFirst = c.embedding == .fullyShared || c.embedding == .partlyShared && c.sharedLayer == .first
            let sharesSecond = c.embedding == .fullyShared || c.embedding == .partlyShared && c.sharedLayer == .second
            func layer(_ exists: Bool, _ inputs: Int, _ outputs: Int) -> Linear? {
                exists && c.embedding != .linear ? Linear(inputs, outputs, initializer: initializer) : nil
            }
            temperature = Parameter([c.heads, 1, 1], .ones)
            qkv = c.embedding == .linear ? Linear(width, 3 * width, bias: c.qkvBias, initializer: initializer) : nil
            q1 = layer(!sharesFirst, width, hidden)
            k1 = layer(!sharesFirst, width, hidden)
            v1 = layer(!sharesFirst, width, hidden)
            fc1 = layer(sharesFirst, width + (joins ? codeWidth : 0), hidden)
            code = c.embedding == .fullyShared ? Parameter([3, codeWidth], initializer) : nil
            q2 = layer(!sharesSecond, hidden, width)
            k2 = layer(!sharesSecond, hidden, width)
            v2 = layer(!sharesSecond, hidden, width)
            fc2 = layer(sharesSecond, hidden, width)
            proj = Linear(width, width, initializer: initializer)
            (heads, attentionDropout, dropout) = (c.heads, Dropout(c.attentionDropout), Dropout(c.projectionDropout))
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let (batch, count, width) = (x.shape[0], x.shape[1], x.shape[2])
            let parts = embedded(x).map {
                $0.reshaped([batch, count, heads, width / heads]).transposed([0, 2, 1, 3])
            }
            let (q, k) = (normalized(parts[0]), normalized(parts[1]))
            let weights = (q.multiplied(by: k, transposing: (true, false)) * temperature.tensor).softmax(axis: -1)
            let mixed = parts[2].multiplied(by: attentionDropout(weights), transposing: (false, true))
            return dropout(proj(mixed.transposed([0, 2, 1, 3]).reshaped([batch, count, width])))
        }

        /// Queries, keys and values.
        private func embedded(_ z: Tensor) -> [Tensor] {
            if let qkv { return qkv(z).split(axis: 2, sizes: [Int](repeating: z.shape[2], count: 3)) }
            let hidden: [Tensor]
            if let fc1, let code {
                // The first layer is linear in token and code: the tokens pass through it once, not three times.
                let (width, inputs) = (z.shape[2], fc1.weight.shape[1])
                let columns = fc1.weight.tensor.sliced(axis: 1, from: 0, to: width)
                let codeColumns = fc1.weight.tensor.sliced(axis: 1, from: inputs - code.shape[1], to: inputs)
                let tokens = linear(z, weight: columns, bias: fc1.bias?.tensor)
                let offsets = linear(code.tensor, weight: codeColumns)
                hidden = offsets.split(axis: 0, sizes: [1, 1, 1]).map { (tokens + $0.reshaped([$0.count])).relu() }
            } else if let fc1 {
                hidden = [Tensor](repeating: fc1(z, activation: .relu), count: 3)
            } else {
                hidden = [q1, k1, v1].map { $0!(z, activation: .relu) }
            }
            return zip([q2, k2, v2], hidden).map { layer, x in (layer ?? fc2!)(x) }
        }

        private func normalized(_ x: Tensor) -> Tensor {
            // 10⁻²⁴ under the root is the reference's 10⁻¹² above it, with a gradient at zero.
            x / maximum(x.squared().sum(axes: [2], keepingAxes: true), Tensor(1e-24)).squareRoot()
        }
    }

    /// Two depthwise convolutions with GELU and batch norm, in this order, between them.
    final class LocalPatchInteraction: Module {
        let conv1: Convolution2D
        let bn: BatchNorm
        let conv2: Convolution2D

        init(_ width: Int) {
            conv1 = Convolution2D(width, width, kernel: 3, padding: 1, groups: width)
            bn = BatchNorm(width)
            conv2 = Convolution2D(width, width, kernel: 3, padding: 1, groups: width)
        }

        func callAsFunction(_ x: Tensor, grid: Size) -> Tensor {
            let map = x.reshaped([x.shape[0], grid.height, grid.width, x.shape[2]])
            return conv2(bn(conv1(map, activation: .gelu))).reshaped(x.shape)
        }
    }

    /// Only the class token attends, "Going deeper with Image Transformers" (2021), arXiv 2103.17239. The other tokens
    /// change too, and the second residual of the class token starts from its normalised value: so it is in the
    /// published weights.
    final class ClassBlock: Module {
        let norm1: LayerNorm
        let attn: ClassAttention
        let norm2: LayerNorm
        let mlp: FeedForward
        let gamma1: Parameter
        let gamma2: Parameter
        private let normalizesTokens: Bool

        init(_ c: Configuration) {
            norm1 = LayerNorm(c.width, epsilon: 1e-6)
            attn = ClassAttention(c)
            norm2 = LayerNorm(c.width, epsilon: 1e-6)
            mlp = FeedForward(
                c.width, hidden: c.hidden, dropout: c.projectionDropout, initializer: .truncatedNormal(0.02))
            gamma1 = Parameter([c.width], .constant(c.eta))
            gamma2 = Parameter([c.width], .constant(c.eta))
            normalizesTokens = c.normalizesTokens
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let sizes = [1, x.shape[1] - 1]
            let y = norm1(x)
            let attended = concatenate([attn(y), y.split(axis: 1, sizes: sizes)[1]], axis: 1)
            var parts = (x + attended * gamma1.tensor).split(axis: 1, sizes: sizes)
            parts = [norm2(parts[0]), normalizesTokens ? norm2(parts[1]) : parts[1]]
            return concatenate([parts[0] + mlp(parts[0]) * gamma2.tensor, parts[1] + parts[1]], axis: 1)
        }
    }

    final class ClassAttention: Module {
        let q: Linear
        let k: Linear
        let v: Linear
        let proj: Linear
        private let heads: Int
        private let attentionDropout: Float
        private let dropout: Dropout

        init(_ c: Configuration) {
            let initializer = Initializer.truncatedNormal(0.02)
            q = Linear(c.width, c.width, bias: c.qkvBias, initializer: initializer)
            k = Linear(c.width, c.width, bias: c.qkvBias, initializer: initializer)
            v = Linear(c.width, c.width, bias: c.qkvBias, initializer: initializer)
            proj = Linear(c.width, c.width, initializer: initializer)
            (heads, attentionDropout, dropout) = (c.heads, c.attentionDropout, Dropout(c.projectionDropout))
        }

        /// The class token alone, `[batch, 1, width]`.
        func callAsFunction(_ x: Tensor) -> Tensor {
            let pass = attentionDropout > 0 ? TrainingPass.current : nil
            let mixed = attention(
                q(x.sliced(axis: 1, from: 0, to: 1)), k(x), v(x), heads: heads,
                dropout: pass == nil ? 0 : attentionDropout, seed: pass?.nextSeed() ?? 0)
            return dropout(proj(mixed))
        }
    }

    public func features(_ image: Tensor) -> Features {
        var map = patchEmbed.proj(image)
        let (batch, width, grid) = (map.shape[0], map.shape[3], Size(map.shape[1], map.shape[2]))
        if let posEmbed { map = map + posEmbed(rows: grid.height, columns: grid.width) }
        let count = grid.height * grid.width
        var x = Dropout(configuration.positionDropout)(map.reshaped([batch, count, width]))
        for block in blocks {
            x = BlockProbe.show(checkpointed(block, x) { block($0, grid: grid) }, prefix: 0, grid: grid)
        }
        x = concatenate([clsToken.tensor.broadcast(to: [batch, 1, width]), x], axis: 1)
        for block in clsAttnBlocks { x = block(x) }
        let parts = norm(x).split(axis: 1, sizes: [1, count])
        let pooled = parts[0].reshaped([batch, width])
        return Features(
            logits: head(Dropout(configuration.dropout)(pooled)), pooled: pooled,
            tokens: parts[1].reshaped([batch, grid.height, grid.width, width]))
    }

    public var headPrefixes: [String] { ["head."] }
    public var prefixTokens: Int { 1 }
    public var undecayedKeys: Set<String> {
        Set(parameters.map(\.key).filter { $0.hasSuffix(".temperature") } + ["cls_token"])
    }
}

extension CrossCovarianceTransformer.Configuration {
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
        classLayers = try arguments.int("cls_attn_layers", default: classLayers, in: 0...1024)
        hasPositions = try arguments.bool("use_pos_embed", default: hasPositions)
        eta = Float(try arguments.double("eta", default: Double(eta)))
        normalizesTokens = try arguments.bool("tokens_norm", default: normalizesTokens)
        embedding = try arguments.choice("qkv_embedding", default: embedding)
        embeddingHidden = try arguments.optionalInt("embedding_hidden", in: Limits.width) ?? embeddingHidden
        codeWidth = try arguments.optionalInt("code_dim", in: Limits.width) ?? codeWidth
        sharedLayer = try arguments.choice("shared_layer", default: sharedLayer)
        codeOperation = try arguments.choice("code_operation", default: codeOperation)
        dropout = try arguments.rate("drop_rate", dropout)
        positionDropout = try arguments.rate("pos_drop_rate", positionDropout)
        projectionDropout = try arguments.rate("proj_drop_rate", projectionDropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    public func validate() throws {
        guard [8, 16].contains(patchSize) else {
            throw ArgumentError(field: "patch_size", found: "\(patchSize)", expected: "8 or 16")
        }
        try require("embed_dim", width, divisibleBy: heads, "num_heads")
        try require("embed_dim", width, divisibleBy: patchSize / 2, "what the stem halves")
        if embedding == .fullyShared, codeOperation == .add, let codeWidth, codeWidth != width {
            throw ArgumentError(
                field: "code_dim", found: "\(codeWidth)", expected: "embed_dim (\(width)), to which it is added")
        }
    }

    public func makeModel() -> any ImageClassifier { CrossCovarianceTransformer(self) }

    init(_ width: Int, _ depth: Int, heads: Int, patch: Int = 16, _ embedding: Embedding = .linear) {
        (self.width, self.depth, self.heads, patchSize) = (width, depth, heads, patch)
        self.embedding = embedding
        (eta, normalizesTokens, dropPath) = (depth > 18 ? 1e-5 : 1, width > 128, 0.1)
    }
}

extension CrossCovarianceTransformer {
    static let system: ModelSystem = {
        typealias C = Configuration
        let sizes = [
            ("nano_12", 128, 12, 4), ("tiny_12", 192, 12, 4), ("small_12", 384, 12, 8), ("tiny_24", 192, 24, 4),
            ("small_24", 384, 24, 8), ("medium_24", 512, 24, 8), ("large_24", 768, 24, 16),
        ]
        var variants: [(String, C)] = []
        for (name, width, depth, heads) in sizes {
            for patch in [16, 8] {
                variants.append(("xcit_\(name)_p\(patch)_224", C(width, depth, heads: heads, patch: patch)))
            }
        }
        for (name, width, depth, heads) in sizes.prefix(3) {
            for embedding in [C.Embedding.separate, .partlyShared, .fullyShared] {
                variants.append(
                    ("xcit_\(name)_p16_224_\(embedding.rawValue)", C(width, depth, heads: heads, embedding)))
            }
        }
        return ModelSystem(
            id: "xcit_qkv", title: "XCiT: Cross-Covariance Image Transformers", year: 2021, arxiv: "2106.09681",
            variants: variants, reference: { _ in C() })
    }()
}
