import Tessera
import TesseraNN

/// Three models of patches in which a linear map over all places takes the part of attention:
///
/// - MLP-Mixer: "MLP-Mixer: An all-MLP Architecture for Vision" (2021), arXiv 2105.01601: a perceptron over the places,
///   then one over the channels;
/// - ResMLP: "ResMLP: Feedforward networks for image classification with data-efficient training" (2021), arXiv
///   2105.03404: one linear map over the places, affine maps instead of norms, layer scale;
/// - gMLP: "Pay Attention to MLPs" (2021), arXiv 2105.08050: a single perceptron, half of whose hidden channels, mixed
///   over the places, gates the other half.
///
/// The maps over the places fix the number of patches. The reference is timm's `MlpMixer`
/// (huggingface/pytorch-image-models, Apache-2.0).
public final class MLPMixer: Module, ImageClassifier {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public enum Mixing: String, Codable, Sendable, CaseIterable {
            case perceptron = "MixerBlock"
            case linear = "ResBlock"
            case gating = "SpatialGatingBlock"
        }

        public var imageSize = Size(224)
        public var patchSize = Size(16)
        public var channels = 3
        public var classes = 1000
        public var mixing = Mixing.perceptron
        public var width = 512
        public var depth = 8
        /// The hidden width of the perceptron over the places, relative to `width`.
        public var tokenRatio = 0.5
        public var mlpRatio = 4.0
        /// A norm right after the patch embedding.
        public var normalizesStem = false
        public var headDropout: Float = 0
        public var dropout: Float = 0
        public var dropPath: Float = 0

