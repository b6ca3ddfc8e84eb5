import Tessera
import TesseraNN

/// T2T-ViT: "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet" (2021), arXiv 2101.11986.
///
/// Instead of cutting an image into patches at once, overlapping 7×7 and then 3×3 neighbourhoods of tokens are joined
/// into one token, with a narrow attention layer between, so that tokens know edges before the deep and narrow encoder
/// begins.
///
/// The reference is yitu-opensource/T2T-ViT (Clear BSD). Its released checkpoints were trained with `qk_scale` =
/// 1/√width in the encoder, which its constructors set only when they load them.
public final class TokensToTokenTransformer: Module, ImageClassifier {
    public struct Configuration: ClassifierConfiguration, Hashable {
        /// The attention between the joins: linear in the number of tokens, or complete.
        public enum TokenAttention: String, Codable, Sendable, CaseIterable { case performer, transformer }

        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var width = 384
        public var depth = 14
        public var heads = 6
        public var mlpRatio: Float = 3
        public var tokenAttention = TokenAttention.performer
        /// Channels of the tokens between the joins.
        public var tokenWidth = 64
        public var qkvBias = false
        /// The factor of the encoder's scores; nil: 1/√(width / heads).
        public var qkScale: Float?
        public var dropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0

        /// The rows and columns of tokens that an image of `size` becomes.
        func grid(_ size: Size) -> Size {
            func extent(_ pixels: Int) -> Int {
                let first = (pixels + 4 - 7) / 4 + 1
                return (((first - 1) / 2 + 1) - 1) / 2 + 1
            }
            return Size(extent(size.height), extent(size.width))
        }
    }

