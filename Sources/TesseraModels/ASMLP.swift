import Tessera
import TesseraNN

/// AS-MLP: "AS-MLP: An Axial Shifted MLP Architecture for Vision" (2021), arXiv 2107.08391.
///
/// The channels are cut into as many groups as the shift is wide, and group g moves by g places along the width for one
/// linear map and along the height for another; their sum sees a cross of places.
///
/// The reference is `AS_MLP` of svip-lab/AS-MLP (MIT). Its norms are over all places and channels of a sample.
public final class ASMLP: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var patchSize = 4
        public var channels = 3
        public var classes = 1000
        /// Channels of the first stage; each stage doubles them.
        public var width = 96
        public var depths = [2, 2, 6, 2]
        /// Odd: how many places along an axis meet.
        public var shift = 5
        public var mlpRatio = 4.0
        public var mixingBias = true
        public var normalizesPatches = true
        public var dropout: Float = 0
        public var dropPath: Float = 0.1

        func width(_ stage: Int) -> Int { width << stage }
    }

    let patchEmbed: Embedding
    let layers: [Stage]
    let norm: GroupNorm
    let head: Linear
    let configuration: Configuration

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        patchEmbed = Embedding(c)
        var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
        layers = c.depths.indices.map { stage in
            defer { rates = rates.dropFirst(c.depths[stage]) }
            return Stage(c, stage, dropPath: Array(rates.prefix(c.depths[stage])))
        }
        norm = GroupNorm(c.width(c.depths.count - 1), groups: 1)
        head = Linear(c.width(c.depths.count - 1), c.classes, initializer: .truncatedNormal(0.02))
    }

    final class Embedding: Module {
        let proj: Convolution2D
        let norm: GroupNorm?

        init(_ c: Configuration) {
            proj = Convolution2D(c.channels, c.width, kernel: c.patchSize, stride: c.patchSize)
            norm = c.normalizesPatches ? GroupNorm(c.width, groups: 1) : nil
        }

        func callAsFunction(_ image: Tensor) -> Tensor {
            let x = proj(image)
            return norm.map { $0(x) } ?? x
        }
    }

    final class Stage: Module {
        let blocks: [Block]
        let downsample: Merging?

        init(_ c: Configuration, _ stage: Int, dropPath: [Float]) {
            blocks = dropPath.map { Block(c, c.width(stage), dropPath: $0) }
            downsample = stage + 1 < c.depths.count ? Merging(c.width(stage)) : nil
        }
    }

    /// x + mixing(norm(x)), then x + perceptron(norm(x)).
    final class Block: Module {
        let norm1: GroupNorm
        let axialShift: AxialShift
        let norm2: GroupNorm
        let mlp: FeedForward
        private let dropPath: DropPath

        init(_ c: Configuration, _ width: Int, dropPath: Float) {
            norm1 = GroupNorm(width, groups: 1)
            axialShift = AxialShift(c, width)
            norm2 = GroupNorm(width, groups: 1)
            mlp = FeedForward(
                width, hidden: Int(Double(width) * c.mlpRatio), dropout: c.dropout, isConvolution: true)
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            checkpointed(self, x) { [self] x in
                let x = x + dropPath(axialShift(norm1(x)))
                return dropPath.isActive ? x + dropPath(mlp(norm2(x))) : mlp(norm2(x), residual: x)
            }
        }
    }

    final class AxialShift: Module {
        let conv1: Linear
        let conv21: Linear
        let conv22: Linear
        let conv3: Linear
        let norm1: GroupNorm
        let norm2: GroupNorm
        private let groups: [(channels: Range<Int>, step: Int)]

        override var keys: [String: String] { ["conv21": "conv2_1", "conv22": "conv2_2"] }

        init(_ c: Configuration, _ width: Int) {
            func layer() -> Linear { Linear(width, width, bias: c.mixingBias, isConvolution: true) }
            (conv1, conv21, conv22, conv3) = (layer(), layer(), layer(), layer())
            (norm1, norm2) = (GroupNorm(width, groups: 1), GroupNorm(width, groups: 1))
            // The last group may be smaller than the others, or missing.
            let size = (width + c.shift - 1) / c.shift
            groups = stride(from: 0, to: width, by: size).enumerated().map { index, start in
                (start..<min(start + size, width), c.shift / 2 - index)
            }
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = norm1(conv1(x)).gelu()
            let horizontal = x.shifted(groups.map { ChannelShift($0.channels, columns: $0.step) })
            let vertical = x.shifted(groups.map { ChannelShift($0.channels, rows: $0.step) })
            return conv3(norm2(conv21(horizontal, activation: .gelu) + conv22(vertical, activation: .gelu)))
        }
    }

    /// Four neighbours become one place of twice the channels.
    final class Merging: Module {
        let norm: GroupNorm
        let reduction: Linear

        init(_ width: Int) {
            norm = GroupNorm(4 * width, groups: 1)
            reduction = Linear(4 * width, 2 * width, bias: false, isConvolution: true)
        }

        func callAsFunction(_ x: Tensor) -> Tensor { reduction(norm(x.neighboursMerged())) }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var x = Dropout(configuration.dropout)(patchEmbed(image))
        return layers.map { stage in
            let map = stage.blocks.reduce(x) { $1($0) }
            x = stage.downsample.map { $0(map) } ?? map
            return map
        }
    }

    public func features(_ image: Tensor) -> Features {
        let last = norm(pyramid(image).last!)
        let pooled = last.globalAveragePool()
        return Features(logits: head(pooled), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] { layers.indices.map { configuration.patchSize << $0 } }
    public var pyramidChannels: [Int] { layers.indices.map(configuration.width) }
    public var headPrefixes: [String] { ["head."] }
}

extension ASMLP.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        patchSize = try arguments.int("patch_size", default: patchSize, in: 1...1024)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depths = try arguments.ints("depths", default: depths, in: Limits.depth)
        shift = try arguments.int("shift_size", default: shift, in: 1...63)
        mlpRatio = try arguments.double("mlp_ratio", default: mlpRatio, in: Limits.ratio)
        mixingBias = try arguments.bool("as_bias", default: mixingBias)
        normalizesPatches = try arguments.bool("patch_norm", default: normalizesPatches)
        dropout = try arguments.rate("drop_rate", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    public func validate() throws {
        try requireStages(depths)
        guard shift % 2 == 1 else {
            throw ArgumentError(field: "shift_size", found: "\(shift)", expected: "an odd number")
        }
        guard min(imageSize.height, imageSize.width) >= patchSize else {
            throw ArgumentError(
                field: "img_size", found: "\(imageSize)", expected: "at least patch_size (\(patchSize))")
        }
    }

    public func makeModel() -> any ImageClassifier { ASMLP(self) }

    init(_ width: Int, _ depths: [Int], dropPath: Float) {
        (self.width, self.depths, self.dropPath) = (width, depths, dropPath)
    }

    public static let tiny = Self(96, [2, 2, 6, 2], dropPath: 0.2)
    public static let small = Self(96, [2, 2, 18, 2], dropPath: 0.3)
    public static let base = Self(128, [2, 2, 18, 2], dropPath: 0.5)
}

extension ASMLP {
    static let system = ModelSystem(
        id: "asmlp", group: "vision_mlp", title: "AS-MLP: An Axial Shifted MLP Architecture for Vision", year: 2021,
        arxiv: "2107.08391",
        variants: [("asmlp_tiny", .tiny), ("asmlp_small", .small), ("asmlp_base", .base)]
            as [(String, Configuration)],
        reference: { $0.contains("AS_MLP") ? Configuration() : nil })
}
