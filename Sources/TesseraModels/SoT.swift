import Foundation
import Tessera
import TesseraNN

/// SoT: "SoT: Delving Deeper into Classification Head for Transformer" (2021), arXiv 2104.10935.
///
/// The class token is joined by second-order statistics of all the other tokens: covariances between two learned views
/// of them, one for each head, whose singular values are evened out by a power. Tokens come from a small dense network.
///
/// The reference is `SoT` of jiangtaoxie/SoT (no licence file). It centres the views by one mean over tokens and channels.
public final class SoT: Module, ImageClassifier {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public enum Embedding: String, Codable, Sendable, CaseIterable {
            case dense = "DenseNet"
            case patches = "Naive_linear"
        }

        /// What is pooled from the tokens.
        public enum Representation: String, Codable, Sendable, CaseIterable {
            /// Cross-covariances of several heads, their singular values normalised.
            case crossCovariance = "MGCrP"
            /// The square root of one covariance.
            case covariance = "GCP"
        }

        public enum Fusion: String, Codable, Sendable, CaseIterable {
            case sum = "sum_fc"
            /// One linear map of the class token and the statistics.
            case concatenation = "concat"
            /// Statistics of all tokens, the class token among them.
            case all = "aggre_all"
        }

        public struct DenseStage: Codable, Sendable, Hashable {
            public var layers: Int
            public var growth = 16
            /// Channels inside a layer, relative to `growth`.
            public var bottleneck = 2
            public var outputs = 128
            public var pools = true
        }

        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var width = 240
        public var depth = 12
        public var heads = 4
        public var mlpRatio = 2.5
        public var qkvBias = false
        public var embedding = Embedding.dense
        public var stemWidth = 64
        public var denseStages = [DenseStage](repeating: DenseStage(layers: 6), count: 3)
        public var representation = Representation.crossCovariance
        public var poolingHeads = 6
        public var poolingWidth = 14
        /// The exponent of the singular values.
        public var power: Float = 0.5
        public var powerIterations = 1
        /// Singular values that are computed one by one; nil: all.
        public var singularValues: Int? = 1
        /// √(2 · heads · width²) channels are as many values as that many heads of that width.
        public var covarianceHeads = 6
        public var covarianceWidth = 14
        public var fusion = Fusion.sum
        public var headDropout: Float = 0
        public var dropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0