    let tokensToToken: Tokenizer
    let clsToken: Parameter
    let posEmbed: Parameter
    let blocks: [Block]
    let norm: LayerNorm
    let head: Linear
    let configuration: Configuration

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        tokensToToken = Tokenizer(c)
        clsToken = Parameter([1, 1, c.width], .truncatedNormal(0.02))
        let grid = c.grid(c.imageSize)
        let (count, width) = (1 + grid.height * grid.width, c.width)
        posEmbed = Parameter(
            [1, count, width],
            Initializer { buffer, _ in _ = buffer.update(fromContentsOf: PositionTable.sinusoids(count, width)) },
            isTrainable: false)
        blocks = DropPath.linear(to: c.dropPath, depth: c.depth).map { Block(c, dropPath: $0) }
        norm = LayerNorm(c.width, epsilon: 1e-5)
        head = Linear(c.width, c.classes, initializer: .truncatedNormal(0.02))
    }

    /// Two joins with attention, and a third one with a linear map.
    final class Tokenizer: Module {
        let attention1: Module & TokenLayer
        let attention2: Module & TokenLayer
        let project: Linear

        init(_ c: Configuration) {
            func layer(_ inputs: Int) -> Module & TokenLayer {
                c.tokenAttention == .performer
                    ? PerformerLayer(inputs, c.tokenWidth) : TransformerLayer(inputs, c.tokenWidth)
            }
            attention1 = layer(49 * c.channels)
            attention2 = layer(9 * c.tokenWidth)
            project = Linear(9 * c.tokenWidth, c.width, initializer: .truncatedNormal(0.02))
        }

        /// `[batch, height, width, channels]` → `[batch, rows, columns, width]`
        func callAsFunction(_ image: Tensor) -> Tensor {
            var x = image.unfolded(kernel: 7, stride: 4, padding: 2)
            for layer in [attention1, attention2] {
                let (batch, rows, columns) = (x.shape[0], x.shape[1], x.shape[2])
                let tokens = layer(x.reshaped([batch, rows * columns, x.shape[3]]))
                x = tokens.reshaped([batch, rows, columns, tokens.shape[2]]).unfolded(kernel: 3, stride: 2, padding: 1)
            }
            return project(x)
        }
    }

    /// A transformer layer that changes the width of its tokens `[batch, tokens, inputs]`.
    protocol TokenLayer {
        func callAsFunction(_ x: Tensor) -> Tensor
    }

    /// One head of attention. The residual starts from the values, since the input has another width; the scores are
    /// scaled by the input's width.
    final class TransformerLayer: Module, TokenLayer {
        let norm1: LayerNorm
        let attn: Attention
        let norm2: LayerNorm
        let mlp: FeedForward

        init(_ inputs: Int, _ width: Int) {
            norm1 = LayerNorm(inputs, epsilon: 1e-5)
            attn = Attention(inputs, width)
            norm2 = LayerNorm(width, epsilon: 1e-5)
            mlp = FeedForward(width, hidden: width, initializer: .truncatedNormal(0.02))
        }

        final class Attention: Module {
            let qkv: Linear
            let proj: Linear
            private let scale: Float

            init(_ inputs: Int, _ width: Int) {
                qkv = Linear(inputs, 3 * width, bias: false, initializer: .truncatedNormal(0.02))
                proj = Linear(width, width, initializer: .truncatedNormal(0.02))
                scale = 1 / Float(inputs).squareRoot()
            }

            func callAsFunction(_ x: Tensor) -> Tensor {
                let packed = qkv(x)
                let width = packed.shape[2] / 3
                let values = packed.sliced(axis: 2, from: 2 * width, to: 3 * width)
                return proj(attention(packed: packed, heads: 1, scale: scale), residual: values)
            }
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = attn(norm1(x))
            return mlp(norm2(x), residual: x)
        }
    }

    /// Attention linear in the number of tokens: the softmax's kernel exp(q·k) is approximated by random features
    /// φ(z) = exp(w z − |z|²/2) / √m, "Rethinking Attention with Performers" (2020), arXiv 2009.14794.
    final class PerformerLayer: Module, TokenLayer {
        let norm1: LayerNorm
        let kqv: Linear
        /// `[features, width]`: orthogonal directions, never trained
        let w: Parameter
        let proj: Linear
        let norm2: LayerNorm
        let mlp1: Linear
        let mlp2: Linear
        private let width: Int
        private let dropout: Dropout

        override var keys: [String: String] { ["mlp1": "mlp.0", "mlp2": "mlp.2"] }

        /// - Parameter dropout: on in training whatever the model's own rate is
        init(_ inputs: Int, _ width: Int, dropout: Float = 0.1) {
            (self.width, self.dropout) = (width, Dropout(dropout))
            let initializer = Initializer.truncatedNormal(0.02)
            let features = width / 2
            norm1 = LayerNorm(inputs, epsilon: 1e-5)
            kqv = Linear(inputs, 3 * width, initializer: initializer)
            w = Parameter(
                [features, width], .orthogonal(columns: width, gain: Float(features).squareRoot()), isTrainable: false)
            proj = Linear(width, width, initializer: initializer)
            norm2 = LayerNorm(width, epsilon: 1e-5)
            mlp1 = Linear(width, width, initializer: initializer)
            mlp2 = Linear(width, width, initializer: initializer)
        }

        func callAsFunction(_ x: Tensor) -> Tensor { self(x, adding: nil) }

        /// With something added between the attention and the perceptron.
        func callAsFunction(_ x: Tensor, adding branch: Tensor?) -> Tensor {
            let parts = kqv(norm1(x)).split(axis: 2, sizes: [width, width, width])
            let (keys, queries, values) = (features(parts[0]), features(parts[1]), parts[2])
            let total = keys.sum(axes: [1], keepingAxes: true)
            let normalizer = queries.multiplied(by: total, transposing: (false, true)) + 1e-8
            let memory = keys.multiplied(by: values, transposing: (true, false))
            let mixed = queries.multiplied(by: memory) / normalizer
            let attended = values + dropout(proj(mixed))
            let y = branch.map { attended + $0 } ?? attended
            return y + dropout(mlp2(mlp1(norm2(y), activation: .gelu)))
        }

        private func features(_ z: Tensor) -> Tensor {
            let half = (z * z).sum(axes: [2], keepingAxes: true) * 0.5
            return (linear(z, weight: w.tensor) - half).exp() * (1 / Float(w.shape[0]).squareRoot())
        }
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)).
    final class Block: Module {
        let norm1: LayerNorm
        let attn: SelfAttention
        let norm2: LayerNorm
        let mlp: FeedForward
        private let dropPath: DropPath

        init(_ c: Configuration, dropPath: Float) {
            let initializer = Initializer.truncatedNormal(0.02)
            norm1 = LayerNorm(c.width, epsilon: 1e-5)
            attn = SelfAttention(
                c.width, heads: c.heads, qkvBias: c.qkvBias, scale: c.qkScale, attentionDropout: c.attentionDropout,
                dropout: c.dropout, initializer: initializer)
            norm2 = LayerNorm(c.width, epsilon: 1e-5)
            mlp = FeedForward(
                c.width, hidden: Int(Float(c.width) * c.mlpRatio), dropout: c.dropout, initializer: initializer)
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = dropPath.adding(to: x) { attn(norm1($0), residual: $1) }
            return dropPath.adding(to: x) { mlp(norm2($0), residual: $1) }
        }
    }

    public func features(_ image: Tensor) -> Features {
        let map = tokensToToken(image)
        let (batch, rows, columns, width) = (map.shape[0], map.shape[1], map.shape[2], map.shape[3])
        let tokens = map.reshaped([batch, rows * columns, width])
        let count = 1 + rows * columns
        // The table is a formula: another image size has another table.
        let positions =
            count == posEmbed.shape[1]
            ? posEmbed.tensor : Tensor(PositionTable.sinusoids(count, width), [1, count, width])
        var x = concatenate([clsToken.tensor.broadcast(to: [batch, 1, width]), tokens], axis: 1) + positions
        x = Dropout(configuration.dropout)(x)
        for block in blocks {
            x = BlockProbe.show(checkpointed(block, x) { block($0) }, prefix: 1, grid: Size(rows, columns))
        }
        let z = norm(x)
        let pooled = z.sliced(axis: 1, from: 0, to: 1).reshaped([batch, width])
        return Features(
            logits: head(pooled), pooled: pooled,
            tokens: z.sliced(axis: 1, from: 1, to: count).reshaped([batch, rows, columns, width]))
    }

    public var headPrefixes: [String] { ["head."] }
    public var prefixTokens: Int { 1 }
    public var undecayedKeys: Set<String> { ["cls_token"] }

    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? {
        guard key == "pos_embed" else { return nil }
        return Tensor(PositionTable.sinusoids(posEmbed.shape[1], configuration.width), posEmbed.shape)
    }
}