        var grid: Size { Size(imageSize.height / patchSize.height, imageSize.width / patchSize.width) }
        var places: Int { grid.height * grid.width }
        var hidden: Int { Int(Double(width) * mlpRatio) }
    }

    let stem: Stem
    let blocks: [Block]
    let norm: any Layer
    let head: Linear
    let configuration: Configuration

    /// - Precondition: the configuration is valid.
    public init(_ c: Configuration) {
        configuration = c
        stem = Stem(c)
        // The rate is the same for all blocks.
        blocks = (0..<c.depth).map { _ in
            switch c.mixing {
            case .perceptron: MixerBlock(c)
            case .linear: ResidualBlock(c)
            case .gating: GatingBlock(c)
            }
        }
        norm = c.mixing == .linear ? Affine(c.width) : LayerNorm(c.width, epsilon: 1e-6)
        head = Linear(c.width, c.classes, initializer: .zeros)
    }

    final class Stem: Module {
        let proj: Convolution2D
        let norm: LayerNorm?

        init(_ c: Configuration) {
            let fan = c.channels * c.patchSize.height * c.patchSize.width
            proj = Convolution2D(
                c.channels, c.width, kernel: (c.patchSize.height, c.patchSize.width),
                stride: (c.patchSize.height, c.patchSize.width),
                initializer: .truncatedNormal((1 / Float(fan)).squareRoot()), biasInitializer: .zeros)
            norm = c.normalizesStem ? LayerNorm(c.width, epsilon: 1e-6) : nil
        }
    }

    /// Tokens `[batch, places, channels]` → the same.
    class Block: Module {
        func callAsFunction(_ x: Tensor) -> Tensor { preconditionFailure("a block of no kind") }
    }

    /// x + perceptron over places, then x + perceptron over channels.
    final class MixerBlock: Block {
        let norm1: LayerNorm
        let mlpTokens: FeedForward
        let norm2: LayerNorm
        let mlpChannels: FeedForward
        private let dropPath: DropPath

        init(_ c: Configuration) {
            norm1 = LayerNorm(c.width, epsilon: 1e-6)
            mlpTokens = perceptron(c.places, Int(Double(c.width) * c.tokenRatio), c)
            norm2 = LayerNorm(c.width, epsilon: 1e-6)
            mlpChannels = perceptron(c.width, c.hidden, c)
            dropPath = DropPath(c.dropPath)
        }

        override func callAsFunction(_ x: Tensor) -> Tensor {
            let x = x + dropPath(mlpTokens(norm1.forward(x).transposed([0, 2, 1])).transposed([0, 2, 1]))
            return x + dropPath(mlpChannels(norm2.forward(x)))
        }
    }

    /// x + scale · linear over places, then x + scale · perceptron over channels.
    final class ResidualBlock: Block {
        let norm1: Affine
        let linearTokens: Linear
        let ls1: Parameter
        let norm2: Affine
        let mlpChannels: FeedForward
        let ls2: Parameter
        private let dropPath: DropPath

        init(_ c: Configuration) {
            // Deeper models begin closer to the identity.
            let scale = Initializer.constant(c.depth <= 18 ? 1e-4 : c.depth <= 24 ? 1e-5 : 1e-6)
            norm1 = Affine(c.width)
            linearTokens = Linear(
                c.places, c.places, initializer: .xavierUniform(fanIn: c.places, fanOut: c.places))
            norm2 = Affine(c.width)
            mlpChannels = perceptron(c.width, c.hidden, c)
            (ls1, ls2) = (Parameter([c.width], scale), Parameter([c.width], scale))
            dropPath = DropPath(c.dropPath)
        }

        override func callAsFunction(_ x: Tensor) -> Tensor {
            let mixed = linearTokens(norm1.forward(x).transposed([0, 2, 1])).transposed([0, 2, 1])
            let x = x + dropPath(mixed * ls1.tensor)
            return x + dropPath(mlpChannels(norm2.forward(x)) * ls2.tensor)
        }
    }

    /// α x + β for each channel.
    final class Affine: Module, Layer {
        let alpha: Parameter
        let beta: Parameter

        init(_ width: Int) {
            (alpha, beta) = (Parameter([1, 1, width], .ones), Parameter([1, 1, width], .zeros))
        }

        func forward(_ x: Tensor) -> Tensor { x * alpha.tensor + beta.tensor }
    }

    /// x + gated perceptron.
    final class GatingBlock: Block {
        let norm: LayerNorm
        let mlpChannels: GatedFeedForward
        private let dropPath: DropPath

        init(_ c: Configuration) {
            norm = LayerNorm(c.width, epsilon: 1e-6)
            mlpChannels = GatedFeedForward(c)
            dropPath = DropPath(c.dropPath)
        }

        override func callAsFunction(_ x: Tensor) -> Tensor { x + dropPath(mlpChannels(norm(x))) }
    }

    final class GatedFeedForward: Module {
        let fc1: Linear
        let gate: SpatialGate
        let fc2: Linear
        private let dropout: Dropout

        init(_ c: Configuration) {
            let noise = Initializer.normal(1e-6)
            fc1 = Linear(
                c.width, c.hidden, initializer: .xavierUniform(fanIn: c.width, fanOut: c.hidden),
                biasInitializer: noise)
            gate = SpatialGate(c)
            fc2 = Linear(
                c.hidden / 2, c.width, initializer: .xavierUniform(fanIn: c.hidden / 2, fanOut: c.width),
                biasInitializer: noise)
            dropout = Dropout(c.dropout)
        }

        func callAsFunction(_ x: Tensor) -> Tensor { dropout(fc2(gate(dropout(fc1(x, activation: .gelu))))) }
    }

    /// u · (linear over places of norm(v)), for the halves u and v of the channels; u itself at first.
    final class SpatialGate: Module {
        let norm: LayerNorm
        let proj: Linear

        init(_ c: Configuration) {
            norm = LayerNorm(c.hidden / 2, epsilon: 1e-5)
            proj = Linear(c.places, c.places, initializer: .normal(1e-6), biasInitializer: .ones)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let half = x.shape[2] / 2
            let halves = x.split(axis: 2, sizes: [half, half])
            return halves[0] * proj(norm(halves[1]).transposed([0, 2, 1])).transposed([0, 2, 1])
        }
    }

    /// - Precondition: the image has the size that the model was built for.
    public func features(_ image: Tensor) -> Features {
        let map = stem.proj(image)
        let (batch, rows, columns, width) = (map.shape[0], map.shape[1], map.shape[2], map.shape[3])
        precondition(
            Size(rows, columns) == configuration.grid,
            "this mixer is for \(configuration.grid) patches, not \(rows)×\(columns)")
        let embedded = map.reshaped([batch, rows * columns, width])
        let tokens = blocks.reduce(stem.norm.map { $0(embedded) } ?? embedded) { x, block in
            checkpointed(block, x) { block($0) }
        }
        let last = norm.forward(tokens)
        let pooled = last.mean(axes: [1])
        return Features(
            logits: head(Dropout(configuration.headDropout)(pooled)), pooled: pooled, tokens: last.reshaped(map.shape))
    }

    public var headPrefixes: [String] { ["head."] }
}

