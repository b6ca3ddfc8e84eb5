import Tessera
import TesseraNN

/// ViT-Lite, CVT and CCT: "Escaping the Big Data Paradigm with Compact Transformers" (2021), arXiv 2104.05704.
///
/// Small transformers to be trained from scratch on small images. ViT-Lite is a small ViT with small patches; CVT
/// replaces the class token by sequence pooling, a learned weighting of the output tokens; CCT also replaces patches
/// by a convolutional tokenizer, so that any image size works.
///
/// The reference is SHI-Labs/Compact-Transformers (Apache-2.0). Its `_sine` constructors for CCT and CVT build a
/// learnable table by mistake; here the name means what it says.
public final class CompactTransformer: Module, ImageClassifier {
    /// The hyper-parameters of all three members of the family.
    public struct Configuration: ClassifierConfiguration, Hashable {
        public enum Kind: String, Codable, Sendable { case vitLite, cvt, cct }
        public enum Positions: String, Codable, Sendable, CaseIterable { case learnable, sine, none }

        public var kind = Kind.cct
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var width = 768
        public var depth = 14
        public var heads = 6
        public var mlpRatio: Float = 4
        public var positions = Positions.learnable
        /// Stages of the convolutional tokenizer (CCT).
        public var convolutions = 1
        /// The kernel of the tokenizer's convolutions; the patch size of ViT-Lite and CVT.
        public var kernel = 7
        public var stride = 2
        public var padding = 3
        public var poolingKernel = 3
        public var poolingStride = 2
        public var poolingPadding = 1
        public var dropout: Float = 0
        public var attentionDropout: Float = 0.1
        public var dropPath: Float = 0.1

        /// The rows and columns of tokens that an image of `size` becomes.
        func grid(_ size: Size) -> Size {
            guard kind == .cct else { return Size(size.height / kernel, size.width / kernel) }
            func extent(_ pixels: Int) -> Int {
                (0..<convolutions).reduce(pixels) { n, _ in
                    let convolved = (n + 2 * padding - kernel) / stride + 1
                    return (convolved + 2 * poolingPadding - poolingKernel) / poolingStride + 1
                }
            }
            return Size(extent(size.height), extent(size.width))
        }
    }

