import Tessera
import TesseraNN

/// ExMobileViT: "ExMobileViT: Lightweight Classifier Extension for Mobile Vision Transformer" (2023), arXiv 2309.01310.
///
/// MobileViT-S whose classifier also sees the two earlier attention stages, through a 1×1 convolution and a mean each.
/// The trunk is not timm's MobileViT: heads have 8 channels whatever the width, the 1×1 convolution before the
/// transformer is normalised and activated, there is no norm after it, and what comes out is concatenated before what
/// went in.
///
/// The reference is EmPasLab/ExMobileVIT, which has no licence file. Its means take in only the upper left of the two
/// finer maps (25 of 32 and 9 of 16 places a side), and its images must have 256×256 pixels; here the windows grow and
/// shrink with the image.
public final class ExMobileViT: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(256)
        public var channels = 3
        public var classes = 1000
        /// c0 to c10: after the stem, before and after each inverted residual, and before the classifier.
        public var widths = [16, 32, 64, 64, 96, 96, 128, 128, 160, 160, 640]
        /// Channels of the transformers.
        public var transformerWidths = [144, 192, 240]
        public var transformerDepths = [2, 4, 3]
        public var heads = 4
        /// Channels of a head.
        public var headSize = 8
        public var mlpRatios = [2, 4, 4]
        /// By how much inverted residuals widen.
        public var expansion = 4
        public var kernel = 3
        public var patchSize = 2
        /// Channels that the classifier has from each attention stage, or from the last one alone.
        public var classifierWidths = [128, 160, 640]
        /// The sides of the squares in the upper left of the maps whose means are taken, for an image with
        /// ``poolingSide`` pixels a side; they grow and shrink with the map.
        public var poolingWindows = [25, 9, 8]
        public var poolingSide = 256
        public var dropout: Float = 0
        public var dropPath: Float = 0

        /// How many of the `extent` places along a map the mean takes in.
        public func poolingWindow(_ index: Int, of extent: Int) -> Int {
            let stride = 32 >> (poolingWindows.count - 1 - index)
            let places = max(1, poolingSide / stride)
            return min(extent, max(1, (2 * poolingWindows[index] * extent + places) / (2 * places)))
        }
    }

    let conv1: ConvolutionNormActivation
    let mv2: [InvertedResidual]
    let mvit: [Block]
    /// The 1×1 convolutions of the classifier, the last attention stage's last.
    let shortcuts: [ConvolutionNormActivation]
    let fc: Linear
    let configuration: Configuration

    public override var keys: [String: String] { ["shortcuts": ""] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        let w = c.widths
        conv1 = activatedConvolution(c.channels, w[0], kernel: c.kernel, stride: 2)
        mv2 = [
            (w[0], w[1], 1), (w[1], w[2], 2), (w[2], w[3], 1), (w[2], w[3], 1), (w[3], w[4], 2), (w[5], w[6], 2),
            (w[7], w[8], 2),
        ].map { inputs, outputs, stride in
            InvertedResidual(
                inputs, outputs, hidden: inputs * c.expansion, stride: stride, activation: .silu, naming: .sequential)
        }
        var rates = DropPath.linear(to: c.dropPath, depth: c.transformerDepths.reduce(0, +))[...]
        mvit = c.transformerDepths.enumerated().map { index, depth in
            defer { rates = rates.dropFirst(depth) }
            return Block(c, index, dropPath: Array(rates.prefix(depth)))
        }
        let first = 3 - c.classifierWidths.count
        shortcuts = c.classifierWidths.enumerated().map { index, width in
            let name = ["conv2_1", "conv2_2", "conv2"][first + index]
            return activatedConvolution(
                w[5 + 2 * (first + index)], width, kernel: 1, names: ("\(name).0", "\(name).1"))
        }
        fc = Linear(c.classifierWidths.reduce(0, +), c.classes, bias: false)
    }

    /// Convolutions around a transformer; what comes out is concatenated with what went in.
    final class Block: Module {
        let conv1: ConvolutionNormActivation
        let conv2: ConvolutionNormActivation
        let layers: [TransformerLayer]
        let conv3: ConvolutionNormActivation
        let conv4: ConvolutionNormActivation
        private let patchSize: Int

        override var keys: [String: String] { ["layers": "transformer.layers"] }

        init(_ c: Configuration, _ index: Int, dropPath: [Float]) {
            let (width, inner) = (c.widths[5 + 2 * index], c.transformerWidths[index])
            conv1 = activatedConvolution(width, width, kernel: c.kernel)
            conv2 = activatedConvolution(width, inner, kernel: 1)
            layers = dropPath.map {
                TransformerLayer(c, inner, hidden: inner * c.mlpRatios[index], dropPath: $0)
            }
            conv3 = activatedConvolution(inner, width, kernel: 1)
            conv4 = activatedConvolution(2 * width, width, kernel: c.kernel)
            patchSize = c.patchSize
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let mixed = acrossPatches(conv2(conv1(x)), side: patchSize) { sequences in
                layers.reduce(sequences) { x, layer in checkpointed(layer, x) { layer($0) } }
            }
            return conv4(concatenate([conv3(mixed), x], axis: 3))
        }
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)), with heads of fixed size.
    final class TransformerLayer: Module {
        let norm1: LayerNorm
        let qkv: Linear
        let proj: Linear
        let norm2: LayerNorm
        let fc1: Linear
        let fc2: Linear
        private let heads: Int
        private let dropout: Dropout
        private let dropPath: DropPath

        override var keys: [String: String] {
            [
                "norm1": "0.norm", "qkv": "0.fn.to_qkv", "proj": "0.fn.to_out.0", "norm2": "1.norm",
                "fc1": "1.fn.net.0", "fc2": "1.fn.net.3",
            ]
        }

        init(_ c: Configuration, _ width: Int, hidden: Int, dropPath: Float) {
            norm1 = LayerNorm(width, epsilon: 1e-5, isForProducts: true)
            qkv = Linear(width, 3 * c.heads * c.headSize, bias: false)
            proj = Linear(c.heads * c.headSize, width)
            norm2 = LayerNorm(width, epsilon: 1e-5, isForProducts: true)
            fc1 = Linear(width, hidden)
            fc2 = Linear(hidden, width)
            heads = c.heads
            dropout = Dropout(c.dropout)
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = x + dropPath(dropout(proj(attention(packed: qkv(norm1(x)), heads: heads))))
            return x + dropPath(dropout(fc2(dropout(fc1(norm2(x), activation: .silu)))))
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        let fine = mv2[0...3].reduce(conv1(image)) { $1.forward($0) }
        let x1 = mvit[0](mv2[4].forward(fine))
        let x2 = mvit[1](mv2[5].forward(x1))
        return [fine, x1, x2, mvit[2](mv2[6].forward(x2))]
    }

    public func features(_ image: Tensor) -> Features {
        let maps = pyramid(image)
        return Features(classify(attentionMaps: Array(maps.dropFirst())), tokens: maps.last!)
    }

    /// The extended classifier on the maps of the three attention stages.
    public func classify(attentionMaps maps: [Tensor]) -> Classification {
        let means = zip(shortcuts, maps.suffix(shortcuts.count)).enumerated().map { index, pair in
            let map = pair.0(pair.1)
            let rows = configuration.poolingWindow(index, of: map.shape[1])
            let columns = configuration.poolingWindow(index, of: map.shape[2])
            return map.sliced(axis: 1, from: 0, to: rows).sliced(axis: 2, from: 0, to: columns).globalAveragePool()
        }
        let pooled = concatenate(means, axis: 1)
        return Classification(logits: fc(pooled), pooled: pooled)
    }

    public var pyramidStrides: [Int] { [4, 8, 16, 32] }
    public var pyramidChannels: [Int] { [3, 5, 7, 9].map { configuration.widths[$0] } }
    public var headPrefixes: [String] { ["fc."] }
}

