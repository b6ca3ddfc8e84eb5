import Tessera
import TesseraNN

/// MobileViT: "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer" (2021), arXiv
/// 2110.02178.
///
/// A mobile convolutional network in whose three coarsest stages a transformer runs across the map's patches of 2×2
/// pixels, for each of the four pixels of a patch on its own: attention sees the whole map and costs little.
///
/// The reference is timm's `ByobNet` with `MobileVitBlock` (huggingface/pytorch-image-models, Apache-2.0). Its published
/// weights want pixels in 0...1 without further normalisation.
public final class MobileViT: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(256)
        public var channels = 3
        public var classes = 1000
        public var stemWidth = 16
        public var widths = [32, 64, 96, 128, 160]
        /// Channels of the transformers of the last three stages.
        public var transformerWidths = [144, 192, 240]
        public var transformerDepths = [2, 4, 3]
        public var heads = 4
        public var mlpRatio = 2.0
        public var patchSize = 2
        /// By how much inverted residuals widen.
        public var expansion = 4.0
        /// Inverted residuals of the second stage.
        public var repeats = 3
        /// Channels before the classifier.
        public var headWidth = 640
        public var dropout: Float = 0
        public var transformerDropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0

        /// Channels of a stage, as many as there are in the end.
        func width(_ stage: Int) -> Int { Self.rounded(Double(widths[stage])) }

        /// Channels inside an inverted residual.
        func hidden(_ inputs: Int) -> Int { Self.rounded(Double(inputs) * expansion) }

        /// The nearest multiple of 8 that is at least nine tenths of what is wanted.
        private static func rounded(_ wanted: Double) -> Int {
            let rounded = max(8, Int(wanted + 4) / 8 * 8)
            return Double(rounded) < 0.9 * wanted ? rounded + 8 : rounded
        }
    }

    let stem: ConvolutionNormActivation
    let stages: [[any Layer]]
    let finalConv: ConvolutionNormActivation
    let head: Linear
    let configuration: Configuration

    public override var keys: [String: String] { ["head": "head.fc"] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        stem = activatedConvolution(c.channels, c.stemWidth, kernel: 3, stride: 2)
        var inputs = c.stemWidth
        func residual(_ outputs: Int, stride: Int) -> InvertedResidual {
            defer { inputs = outputs }
            return InvertedResidual(
                inputs, outputs, hidden: c.hidden(inputs), stride: stride, activation: .silu, naming: .timm,
                zeroesLastNorm: true, initializer: { .kaimingNormal(fan: $0) })
        }
        var rates = DropPath.linear(to: c.dropPath, depth: c.transformerDepths.reduce(0, +))[...]
        stages = c.widths.indices.map { index -> [any Layer] in
            let width = c.width(index)
            switch index {
            case 0: return [residual(width, stride: 1)]
            case 1: return (0..<c.repeats).map { residual(width, stride: $0 == 0 ? 2 : 1) }
            default:
                defer { rates = rates.dropFirst(c.transformerDepths[index - 2]) }
                return [
                    residual(width, stride: 2),
                    Block(c, index - 2, dropPath: Array(rates.prefix(c.transformerDepths[index - 2]))),
                ]
            }
        }
        finalConv = activatedConvolution(inputs, c.headWidth, kernel: 1)
        head = Linear(c.headWidth, c.classes, initializer: .normal(0.01))
    }

    /// Convolutions around a transformer; what went in is concatenated with what comes out.
    final class Block: Module, Layer {
        let convKxk: ConvolutionNormActivation
        let conv1x1: Convolution2D
        let transformer: [TransformerLayer]
        let norm: LayerNorm
        let convProj: ConvolutionNormActivation
        let convFusion: ConvolutionNormActivation
        private let patchSize: Int

        override var keys: [String: String] { ["conv1x1": "conv_1x1"] }

        init(_ c: Configuration, _ index: Int, dropPath: [Float]) {
            let (width, inner) = (c.width(index + 2), c.transformerWidths[index])
            convKxk = activatedConvolution(width, width, kernel: 3)
            conv1x1 = Convolution2D(width, inner, kernel: 1, bias: false, initializer: .kaimingNormal(fan: inner))
            transformer = dropPath.map { TransformerLayer(c, inner, dropPath: $0) }
            norm = LayerNorm(inner, epsilon: 1e-5)
            convProj = activatedConvolution(inner, width, kernel: 1)
            convFusion = activatedConvolution(2 * width, width, kernel: 3)
            patchSize = c.patchSize
        }

        func forward(_ x: Tensor) -> Tensor {
            let mixed = acrossPatches(conv1x1(convKxk(x)), side: patchSize) { sequences in
                norm(transformer.reduce(sequences) { x, layer in checkpointed(layer, x) { layer($0) } })
            }
            return convFusion(concatenate([x, convProj(mixed)], axis: 3))
        }
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)).
    final class TransformerLayer: Module {
        let norm1: LayerNorm
        let attn: SelfAttention
        let norm2: LayerNorm
        let mlp: FeedForward
        private let dropPath: DropPath

        init(_ c: Configuration, _ width: Int, dropPath: Float) {
            norm1 = LayerNorm(width, epsilon: 1e-5, isForProducts: true)
            attn = SelfAttention(
                width, heads: c.heads, qkvBias: true, attentionDropout: c.attentionDropout,
                dropout: c.transformerDropout, initializer: .normal(0.01))
            norm2 = LayerNorm(width, epsilon: 1e-5, isForProducts: true)
            mlp = FeedForward(
                width, hidden: Int(Double(width) * c.mlpRatio), activation: .silu, dropout: c.transformerDropout,
                initializer: .normal(0.01))
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = dropPath.adding(to: x) { attn(norm1($0), residual: $1) }
            return dropPath.adding(to: x) { mlp(norm2($0), residual: $1) }
        }
    }

    /// The maps of all stages, the first one at half the image's resolution.
    private func maps(_ image: Tensor) -> [Tensor] {
        var x = stem(image)
        return stages.map { stage in
            x = stage(x)
            return x
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] { Array(maps(image).dropFirst()) }

    public func features(_ image: Tensor) -> Features {
        let last = finalConv(maps(image).last!)
        let pooled = last.globalAveragePool()
        return Features(logits: head(Dropout(configuration.dropout)(pooled)), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] { [4, 8, 16, 32] }
    public var pyramidChannels: [Int] { configuration.widths.indices.dropFirst().map(configuration.width) }
    public var headPrefixes: [String] { ["head.fc."] }
}

/// Runs `body` on one sequence for each of the side² places inside a patch: that place of every patch of the map.
///
/// A map whose sides are no multiple of `side` is enlarged before and shrunk again after, bilinearly.
/// - Parameter body: `[batch · side², patches, channels]` → the same
func acrossPatches(_ map: Tensor, side: Int, _ body: (Tensor) -> Tensor) -> Tensor {
    let (batch, height, width, channels) = (map.shape[0], map.shape[1], map.shape[2], map.shape[3])
    let (rows, columns) = ((height + side - 1) / side, (width + side - 1) / side)
    let isWhole = (rows * side, columns * side) == (height, width)
    let whole = isWhole ? map : map.resized(height: rows * side, width: columns * side, interpolation: .bilinear)
    let sequences = whole.reshaped([batch, rows, side, columns, side, channels]).transposed([0, 2, 4, 1, 3, 5])
        .reshaped([batch * side * side, rows * columns, channels])
    let folded = body(sequences).reshaped([batch, side, side, rows, columns, channels])
        .transposed([0, 3, 1, 4, 2, 5]).reshaped(whole.shape)
    return isWhole ? folded : folded.resized(height: height, width: width, interpolation: .bilinear)
}

/// A convolution, batch norm and SiLU.
private func activatedConvolution(_ inputs: Int, _ outputs: Int, kernel: Int, stride: Int = 1)
    -> ConvolutionNormActivation
{
    ConvolutionNormActivation(
        inputs, outputs, kernel: kernel, stride: stride, activation: .silu,
        initializer: .kaimingNormal(fan: outputs * kernel * kernel))
}

extension MobileViT.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        // The reference takes any image size; here it says at which size the model is trained and measured.
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        if arguments.has("input") {
            let input = try arguments.ints("input", count: 3, in: Limits.side)
            (channels, imageSize) = (input[0], Size(input[1], input[2]))
        }
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        stemWidth = try arguments.int("stem_channels", default: stemWidth, in: Limits.width)
        widths = try arguments.ints("stage_channels", default: widths, in: Limits.width)
        transformerWidths = try arguments.ints("transformer_dims", default: transformerWidths, in: Limits.width)
        transformerDepths = try arguments.ints("transformer_depths", default: transformerDepths, in: Limits.depth)
        heads = try arguments.int("num_heads", default: heads, in: Limits.heads)
        mlpRatio = try arguments.double("mlp_ratio", default: mlpRatio, in: Limits.ratio)
        patchSize = try arguments.int("patch_size", default: patchSize, in: 1...64)
        expansion = try arguments.double("expansion", default: expansion, in: Limits.ratio)
        repeats = try arguments.int("stage1_repeats", default: repeats, in: Limits.depth)
        headWidth = try arguments.int("num_features", default: headWidth, in: Limits.width)
        dropout = try arguments.rate("drop_rate", dropout)
        transformerDropout = try arguments.rate("proj_drop_rate", transformerDropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        _ = try arguments.int("hidden_channel_divisor", default: 8, in: 8...8)
    }

    public func validate() throws {
        for (name, values, count) in [
            ("stage_channels", widths, 5), ("transformer_dims", transformerWidths, 3),
            ("transformer_depths", transformerDepths, 3),
        ] where values.count != count {
            throw ArgumentError(field: name, found: "\(values.count) values", expected: "\(count)")
        }
        for width in transformerWidths { try require("transformer_dims", width, divisibleBy: heads, "num_heads") }
    }

    public func makeModel() -> any ImageClassifier { MobileViT(self) }

    init(_ widths: [Int], transformers: [Int], head: Int, expansion: Double) {
        (self.widths, transformerWidths, headWidth, self.expansion) = (widths, transformers, head, expansion)
    }

    public static let extraExtraSmall = Self(
        [16, 24, 48, 64, 80], transformers: [64, 80, 96], head: 320, expansion: 2)
    public static let extraSmall = Self(
        [32, 48, 64, 80, 96], transformers: [96, 120, 144], head: 384, expansion: 4)
    public static let small = Self(
        [32, 64, 96, 128, 160], transformers: [144, 192, 240], head: 640, expansion: 4)
}

extension MobileViT {
    static let system = ModelSystem(
        id: "mobilevit", title: "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer",
        year: 2021, arxiv: "2110.02178",
        variants: [
            ("mobilevit_xxs", .extraExtraSmall), ("mobilevit_xs", .extraSmall), ("mobilevit_s", .small),
        ] as [(String, Configuration)],
        reference: { _ in Configuration.small })
}