        var covarianceChannels: Int {
            Int(Double(2 * covarianceHeads * covarianceWidth * covarianceWidth).squareRoot())
        }
        var patchSize: Int { max(1, imageSize.height / 14) }
        /// Images of half the size keep the last map as large as it is.
        func pools(_ stage: Int) -> Bool {
            denseStages[stage].pools && !(stage == 2 && imageSize.height / 112 == 1)
        }
        /// What the embedding makes of an image.
        func grid(_ image: Size) -> Size {
            guard embedding == .dense else { return Size(image.height / patchSize, image.width / patchSize) }
            return denseStages.indices.filter(pools).reduce(Size((image.height + 1) / 2, (image.width + 1) / 2)) {
                grid, _ in Size(grid.height / 2, grid.width / 2)
            }
        }
    }

    let tokens: any Layer
    let clsToken: Parameter
    /// `[1, 1 + tokens, width]`, fixed.
    let posEmbed: Parameter
    let blocks: [Block]
    let norm: LayerNorm
    let classifier: Classifier
    let configuration: Configuration

    public override var keys: [String: String] { ["tokens": "visual_tokens.tokens"] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        tokens = c.embedding == .dense ? DenseEmbedding(c) : SquarePatches(c)
        clsToken = Parameter([1, 1, c.width], .truncatedNormal(0.02))
        let grid = c.grid(c.imageSize)
        posEmbed = Parameter(
            [1, 1 + grid.height * grid.width, c.width],
            Initializer { buffer, _ in _ = buffer.update(from: sinusoids(buffer.count / c.width, c.width)) },
            isTrainable: false)
        blocks = DropPath.linear(to: c.dropPath, depth: c.depth).map { Block(c, dropPath: $0) }
        norm = LayerNorm(c.width, epsilon: 1e-5)
        classifier = Classifier(c)
    }

    /// Patches that divide the image into 14×14.
    final class SquarePatches: Module, Layer {
        let proj: Convolution2D

        init(_ c: Configuration) {
            proj = Convolution2D(c.channels, c.width, kernel: c.patchSize, stride: c.patchSize)
        }

        func forward(_ x: Tensor) -> Tensor { proj(x) }
    }

    /// A convolution, then dense blocks ("Densely Connected Convolutional Networks", 2016, arXiv 1608.06993) with
    /// transitions between them.
    final class DenseEmbedding: Module, Layer {
        let stem: [Convolution2D]
        /// Blocks and transitions in turn.
        let stage: [any Layer]
        let transition: Convolution2D

        init(_ c: Configuration) {
            stem = [Convolution2D(c.channels, c.stemWidth, kernel: 3, padding: 1)]
            var width = c.stemWidth
            stage = c.denseStages.indices.flatMap { index -> [any Layer] in
                let stage = c.denseStages[index]
                let block = DenseBlock(width, stage)
                defer { width = stage.outputs }
                return [block, Transition(width + stage.layers * stage.growth, stage.outputs, pools: c.pools(index))]
            }
            transition = Convolution2D(width, c.width, kernel: 1)
        }

        func forward(_ x: Tensor) -> Tensor {
            transition(stage(stem[0](x).maxPool(kernel: 3, stride: 2, padding: 1)))
        }
    }

    /// Every layer reads what all layers before it wrote.
    final class DenseBlock: Module, Layer {
        let layers: [DenseLayer]

        override var keys: [String: String] { ["layers": "denselayer#"] }

        init(_ width: Int, _ stage: Configuration.DenseStage) {
            layers = (0..<stage.layers).map {
                DenseLayer(width + $0 * stage.growth, hidden: stage.bottleneck * stage.growth, stage.growth)
            }
        }

        func forward(_ x: Tensor) -> Tensor {
            layers.reduce(x) { x, layer in concatenate([x, layer(x)], axis: 3) }
        }
    }

    final class DenseLayer: Module {
        let norm1: BatchNorm
        let conv1: Convolution2D
        let norm2: BatchNorm
        let conv2: Convolution2D

        init(_ inputs: Int, hidden: Int, _ outputs: Int) {
            norm1 = BatchNorm(inputs)
            conv1 = Convolution2D(inputs, hidden, kernel: 1, bias: false)
            norm2 = BatchNorm(hidden)
            conv2 = Convolution2D(hidden, outputs, kernel: 3, padding: 1, bias: false)
        }

        func callAsFunction(_ x: Tensor) -> Tensor { conv2(norm2(conv1(norm1(x).relu())).relu()) }
    }

    final class Transition: Module, Layer {
        let norm: BatchNorm
        let conv: Convolution2D
        private let pools: Bool

        init(_ inputs: Int, _ outputs: Int, pools: Bool) {
            norm = BatchNorm(inputs)
            conv = Convolution2D(inputs, outputs, kernel: 1, bias: false)
            self.pools = pools
        }

        func forward(_ x: Tensor) -> Tensor {
            let y = conv(norm(x))
            return pools ? y.averagePool(kernel: 2, stride: 2) : y
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
            norm1 = LayerNorm(c.width, epsilon: 1e-5, isForProducts: true)
            attn = SelfAttention(
                c.width, heads: c.heads, qkvBias: c.qkvBias, attentionDropout: c.attentionDropout,
                dropout: c.dropout, initializer: .truncatedNormal(0.02))
            norm2 = LayerNorm(c.width, epsilon: 1e-5, isForProducts: true)
            mlp = FeedForward(
                c.width, hidden: Int(Double(c.width) * c.mlpRatio), dropout: c.dropout,
                initializer: .truncatedNormal(0.02))
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = dropPath.adding(to: x) { attn(norm1($0)) }
            return dropPath.adding(to: x) { mlp(norm2($0), residual: $1) }
        }
    }

    final class Classifier: Module {
        let representation: CrossCovariancePooling?
        let dr: Linear?
        let visualFc: Linear
        let clsFc: Linear
        private let fusion: Configuration.Fusion

        init(_ c: Configuration) {
            let initializer = Initializer.truncatedNormal(0.02)
            let isCross = c.representation == .crossCovariance
            let channels = c.covarianceChannels
            representation = isCross ? CrossCovariancePooling(c) : nil
            dr = isCross ? nil : Linear(c.width, channels, initializer: initializer)
            let pooled =
                isCross ? c.poolingHeads * c.poolingWidth * c.poolingWidth : channels * (channels + 1) / 2
            visualFc = Linear(
                pooled + (c.fusion == .concatenation ? c.width : 0), c.classes, initializer: initializer)
            clsFc = Linear(c.width, c.classes, initializer: initializer)
            fusion = c.fusion
        }

        /// Tokens, the class token first → logits and what they are computed from.
        func callAsFunction(_ tokens: Tensor) -> (logits: Tensor, pooled: Tensor) {
            let classToken = tokens.sliced(axis: 1, from: 0, to: 1).reshaped([tokens.shape[0], tokens.shape[2]])
            let words = fusion == .all ? tokens : tokens.sliced(axis: 1, from: 1, to: tokens.shape[1])
            let statistics = representation.map { $0(words) } ?? covarianceRoot(words)
            switch fusion {
            case .sum: return (visualFc(statistics) + clsFc(classToken), classToken)
            case .concatenation: return (visualFc(concatenate([classToken, statistics], axis: 1)), classToken)
            case .all: return (visualFc(statistics), classToken)
            }
        }

        private func covarianceRoot(_ tokens: Tensor) -> Tensor {
            let x = dr!(tokens)
            // Divided by the channels, not by the tokens: published weights expect it.
            return matrixSquareRoot(crossCovariance(x, x, count: x.shape[2]), iterations: 3).upperTriangle()
        }
    }

    /// For each head, the cross-covariance of two views of the tokens, normalised.
    final class CrossCovariancePooling: Module {
        let wr: Linear
        let norm: Parameter
        private let configuration: Configuration

        override var keys: [String: String] { ["norm": "norm.weight"] }

        init(_ c: Configuration) {
            wr = Linear(
                c.width, 2 * c.poolingHeads * c.poolingWidth, bias: false, initializer: .truncatedNormal(0.02))
            norm = Parameter([c.poolingWidth], .normal(1))
            configuration = c
        }

        func callAsFunction(_ tokens: Tensor) -> Tensor {
            let c = configuration
            let (batch, count, heads, width) = (tokens.shape[0], tokens.shape[1], c.poolingHeads, c.poolingWidth)
            let views = wr(tokens).reshaped([batch, count, 2, heads, width]).transposed([2, 0, 3, 1, 4])
                .reshaped([2, batch * heads, count, width])
            func view(_ index: Int) -> Tensor {
                views.sliced(axis: 0, from: index, to: index + 1).reshaped([batch * heads, count, width])
            }
            let normalized = singularValuePower(
                crossCovariance(view(0), view(1)), start: norm.tensor, exponent: c.power,
                iterations: c.powerIterations, count: c.singularValues)
            return Dropout(c.headDropout)(normalized.reshaped([batch * heads, width * width]))
                .reshaped([batch, heads * width * width])
        }
    }

    public func features(_ image: Tensor) -> Features {
        let map = tokens.forward(image)
        let (batch, places, width) = (map.shape[0], map.shape[1] * map.shape[2], map.shape[3])
        let positions =
            places + 1 == posEmbed.shape[1]
            ? posEmbed.tensor : Tensor(sinusoids(places + 1, width), [1, places + 1, width])
        var x = concatenate(
            [clsToken.tensor.broadcast(to: [batch, 1, width]), map.reshaped([batch, places, width])], axis: 1)
        x = Dropout(configuration.dropout)(x + positions)
        let grid = Size(map.shape[1], map.shape[2])
        for block in blocks { x = BlockProbe.show(checkpointed(block, x) { block($0) }, prefix: 1, grid: grid) }
        x = norm(x)
        let (logits, pooled) = classifier(x)
        let last = x.sliced(axis: 1, from: 1, to: places + 1).reshaped(map.shape)
        return Features(logits: logits, pooled: pooled, tokens: last)
    }

    public var headPrefixes: [String] { ["classifier.visual_fc.", "classifier.cls_fc."] }
    public var undecayedKeys: Set<String> { ["cls_token", "pos_embed"] }
    public var prefixTokens: Int { 1 }
}