    let tokenizer: Tokenizer
    let classifier: Classifier
    let configuration: Configuration

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        self.configuration = configuration
        tokenizer = Tokenizer(configuration)
        classifier = Classifier(configuration)
    }

    public func features(_ image: Tensor) -> Features { classifier(tokenizer(image)) }

    /// Image to tokens: stages of convolution, ReLU and max-pooling, or one convolution over patches.
    final class Tokenizer: Module {
        let convLayers: [Stage]

        /// One stage; the reference numbers its parts, and only the convolution has weights.
        final class Stage: Module {
            let convolution: Convolution2D
            private let configuration: Configuration

            override var keys: [String: String] { ["convolution": "0"] }

            init(_ c: Configuration, _ inputs: Int, _ outputs: Int) {
                configuration = c
                let isPatch = c.kind != .cct
                convolution = Convolution2D(
                    inputs, outputs, kernel: c.kernel, stride: isPatch ? c.kernel : c.stride,
                    padding: isPatch ? 0 : c.padding, bias: isPatch,
                    initializer: .kaimingNormal(fan: inputs * c.kernel * c.kernel))
            }

            func callAsFunction(_ x: Tensor) -> Tensor {
                guard configuration.kind == .cct else { return convolution(x) }
                // ReLU after the maximum is the same function, and touches a quarter of the values.
                return convolution(x).maxPool(
                    kernel: configuration.poolingKernel, stride: configuration.poolingStride,
                    padding: configuration.poolingPadding
                ).relu()
            }
        }

        init(_ c: Configuration) {
            let hidden = 64
            let count = c.kind == .cct ? c.convolutions : 1
            convLayers = (0..<count).map {
                Stage(c, $0 == 0 ? c.channels : hidden, $0 == count - 1 ? c.width : hidden)
            }
        }

        /// `[batch, height, width, channels]` → `[batch, rows, columns, width]`
        func callAsFunction(_ image: Tensor) -> Tensor { convLayers.reduce(image) { $1($0) } }
    }

    /// Tokens to logits: positions, encoder, sequence pooling or class token, linear head.
    final class Classifier: Module {
        let classEmb: Parameter?
        let attentionPool: Linear?
        let positionalEmb: Parameter?
        let blocks: [Block]
        let norm: LayerNorm
        let fc: Linear
        private let configuration: Configuration

        init(_ c: Configuration) {
            configuration = c
            let hasClassToken = c.kind == .vitLite
            classEmb = hasClassToken ? Parameter([1, 1, c.width], .zeros) : nil
            attentionPool = hasClassToken ? nil : Linear(c.width, 1, initializer: .truncatedNormal(0.02))
            let grid = c.grid(c.imageSize)
            let count = grid.height * grid.width + (hasClassToken ? 1 : 0)
            switch c.positions {
            case .learnable: positionalEmb = Parameter([1, count, c.width], .truncatedNormal(0.2))
            case .sine:
                let width = c.width
                positionalEmb = Parameter(
                    [1, count, width],
                    Initializer { buffer, _ in
                        for (i, value) in PositionTable.sinusoids(count, width).enumerated() { buffer[i] = value }
                    }, isTrainable: false)
            case .none: positionalEmb = nil
            }
            blocks = DropPath.linear(to: c.dropPath, depth: c.depth).map { Block(c, dropPath: $0) }
            norm = LayerNorm(c.width, epsilon: 1e-5)
            fc = Linear(c.width, c.classes, initializer: .truncatedNormal(0.02))
        }

        /// `[batch, rows, columns, width]` → logits and what led to them.
        func callAsFunction(_ grid: Tensor) -> Features {
            let (batch, rows, columns, width) = (grid.shape[0], grid.shape[1], grid.shape[2], grid.shape[3])
            var x = grid.reshaped([batch, rows * columns, width])
            if let classEmb { x = concatenate([classEmb.tensor.broadcast(to: [batch, 1, width]), x], axis: 1) }
            if let positions = positions(Size(rows, columns)) { x = x + positions }
            x = Dropout(configuration.dropout)(x)
            let prefix = classEmb == nil ? 0 : 1
            for block in blocks {
                x = BlockProbe.show(checkpointed(block, x) { block($0) }, prefix: prefix, grid: Size(rows, columns))
            }
            let z = norm(x)
            let tokens = z.sliced(axis: 1, from: prefix, to: z.shape[1])
            let pooled: Tensor
            if let attentionPool {
                // Sequence pooling: a softmax over tokens weighs them into one vector.
                let weights = attentionPool(z).softmax(axis: 1)
                pooled = weights.multiplied(by: z, transposing: (true, false)).reshaped([batch, width])
            } else {
                pooled = z.sliced(axis: 1, from: 0, to: 1).reshaped([batch, width])
            }
            return Features(
                logits: fc(pooled), pooled: pooled, tokens: tokens.reshaped([batch, rows, columns, width]))
        }

        /// The table for a grid: as trained, resampled or computed anew for another image size.
        private func positions(_ grid: Size) -> Tensor? {
            guard let positionalEmb else { return nil }
            let trained = configuration.grid(configuration.imageSize)
            if grid == trained { return positionalEmb.tensor }
            let prefix = classEmb == nil ? 0 : 1
            if configuration.positions == .sine {
                let count = prefix + grid.height * grid.width
                return Tensor(PositionTable.sinusoids(count, configuration.width), [1, count, configuration.width])
            }
            return PositionTable.resampled(
                positionalEmb.tensor, prefix: prefix, from: (trained.height, trained.width),
                to: (grid.height, grid.width), .bilinear)
        }
    }

    /// The encoder layer. Its second residual starts from the *normalised* stream, unlike a pre-norm block:
    /// a = x + attention(norm(x)), b = norm(a), y = b + perceptron(b).
    final class Block: Module {
        let preNorm: LayerNorm
        let selfAttn: SelfAttention
        let linear1: Linear
        let norm1: LayerNorm
        let linear2: Linear
        private let dropPath: DropPath
        private let dropout: Dropout

        init(_ c: Configuration, dropPath: Float) {
            let initializer = Initializer.truncatedNormal(0.02)
            let hidden = Int(Float(c.width) * c.mlpRatio)
            preNorm = LayerNorm(c.width, epsilon: 1e-5, isForProducts: true)
            selfAttn = SelfAttention(
                c.width, heads: c.heads, qkvBias: false, attentionDropout: c.attentionDropout, dropout: c.dropout,
                initializer: initializer)
            linear1 = Linear(c.width, hidden, initializer: initializer)
            norm1 = LayerNorm(c.width, epsilon: 1e-5)
            linear2 = Linear(hidden, c.width, initializer: initializer)
            self.dropPath = DropPath(dropPath)
            dropout = Dropout(c.dropout)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let b = norm1(dropPath.adding(to: x) { selfAttn(preNorm($0), residual: $1) })
            return dropPath.adding(to: b) { b, residual in
                let hidden = dropout(linear1(b, activation: .gelu, isForProducts: true))
                if dropout.rate == 0 { return linear2(hidden, residual: residual) }
                let y = dropout(linear2(hidden))
                return residual.map { $0 + y } ?? y
            }
        }
    }

    public var headPrefixes: [String] { ["classifier.fc."] }
    public var prefixTokens: Int { configuration.kind == .vitLite ? 1 : 0 }

    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? {
        guard key == "classifier.positional_emb", tensor.rank == 3, tensor.shape[2] == configuration.width,
            let grid = PositionTable.squareGrid(tensor.shape[1], prefix: prefixTokens)
        else { return nil }
        let target = configuration.grid(configuration.imageSize)
        let count = prefixTokens + target.height * target.width
        if configuration.positions == .sine {
            return Tensor(PositionTable.sinusoids(count, configuration.width), [1, count, configuration.width])
        }
        return PositionTable.resampled(
            tensor, prefix: prefixTokens, from: grid, to: (target.height, target.width), .bilinear)
    }
}

