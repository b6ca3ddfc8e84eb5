import Tessera
import TesseraNN

/// HAT-Net: "Vision Transformers with Hierarchical Attention" (2024; 2021 as "Transformer in Convolutional Neural
/// Networks"), arXiv 2106.03180.
///
/// Attention in two cheap steps: within small windows, and then from every place to a pooled copy of the result. The
/// rest is convolutions, and every norm takes its statistics over a whole map.
///
/// The reference is yun-liu/HAT-Net, which has no licence file. It wants images of which the windows divide every map;
/// here maps are padded. It has a norm (`proj_norm`) that is in its checkpoints and that it does not use.
public final class HATNet: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var widths = [48, 96, 240, 384]
        /// Channels of an attention head.
        public var headWidth = 48
        public var depths = [2, 2, 6, 3]
        /// Kernels of the depthwise convolutions of each stage.
        public var kernels = [3, 3, 3, 3]
        /// By how much inverted residuals widen.
        public var expansions = [8, 8, 4, 4]
        /// The sides of the windows; 1: attention between all places at once.
        public var windows = [8, 7, 7, 1]
        /// By how much the sides of the pooled map are divided.
        public var poolings = [8, 4, 2, 1]
        public var dropPath: Float = 0.1
        public var headDropout: Float = 0.2
    }

    let patchEmbed: Stem
    let stages: [Stage]
    let classifier: Linear
    let configuration: Configuration

    public override var keys: [String: String] { ["stages": "", "classifier": "classifier.1"] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        patchEmbed = Stem(c)
        var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
        stages = c.depths.indices.map { stage in
            defer { rates = rates.dropFirst(c.depths[stage]) }
            return Stage(c, stage, dropPath: Array(rates.prefix(c.depths[stage])))
        }
        classifier = Linear(c.widths.last!, c.classes, initializer: .truncatedNormal(0.02))
    }

    /// Two 3×3 convolutions with stride 2.
    final class Stem: Module {
        let conv1: Convolution2D
        let norm: GroupNorm
        let conv2: Convolution2D

        override var keys: [String: String] { ["conv1": "0", "norm": "1", "conv2": "3"] }

        init(_ c: Configuration) {
            conv1 = convolution(c.channels, 16, kernel: 3, stride: 2)
            norm = mapNorm(16)
            conv2 = convolution(16, c.widths[0], kernel: 3, stride: 2)
        }

        func callAsFunction(_ image: Tensor) -> Tensor { conv2(norm(conv1(image)).silu()) }
    }

    final class Stage: Module {
        let downsample: Downsample?
        let blocks: [Block]
        private let index: Int

        override var keys: [String: String] { ["downsample": "ds\(index + 1)", "blocks": "blocks.\(index)"] }

        init(_ c: Configuration, _ index: Int, dropPath: [Float]) {
            self.index = index
            downsample = index == 0 ? nil : Downsample(c.widths[index - 1], c.widths[index])
            blocks = dropPath.map { Block(c, index, dropPath: $0) }
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            blocks.reduce(downsample?(x) ?? x) { x, block in
                BlockProbe.show(checkpointed(block, x) { block($0) })
            }
        }
    }

    final class Downsample: Module {
        let conv: Convolution2D
        let norm: GroupNorm

        init(_ inputs: Int, _ outputs: Int) {
            conv = convolution(inputs, outputs, kernel: 3, stride: 2)
            norm = mapNorm(outputs)
        }

        func callAsFunction(_ x: Tensor) -> Tensor { norm(conv(x)) }
    }

    /// x + attention(x), then x + convolution(x); each branch begins with its norm.
    final class Block: Module {
        let attn: HierarchicalAttention
        let conv: InvertedResidual
        private let dropPath: DropPath

        init(_ c: Configuration, _ stage: Int, dropPath: Float) {
            attn = HierarchicalAttention(c, stage)
            conv = InvertedResidual(
                c.widths[stage], hidden: c.widths[stage] * c.expansions[stage], kernel: c.kernels[stage])
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = x + dropPath(attn(x))
            return x + dropPath(conv(x))
        }
    }

    /// Attention within windows, then from every place to the places of a pooled map.
    final class HierarchicalAttention: Module {
        let norm: GroupNorm
        let qkv: Convolution2D
        let proj: Convolution2D
        /// In the checkpoints, and never used.
        let projNorm: GroupNorm
        let gridNorm: GroupNorm?
        let dsNorm: GroupNorm?
        let q: Convolution2D?
        let kv: Convolution2D?
        private let heads: Int
        private let window: Int
        private let pooling: Int

        init(_ c: Configuration, _ stage: Int) {
            let width = c.widths[stage]
            (window, pooling) = (c.windows[stage], c.poolings[stage])
            heads = width / c.headWidth
            norm = mapNorm(width)
            qkv = convolution(width, 3 * width, kernel: 1)
            proj = convolution(width, width, kernel: 1)
            projNorm = mapNorm(width)
            let isHierarchical = window > 1
            gridNorm = isHierarchical ? mapNorm(width) : nil
            dsNorm = isHierarchical ? mapNorm(width) : nil
            q = isHierarchical ? convolution(width, width, kernel: 1) : nil
            kv = isHierarchical ? convolution(width, 2 * width, kernel: 1) : nil
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let packed = qkv(norm(x))
            guard let gridNorm, let dsNorm, let q, let kv else {
                return proj(attention(packed: tokens(packed), heads: heads).reshaped(x.shape))
            }
            let channels = x.shape[3]
            let local = gridNorm(x + withinWindows(packed))
            // Pooling drops what is left at the edges; a map that is smaller than one window of it is one place.
            let side = min(pooling, local.shape[1], local.shape[2])
            let pooled = dsNorm(local.averagePool(kernel: side, stride: side))
            let parts = tokens(kv(pooled)).split(axis: 2, sizes: [channels, channels])
            let global = attention(tokens(q(local)), parts[0], parts[1], heads: heads).reshaped(x.shape)
            return proj(global + local)
        }

        private func tokens(_ map: Tensor) -> Tensor {
            map.reshaped([map.shape[0], map.shape[1] * map.shape[2], map.shape[3]])
        }

        /// Attention of packed projections inside windows; zeros fill the last ones.
        private func withinWindows(_ packed: Tensor) -> Tensor {
            let partition = WindowPartition(
                height: packed.shape[1], width: packed.shape[2], window: (window, window))
            return partition.map(of: attention(packed: partition.windows(of: packed), heads: heads))
        }
    }

    /// An inverted residual with a norm at its two ends only.
    final class InvertedResidual: Module {
        let norm: GroupNorm
        let expand: Convolution2D
        let depthwise: Convolution2D
        let project: Convolution2D
        let lastNorm: GroupNorm

        override var keys: [String: String] {
            [
                "norm": "conv1.0", "expand": "conv1.1", "depthwise": "conv2.0", "project": "conv3.0",
                "lastNorm": "conv3.1",
            ]
        }

        init(_ width: Int, hidden: Int, kernel: Int) {
            norm = mapNorm(width)
            expand = convolution(width, hidden, kernel: 1, bias: false)
            depthwise = convolution(hidden, hidden, kernel: kernel, groups: hidden, bias: false)
            project = convolution(hidden, width, kernel: 1, bias: false)
            lastNorm = mapNorm(width)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            lastNorm(project(depthwise(expand(norm(x), activation: .silu), activation: .silu)))
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
        return Features(
            logits: classifier(Dropout(configuration.headDropout)(pooled)), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] { stages.indices.map { 4 << $0 } }
    public var pyramidChannels: [Int] { configuration.widths }
    public var headPrefixes: [String] { ["classifier."] }
}

/// Over all places and channels of a map.
private func mapNorm(_ width: Int) -> GroupNorm { GroupNorm(width, groups: 1, epsilon: 1e-6) }

private func convolution(
    _ inputs: Int, _ outputs: Int, kernel: Int, stride: Int = 1, groups: Int = 1, bias: Bool = true
) -> Convolution2D {
    Convolution2D(
        inputs, outputs, kernel: kernel, stride: stride, padding: (kernel - 1) / 2, groups: groups, bias: bias,
        initializer: .truncatedNormal(0.02), biasInitializer: .zeros)
}

extension HATNet.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        widths = try arguments.ints("dims", default: widths, in: Limits.width)
        headWidth = try arguments.int("head_dim", default: headWidth, in: Limits.width)
        depths = try arguments.ints("depths", default: depths, in: Limits.depth)
        kernels = try arguments.ints("kernel_sizes", default: kernels, in: 1...64)
        expansions = try arguments.ints("expansions", default: expansions, in: 1...64)
        windows = try arguments.ints("grid_sizes", default: windows, in: 1...1024)
        poolings = try arguments.ints("ds_ratios", default: poolings, in: 1...1024)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    public func validate() throws {
        try requireStages(
            depths, ("dims", widths), ("kernel_sizes", kernels), ("expansions", expansions), ("grid_sizes", windows),
            ("ds_ratios", poolings))
        for width in widths { try require("dims", width, divisibleBy: headWidth, "head_dim") }
        for kernel in kernels where kernel % 2 == 0 {
            throw ArgumentError(field: "kernel_sizes", found: "\(kernel)", expected: "odd numbers")
        }
    }

    public func makeModel() -> any ImageClassifier { HATNet(self) }

    init(_ widths: [Int], head: Int, _ depths: [Int], kernels: [Int] = [3, 3, 3, 3]) {
        (self.widths, headWidth, self.depths, self.kernels) = (widths, head, depths, kernels)
    }

    public static let tiny = Self([48, 96, 240, 384], head: 48, [2, 2, 6, 3])
    public static let small = Self([64, 128, 320, 512], head: 64, [2, 3, 8, 3])
    public static let medium = Self([64, 128, 320, 512], head: 64, [3, 6, 18, 3], kernels: [5, 3, 5, 3])
    public static let large = Self([64, 128, 320, 640], head: 64, [3, 8, 27, 3])
}

extension HATNet {
    static let system = ModelSystem(
        id: "hatnet", title: "Vision Transformers with Hierarchical Attention", year: 2021, arxiv: "2106.03180",
        variants: [
            ("HAT_Net_tiny", .tiny), ("HAT_Net_small", .small), ("HAT_Net_medium", .medium), ("HAT_Net_large", .large),
        ] as [(String, Configuration)],
        reference: { _ in Configuration() })
}
