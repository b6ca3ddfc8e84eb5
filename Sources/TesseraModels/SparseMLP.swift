import Tessera
import TesseraNN

/// sMLPNet: "Sparse MLP for Image Recognition: Is Self-Attention Really Necessary?" (2021), arXiv 2109.05422.
///
/// Every place is mixed with its own row and its own column by one linear map each, shared by all channels, beside
/// itself: after two blocks it has seen the whole map, for the weights of its sides instead of its area.
///
/// The reference is `sMLPNet` of microsoft/SPACH (MIT), whose `proj_h` mixes along the width and whose `proh_w` (so
/// spelled) mixes along the height.
public final class SparseMLP: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var patchSize = 4
        public var channels = 3
        public var classes = 1000
        /// Channels of the first stage; each stage doubles them.
        public var width = 80
        public var depths = [2, 8, 14, 2]
        /// The hidden width of the perceptrons, relative to the channels.
        public var mlpRatio = 3.0
        public var dropout: Float = 0
        public var dropPath: Float = 0

        func width(_ stage: Int) -> Int { width << stage }
        func side(_ stage: Int) -> Int { (imageSize.height / patchSize) >> stage }
    }

    /// A list of one for each stage, as checkpoints have it.
    let toPatchEmbedding: [[Convolution2D]]
    /// Of all stages, one after the other.
    let tokenMix: [TokenMixing]
    let channelMix: [ChannelMixing]
    let batchNorm: BatchNorm
    let head: Linear
    let configuration: Configuration

    public override var keys: [String: String] { ["head": "mlp_head.0"] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        toPatchEmbedding = c.depths.indices.map { stage in
            let (inputs, side) = stage == 0 ? (c.channels, c.patchSize) : (c.width(stage - 1), 2)
            return [Convolution2D(inputs, c.width(stage), kernel: side, stride: side, bias: false)]
        }
        let stages = c.depths.enumerated().flatMap { [Int](repeating: $0, count: $1) }
        let rates = DropPath.linear(to: c.dropPath, depth: stages.count)
        tokenMix = zip(stages, rates).map { TokenMixing(c.width($0), side: c.side($0), dropPath: $1) }
        channelMix = zip(stages, rates).map { stage, rate in
            ChannelMixing(
                c.width(stage), hidden: Int(Double(c.width(stage)) * c.mlpRatio), dropout: c.dropout, dropPath: rate)
        }
        batchNorm = BatchNorm(c.width(c.depths.count - 1))
        head = Linear(c.width(c.depths.count - 1), c.classes)
    }

    /// x + what rows and columns say, after a depthwise convolution.
    final class TokenMixing: Module {
        let localNorm: BatchNorm
        let local: Convolution2D
        let norm: BatchNorm
        let horizontal: Linear
        let vertical: Linear
        let fuse: Linear
        private let side: Int
        private let dropPath: DropPath

        override var keys: [String: String] {
            [
                "localNorm": "0.conv_merge.BN", "local": "0.conv_merge.Conv", "norm": "1.BN",
                "horizontal": "1.proj_h", "vertical": "1.proh_w", "fuse": "1.fuse",
            ]
        }

        init(_ width: Int, side: Int, dropPath: Float) {
            localNorm = BatchNorm(width)
            local = Convolution2D(width, width, kernel: 3, padding: 1, groups: width, bias: false)
            norm = BatchNorm(width)
            horizontal = Linear(side, side, isConvolution: true)
            vertical = Linear(side, side, isConvolution: true)
            fuse = Linear(3 * width, width, bias: false, isConvolution: true)
            self.side = side
            self.dropPath = DropPath(dropPath)
        }

        /// - Precondition: the map has the size that the block was built for.
        func callAsFunction(_ x: Tensor) -> Tensor {
            precondition(
                x.shape[1] == side && x.shape[2] == side,
                "this block is for maps of \(side)×\(side), not \(x.shape[1])×\(x.shape[2])")
            let y = norm(local(localNorm(x).gelu())).gelu()
            let rows = horizontal(y.transposed([0, 1, 3, 2])).transposed([0, 1, 3, 2])
            let columns = vertical(y.transposed([0, 2, 3, 1])).transposed([0, 3, 1, 2])
            return x + dropPath(fuse(concatenate([y, rows, columns], axis: 3)))
        }
    }

    /// x + perceptron(norm(x)).
    final class ChannelMixing: Module {
        let norm: LayerNorm
        let first: Linear
        let second: Linear
        private let dropout: Dropout
        private let dropPath: DropPath

        override var keys: [String: String] { ["norm": "1", "first": "2.net.0", "second": "2.net.3"] }

        init(_ width: Int, hidden: Int, dropout: Float, dropPath: Float) {
            norm = LayerNorm(width, epsilon: 1e-5)
            first = Linear(width, hidden)
            second = Linear(hidden, width)
            (self.dropout, self.dropPath) = (Dropout(dropout), DropPath(dropPath))
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            x + dropPath(dropout(second(dropout(first(norm(x), activation: .gelu)))))
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var (x, block) = (image, 0)
        return configuration.depths.indices.map { stage in
            x = toPatchEmbedding[stage][0](x)
            for _ in 0..<configuration.depths[stage] {
                let (tokens, channels) = (tokenMix[block], channelMix[block])
                x = checkpointed(channels, checkpointed(tokens, x) { tokens($0) }) { channels($0) }
                block += 1
            }
            return x
        }
    }

    public func features(_ image: Tensor) -> Features {
        let last = batchNorm(pyramid(image).last!)
        let pooled = last.globalAveragePool()
        return Features(logits: head(pooled), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] { configuration.depths.indices.map { configuration.patchSize << $0 } }
    public var pyramidChannels: [Int] { configuration.depths.indices.map(configuration.width) }
    public var headPrefixes: [String] { ["mlp_head.0."] }
}

extension SparseMLP.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("image_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        patchSize = try arguments.int("patch_size", default: patchSize, in: 1...1024)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("dim", default: width, in: Limits.width)
        depths = try arguments.ints("depths", default: depths, in: Limits.depth)
        mlpRatio = try arguments.double("alpha", default: mlpRatio, in: Limits.ratio)
        dropout = try arguments.rate("dropout", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    public func validate() throws {
        try requireStages(depths)
        guard imageSize.height == imageSize.width else {
            throw ArgumentError(field: "image_size", found: "\(imageSize)", expected: "a square")
        }
        try require("image_size", imageSize.height, divisibleBy: patchSize << (depths.count - 1), "the last stride")
    }

    public func makeModel() -> any ImageClassifier { SparseMLP(self) }

    init(_ width: Int, _ depths: [Int]) { (self.width, self.depths) = (width, depths) }

    public static let tiny = Self(80, [2, 8, 14, 2])
    public static let small = Self(96, [2, 10, 24, 2])
    public static let base = Self(112, [2, 10, 24, 2])
}

extension SparseMLP {
    static let system = ModelSystem(
        id: "smlpnet", group: "vision_mlp",
        title: "Sparse MLP for Image Recognition: Is Self-Attention Really Necessary?", year: 2021,
        arxiv: "2109.05422",
        variants: [("smlpnet_tiny", .tiny), ("smlpnet_small", .small), ("smlpnet_base", .base)]
            as [(String, Configuration)],
        reference: { $0.contains("sMLPNet") ? Configuration() : nil })
}