extension CompactTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("n_input_channels", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("embedding_dim", default: width, in: Limits.width)
        depth = try arguments.int("num_layers", default: depth, in: Limits.depth)
        heads = try arguments.int("num_heads", default: heads, in: Limits.heads)
        mlpRatio = Float(try arguments.double("mlp_ratio", default: Double(mlpRatio), in: Limits.ratio))
        positions = try arguments.choice("positional_embedding", default: positions)
        kernel = try arguments.int("kernel_size", default: kernel, in: Limits.side)
        if kind == .cct {
            convolutions = try arguments.int("n_conv_layers", default: convolutions, in: 1...16)
            stride = try arguments.int("stride", default: stride, in: Limits.side)
            padding = try arguments.int("padding", default: padding, in: 0...1024)
            poolingKernel = try arguments.int("pooling_kernel_size", default: poolingKernel, in: Limits.side)
            poolingStride = try arguments.int("pooling_stride", default: poolingStride, in: Limits.side)
            poolingPadding = try arguments.int("pooling_padding", default: poolingPadding, in: 0...1024)
        }
        dropout = Float(try arguments.double("dropout", default: Double(dropout), in: Limits.rate))
        attentionDropout = Float(
            try arguments.double("attention_dropout", default: Double(attentionDropout), in: Limits.rate))
        dropPath = Float(try arguments.double("stochastic_depth", default: Double(dropPath), in: Limits.rate))
    }

    public func validate() throws {
        try require("embedding_dim", width, divisibleBy: heads, "num_heads")
        if kind != .cct {
            try require("img_size", imageSize.height, divisibleBy: kernel, "kernel_size")
            try require("img_size", imageSize.width, divisibleBy: kernel, "kernel_size")
        }
        let grid = grid(imageSize)
        guard grid.height > 0, grid.width > 0, kernel <= min(imageSize.height, imageSize.width) + 2 * padding else {
            throw ArgumentError(
                field: "img_size", found: "\(imageSize)",
                expected: "an image that the tokenizer does not shrink to nothing")
        }
    }

    public func makeModel() -> any ImageClassifier { CompactTransformer(self) }

    /// The family's rule: width, heads and perceptron grow with the depth; stride and padding follow from the kernel.
    init(_ kind: Kind, _ depth: Int, kernel: Int, convolutions: Int = 1, image: Int = 32, classes: Int = 10) {
        self.kind = kind
        self.depth = depth
        (width, heads, mlpRatio) = depth <= 4 ? (128, 2, 1) : depth <= 8 ? (256, 4, 2) : (384, 6, 3)
        self.kernel = kernel
        self.convolutions = convolutions
        (stride, padding) = (max(1, kernel / 2 - 1), max(1, kernel / 2))
        imageSize = Size(image)
        self.classes = classes
    }

    /// The same with a fixed table.
    public func sine() -> Self {
        var copy = self
        copy.positions = .sine
        return copy
    }

    /// CCT-2/3×2 for 32×32 images: two layers, two 3×3 convolutions, 0.28 M parameters.
    public static let cct2k3x2 = Self(.cct, 2, kernel: 3, convolutions: 2)
    public static let cct4k3x2 = Self(.cct, 4, kernel: 3, convolutions: 2)
    public static let cct6k3x1 = Self(.cct, 6, kernel: 3)
    public static let cct6k3x2 = Self(.cct, 6, kernel: 3, convolutions: 2)
    public static let cct7k3x1 = Self(.cct, 7, kernel: 3)
    public static let cct7k3x2 = Self(.cct, 7, kernel: 3, convolutions: 2)
    public static let cct7k7x2 = Self(.cct, 7, kernel: 7, convolutions: 2, image: 224, classes: 102)
    public static let cct14k7x2 = Self(.cct, 14, kernel: 7, convolutions: 2, image: 224, classes: 1000)
}