extension TokensToTokenTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        tokenAttention = try arguments.choice("tokens_type", default: tokenAttention)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depth = try arguments.int("depth", default: depth, in: Limits.depth)
        heads = try arguments.int("num_heads", default: heads, in: Limits.heads)
        mlpRatio = Float(try arguments.double("mlp_ratio", default: Double(mlpRatio), in: Limits.ratio))
        tokenWidth = try arguments.int("token_dim", default: tokenWidth, in: 2...4096)
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        qkScale = try arguments.optionalDouble("qk_scale", in: 1e-6...1e6).map { Float($0) } ?? qkScale
        dropout = try arguments.rate("drop_rate", dropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    public func validate() throws {
        try require("embed_dim", width, divisibleBy: heads, "num_heads")
        guard min(imageSize.height, imageSize.width) >= 3 else {
            throw ArgumentError(field: "img_size", found: "\(imageSize)", expected: "at least 3 pixels")
        }
    }

    public func makeModel() -> any ImageClassifier { TokensToTokenTransformer(self) }

    init(_ width: Int, _ depth: Int, heads: Int, ratio: Float, _ tokenAttention: TokenAttention = .performer) {
        (self.width, self.depth, self.heads, mlpRatio) = (width, depth, heads, ratio)
        self.tokenAttention = tokenAttention
    }

    public static let t2t7 = Self(256, 7, heads: 4, ratio: 2)
    public static let t2t10 = Self(256, 10, heads: 4, ratio: 2)
    public static let t2t12 = Self(256, 12, heads: 4, ratio: 2)
    public static let t2t14 = Self(384, 14, heads: 6, ratio: 3)
    public static let t2t19 = Self(448, 19, heads: 7, ratio: 3)
    public static let t2t24 = Self(512, 24, heads: 8, ratio: 3)
}

extension TokensToTokenTransformer {
    static let system = ModelSystem(
        id: "t2t_vit", group: "baselines",
        title: "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet", year: 2021,
        arxiv: "2101.11986",
        variants: [
            ("t2t_vit_7", .t2t7), ("t2t_vit_10", .t2t10), ("t2t_vit_12", .t2t12), ("t2t_vit_14", .t2t14),
            ("t2t_vit_19", .t2t19), ("t2t_vit_24", .t2t24),
            ("t2t_vit_t_14", Configuration(384, 14, heads: 6, ratio: 3, .transformer)),
            ("t2t_vit_t_19", Configuration(448, 19, heads: 7, ratio: 3, .transformer)),
            ("t2t_vit_t_24", Configuration(512, 24, heads: 8, ratio: 3, .transformer)),
        ] as [(String, Configuration)],
        reference: { $0.contains("T2T-ViT") ? Configuration.t2t14 : nil })
}