private func perceptron(_ width: Int, _ hidden: Int, _ c: MLPMixer.Configuration) -> FeedForward {
    FeedForward(
        width, hidden: hidden, dropout: c.dropout, initializer: .xavierUniform(fanIn: width, fanOut: hidden),
        biasInitializer: .normal(1e-6))
}

extension MLPMixer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        let patch = try arguments.pair("patch_size", default: (patchSize.height, patchSize.width), in: Limits.side)
        patchSize = Size(patch.0, patch.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        mixing = try arguments.choice("block", default: mixing)
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depth = try arguments.int("num_blocks", default: depth, in: Limits.depth)
        if mixing == .perceptron {
            let ratios = try arguments.doubles(
                "mlp_ratio", count: 2, default: [tokenRatio, mlpRatio], in: Limits.ratio)
            (tokenRatio, mlpRatio) = (ratios[0], ratios[1])
        } else {
            mlpRatio = try arguments.double("mlp_ratio", default: mlpRatio, in: Limits.ratio)
        }
        normalizesStem = try arguments.bool("stem_norm", default: normalizesStem)
        headDropout = try arguments.rate("drop_rate", headDropout)
        dropout = try arguments.rate("proj_drop_rate", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        // Each kind of block has its own norm and perceptron; a file may name them all the same.
        for (name, value) in [
            ("norm", mixing == .linear ? "Affine" : "LayerNorm"), ("mlp", mixing == .gating ? "GatedMlp" : "Mlp"),
        ] {
            let found = try arguments.string(name, default: value)
            guard found == value else {
                throw ArgumentError(field: name, found: found, expected: "\(value) in \(mixing.rawValue)")
            }
        }
    }

    public func validate() throws {
        try require("img_size", imageSize.height, divisibleBy: patchSize.height, "patch_size")
        try require("img_size", imageSize.width, divisibleBy: patchSize.width, "patch_size")
        if mixing == .gating { try require("embed_dim · mlp_ratio", hidden, divisibleBy: 2, "two halves") }
    }

    public func makeModel() -> any ImageClassifier { MLPMixer(self) }

    init(_ mixing: Mixing = .perceptron, width: Int, depth: Int, patch: Int = 16) {
        (self.mixing, self.width, self.depth, patchSize) = (mixing, width, depth, Size(patch))
        if mixing == .gating { mlpRatio = 6 }
    }
}

extension MLPMixer {
    static let system = ModelSystem(
        id: "mlp_mixer", group: "vision_mlp", title: "MLP-Mixer: An all-MLP Architecture for Vision", year: 2021,
        arxiv: "2105.01601",
        variants: [
            ("mixer_s32_224", Configuration(width: 512, depth: 8, patch: 32)),
            ("mixer_s16_224", Configuration(width: 512, depth: 8)),
            ("mixer_b32_224", Configuration(width: 768, depth: 12, patch: 32)),
            ("mixer_b16_224", Configuration(width: 768, depth: 12)),
            ("mixer_l32_224", Configuration(width: 1024, depth: 24, patch: 32)),
            ("mixer_l16_224", Configuration(width: 1024, depth: 24)),
        ],
        reference: { $0.contains("MixerBlock") ? Configuration(width: 512, depth: 8) : nil })

    static let residualSystem = ModelSystem(
        id: "resmlp", group: "vision_mlp",
        title: "ResMLP: Feedforward networks for image classification with data-efficient training", year: 2021,
        arxiv: "2105.03404",
        variants: [
            ("resmlp_12_224", Configuration(.linear, width: 384, depth: 12)),
            ("resmlp_24_224", Configuration(.linear, width: 384, depth: 24)),
            ("resmlp_36_224", Configuration(.linear, width: 384, depth: 36)),
            ("resmlp_big_24_224", Configuration(.linear, width: 768, depth: 24, patch: 8)),
        ],
        reference: { $0.contains("ResBlock") ? Configuration(.linear, width: 384, depth: 12) : nil })

    static let gatedSystem = ModelSystem(
        id: "gmlp", group: "vision_mlp", title: "Pay Attention to MLPs", year: 2021, arxiv: "2105.08050",
        variants: [
            ("gmlp_ti16_224", Configuration(.gating, width: 128, depth: 30)),
            ("gmlp_s16_224", Configuration(.gating, width: 256, depth: 30)),
            ("gmlp_b16_224", Configuration(.gating, width: 512, depth: 30)),
        ],
        reference: { $0.contains("SpatialGatingBlock") ? Configuration(.gating, width: 256, depth: 30) : nil })
}