extension CompactTransformer {
    static let system: ModelSystem = {
        typealias C = Configuration
        var variants: [(String, C)] = []
        func add(_ name: String, _ configuration: C) {
            variants.append((name, configuration))
            variants.append((name + "_sine", configuration.sine()))
        }
        add("cct_2_3x2_32", .cct2k3x2)
        add("cct_4_3x2_32", .cct4k3x2)
        add("cct_6_3x1_32", .cct6k3x1)
        add("cct_6_3x2_32", .cct6k3x2)
        add("cct_7_3x1_32", .cct7k3x1)
        let hundred = C(.cct, 7, kernel: 3, classes: 100)
        variants += [("cct_7_3x1_32_c100", hundred), ("cct_7_3x1_32_sine_c100", hundred.sine())]
        add("cct_7_3x2_32", .cct7k3x2)
        add("cct_7_7x2_224", .cct7k7x2)
        variants += [
            ("cct_14_7x2_224", .cct14k7x2),
            ("cct_14_7x2_384", C(.cct, 14, kernel: 7, convolutions: 2, image: 384, classes: 1000)),
            ("cct_14_7x2_384_fl", C(.cct, 14, kernel: 7, convolutions: 2, image: 384, classes: 102)),
        ]
        for depth in [2, 4, 6, 7] { add("cvt_\(depth)_4_32", C(.cvt, depth, kernel: 4)) }
        for depth in [2, 4, 6, 7] { add("vit_\(depth)_4_32", C(.vitLite, depth, kernel: 4)) }
        variants += [
            ("vit_lite_7_8_32", C(.vitLite, 7, kernel: 8)), ("vit_lite_7_16_32", C(.vitLite, 7, kernel: 16)),
            ("cvt_7_8_32", C(.cvt, 7, kernel: 8)), ("vit_lite_6_8_32", C(.vitLite, 6, kernel: 8)),
            ("cvt_6_8_32", C(.cvt, 6, kernel: 8)), ("cvt_8_4_32", C(.cvt, 8, kernel: 4)),
        ]
        return ModelSystem(
            id: "cct", title: "Escaping the Big Data Paradigm with Compact Transformers", year: 2021,
            arxiv: "2104.05704", variants: variants,
            reference: { reference in
                var configuration = C()
                if reference.contains("cvt.CVT") { configuration.kind = .cvt }
                if reference.contains("vit.ViTLite") { configuration.kind = .vitLite }
                return configuration
            })
    }()
}