/// sin for even and cos for odd channels c of position / 10000^(2⌊c/2⌋ / width), in double precision.
private func sinusoids(_ count: Int, _ width: Int) -> [Float] {
    (0..<count * width).map { index in
        let (position, channel) = (index / width, index % width)
        let angle = Double(position) / pow(10000, Double(2 * (channel / 2)) / Double(width))
        return Float(channel % 2 == 0 ? sin(angle) : cos(angle))
    }
}

extension SoT.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depth = try arguments.int("depth", default: depth, in: Limits.depth)
        heads = try arguments.int("num_heads", default: heads, in: Limits.heads)
        mlpRatio = try arguments.double("mlp_ratio", default: mlpRatio, in: Limits.ratio)
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        embedding = try arguments.choice("token_type", default: embedding)
        stemWidth = try arguments.int("stem_dim", default: stemWidth, in: Limits.width)
        if let list = arguments.json("dense_blocks")?.array { denseStages = try list.enumerated().map(Self.denseStage) }
        representation = try arguments.choice("representation", default: representation)
        poolingHeads = try arguments.int("wr_heads", default: poolingHeads, in: Limits.heads)
        poolingWidth = try arguments.int("wr_dim", default: poolingWidth, in: 1...1024)
        if let normalization = try arguments.nested("normalization") {
            _ = try normalization.choice("type", of: Normalization.self, default: .singularValues)
            power = Float(try normalization.double("alpha", default: Double(power), in: 0...1))
            powerIterations = try normalization.int("iterNum", default: powerIterations, in: 1...1000)
            singularValues = try normalization.optionalInt("svNum", in: 1...1024)
            try normalization.finish()
        }
        covarianceHeads = try arguments.int("gcp_num_heads", default: covarianceHeads, in: Limits.heads)
        covarianceWidth = try arguments.int("gcp_qkv_dim", default: covarianceWidth, in: 1...1024)
        fusion = try arguments.choice("fusion_type", default: fusion)
        headDropout = try arguments.rate("head_dropout", headDropout)
        dropout = try arguments.rate("drop_rate", dropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    private enum Normalization: String, CaseIterable { case singularValues = "svPN" }

    private static func denseStage(_ index: Int, _ json: JSON) throws -> DenseStage {
        let arguments = try Arguments(json, section: "dense_blocks[\(index)]")
        var stage = DenseStage(layers: try arguments.int("num_layers", in: 1...64))
        stage.growth = try arguments.int("growth", default: stage.growth, in: 1...1024)
        stage.bottleneck = try arguments.int("bn_size", default: stage.bottleneck, in: 1...64)
        stage.outputs = try arguments.int("out", default: stage.outputs, in: Limits.width)
        stage.pools = try arguments.bool("pool", default: stage.pools)
        try arguments.finish()
        return stage
    }

    public func validate() throws {
        try require("embed_dim", width, divisibleBy: heads, "num_heads")
        let grid = grid(imageSize)
        guard min(grid.height, grid.width) > 0, denseStages.count <= 8 else {
            throw ArgumentError(field: "img_size", found: "\(imageSize)", expected: "room for at least one token")
        }
        if let count = singularValues, count > poolingWidth {
            throw ArgumentError(field: "svNum", found: "\(count)", expected: "at most wr_dim (\(poolingWidth))")
        }
    }

    public func makeModel() -> any ImageClassifier { SoT(self) }

    init(
        _ width: Int, depth: Int, heads: Int, mlpRatio: Double, poolingWidth: Int, headDropout: Float
    ) {
        (self.width, self.depth, self.heads, self.mlpRatio) = (width, depth, heads, mlpRatio)
        (self.poolingWidth, self.headDropout, dropPath) = (poolingWidth, headDropout, 0.1)
    }

    public static let tiny = Self(240, depth: 12, heads: 4, mlpRatio: 2.5, poolingWidth: 14, headDropout: 0)
    public static let small = Self(384, depth: 14, heads: 6, mlpRatio: 3.5, poolingWidth: 24, headDropout: 0.5)
    public static let base = Self(528, depth: 24, heads: 8, mlpRatio: 3, poolingWidth: 38, headDropout: 0.7)
}

extension SoT {
    static let system = ModelSystem(
        id: "sot", title: "SoT: Delving Deeper into Classification Head for Transformer", year: 2021,
        arxiv: "2104.10935",
        variants: [("SoT_Tiny", .tiny), ("SoT_Small", .small), ("SoT_Base", .base)] as [(String, Configuration)],
        reference: { $0.contains("sot_src.sot") ? Configuration() : nil })
}