/// A convolution, batch norm and SiLU.
private func activatedConvolution(
    _ inputs: Int, _ outputs: Int, kernel: Int, stride: Int = 1, names: (conv: String, norm: String) = ("0", "1")
) -> ConvolutionNormActivation {
    ConvolutionNormActivation(inputs, outputs, kernel: kernel, stride: stride, activation: .silu, names: names)
}

extension ExMobileViT.Configuration {
    /// How much of the earlier attention stages the classifier sees.
    enum Variant: String, CaseIterable {
        case baseline
        case ex576 = "576"
        case ex640 = "640"
        case ex928 = "928"

        func classifierWidths(_ widths: [Int]) -> [Int] {
            switch self {
            case .baseline: [widths[10]]
            case .ex576: [32, 64, 480]
            case .ex640: [widths[5] / 3, widths[7], 3 * widths[9]]
            case .ex928: [widths[6], widths[8], widths[10]]
            }
        }
    }

    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("image_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        widths = try arguments.ints("channels", count: 11, default: widths, in: Limits.width)
        transformerWidths = try arguments.ints("dims", count: 3, default: transformerWidths, in: Limits.width)
        transformerDepths = try arguments.ints("depths", count: 3, default: transformerDepths, in: Limits.depth)
        heads = try arguments.int("heads", default: heads, in: Limits.heads)
        headSize = try arguments.int("dim_head", default: headSize, in: Limits.width)
        mlpRatios = try arguments.ints("mlp_ratios", count: 3, default: mlpRatios, in: 1...64)
        expansion = try arguments.int("expansion", default: expansion, in: 1...64)
        kernel = try arguments.int("kernel_size", default: kernel, in: 1...64)
        let patch = try arguments.pair("patch_size", default: (patchSize, patchSize), in: 1...64)
        guard patch.0 == patch.1 else {
            throw ArgumentError(field: "patch_size", found: "\(patch.0)×\(patch.1)", expected: "a square")
        }
        patchSize = patch.0
        if arguments.has("variant") {
            let variant = try arguments.choice("variant", of: Variant.self)
            classifierWidths = variant.classifierWidths(widths)
            (poolingWindows, poolingSide) = (variant == .baseline ? [8] : [25, 9, 8], 256)
        }
        classifierWidths = try arguments.ints("shortcut_widths", default: classifierWidths, in: Limits.width)
        if arguments.has("pool_windows") {
            poolingWindows = try arguments.ints("pool_windows", in: Limits.side)
            poolingSide = min(imageSize.height, imageSize.width)
        }
        dropout = try arguments.rate("dropout", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    public func validate() throws {
        guard classifierWidths.count == 1 || classifierWidths.count == 3 else {
            throw ArgumentError(
                field: "shortcut_widths", found: "\(classifierWidths.count) values",
                expected: "3, or 1 for the last stage alone")
        }
        guard poolingWindows.count == classifierWidths.count else {
            throw ArgumentError(
                field: "pool_windows", found: "\(poolingWindows.count) values",
                expected: "\(classifierWidths.count), as shortcut_widths has")
        }
        for (first, second) in [(2, 3), (4, 5), (6, 7), (8, 9)] where widths[first] != widths[second] {
            throw ArgumentError(
                field: "channels", found: "\(widths[first]) and \(widths[second]) at \(first) and \(second)",
                expected: "the same twice")
        }
        guard kernel % 2 == 1 else {
            throw ArgumentError(field: "kernel_size", found: "\(kernel)", expected: "an odd number")
        }
    }

    public func makeModel() -> any ImageClassifier { ExMobileViT(self) }

    init(_ variant: Variant) {
        classifierWidths = variant.classifierWidths(widths)
        if variant == .baseline { poolingWindows = [8] }
    }

    public static let baseline = Self(.baseline)
    public static let ex576 = Self(.ex576)
    public static let ex640 = Self(.ex640)
    public static let ex928 = Self(.ex928)
}

extension ExMobileViT {
    static let system = ModelSystem(
        id: "exmobilevit", title: "ExMobileViT: Lightweight Classifier Extension for Mobile Vision Transformer",
        year: 2023, arxiv: "2309.01310",
        variants: [
            ("MobileViT_S_repo_baseline", .baseline), ("ExMobileViT_576", .ex576), ("ExMobileViT_640", .ex640),
            ("ExMobileViT_928", .ex928),
        ] as [(String, Configuration)],
        reference: { _ in Configuration.ex928 })
}
