import Tessera
import TesseraNN

/// CvT: "CvT: Introducing Convolutions to Vision Transformers" (2021), arXiv 2103.15808.
///
/// Three stages, each begun by an overlapping convolution. Queries, keys and values are depthwise convolutions of the
/// map before they are projected, keys and values with stride 2, so that nothing needs position embeddings and every
/// image size works. A class token joins in the last stage only.
///
/// The reference is microsoft/CvT (MIT). Its attention scores are scaled by 1/√channels, not by 1/√size of a head; a
/// trained model depends on it.
public final class ConvolutionalVisionTransformer: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        /// What makes queries, keys and values of a map, before the linear projections.
        public enum Projection: String, Codable, Sendable, CaseIterable {
            /// A depthwise convolution and a batch norm.
            case depthwise = "dw_bn"
            /// The mean over a neighbourhood, for keys and values only.
            case average = "avg"
            /// Nothing: attention between all places.
            case linear
        }

        public enum Initialization: String, Codable, Sendable, CaseIterable {
            case truncatedNormal = "trunc_norm"
            case xavier
        }

        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var activation = Activation.quickGelu
        public var initialization = Initialization.truncatedNormal
        public var patchSizes = [7, 3, 3]
        public var patchStrides = [4, 2, 2]
        public var patchPaddings = [2, 1, 1]
        public var widths = [64, 192, 384]
        public var heads = [1, 3, 6]
        public var depths = [1, 2, 10]
        public var mlpRatios: [Double] = [4, 4, 4]
        public var qkvBiases = [true, true, true]
        public var classTokens = [false, false, true]
        public var projections = [Projection](repeating: .depthwise, count: 3)
        public var kernels = [3, 3, 3]
        public var queryStrides = [1, 1, 1]
        public var queryPaddings = [1, 1, 1]
        public var keyStrides = [2, 2, 2]
        public var keyPaddings = [1, 1, 1]
        public var dropouts: [Float] = [0, 0, 0]
        public var attentionDropouts: [Float] = [0, 0, 0]
        /// The rate of stochastic depth at the last block of each stage; it grows from 0 in every stage.
        public var dropPaths: [Float] = [0, 0, 0.1]

        public var dropPath: Float {
            get { dropPaths.last ?? 0 }
            set { dropPaths[dropPaths.count - 1] = newValue }
        }

        var initializer: (_ inputs: Int, _ outputs: Int) -> Initializer {
            initialization == .xavier
                ? { .xavierUniform(fanIn: $0, fanOut: $1) } : { _, _ in .truncatedNormal(0.02) }
        }
    }

    let stages: [Stage]
    let norm: LayerNorm
    let head: Linear
    let configuration: Configuration

    public override var keys: [String: String] { ["stages": ""] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        stages = c.widths.indices.map { Stage(c, $0) }
        norm = LayerNorm(c.widths.last!, epsilon: 1e-5)
        head = Linear(
            c.widths.last!, c.classes, initializer: .truncatedNormal(0.02), biasInitializer: .fanIn(c.widths.last!))
    }

    final class Stage: Module {
        let patchEmbed: NormalizedPatchEmbedding
        let clsToken: Parameter?
        let blocks: [Block]
        private let index: Int
        private let dropout: Dropout

        override var keys: [String: String] {
            [
                "patchEmbed": "stage\(index).patch_embed", "clsToken": "stage\(index).cls_token",
                "blocks": "stage\(index).blocks",
            ]
        }

        init(_ c: Configuration, _ index: Int) {
            self.index = index
            let width = c.widths[index]
            patchEmbed = NormalizedPatchEmbedding(
                index == 0 ? c.channels : c.widths[index - 1], width, kernel: c.patchSizes[index],
                stride: c.patchStrides[index], padding: c.patchPaddings[index])
            clsToken = c.classTokens[index] ? Parameter([1, 1, width], .truncatedNormal(0.02)) : nil
            blocks = DropPath.linear(to: c.dropPaths[index], depth: c.depths[index]).map {
                Block(c, index, dropPath: $0)
            }
            dropout = Dropout(c.dropouts[index])
        }

        /// A map → the next map, and the class token `[batch, 1, width]` if the stage has one.
        func callAsFunction(_ image: Tensor) -> (map: Tensor, token: Tensor?) {
            let map = patchEmbed(image)
            let (batch, grid, width) = (map.shape[0], Size(map.shape[1], map.shape[2]), map.shape[3])
            var x = map.reshaped([batch, grid.height * grid.width, width])
            if let clsToken { x = concatenate([clsToken.tensor.broadcast(to: [batch, 1, width]), x], axis: 1) }
            x = dropout(x)
            for block in blocks {
                x = checkpointed(block, x) { block($0, grid: grid) }
                x = BlockProbe.show(x, prefix: clsToken == nil ? 0 : 1, grid: grid)
            }
            let (token, places) = clsToken == nil ? (nil, x) : separated(x)
            return (places.reshaped(map.shape), token)
        }
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)), on tokens.
    final class Block: Module {
        let norm1: LayerNorm
        let attn: ConvolutionalAttention
        let norm2: LayerNorm
        let mlp: FeedForward
        private let dropPath: DropPath

        init(_ c: Configuration, _ stage: Int, dropPath: Float) {
            let width = c.widths[stage]
            let hidden = Int(Double(width) * c.mlpRatios[stage])
            norm1 = LayerNorm(width, epsilon: 1e-5)
            attn = ConvolutionalAttention(c, stage)
            norm2 = LayerNorm(width, epsilon: 1e-5)
            mlp = FeedForward(
                width, hidden: hidden, activation: c.activation, dropout: c.dropouts[stage],
                initializer: c.initializer(width, hidden))
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor, grid: Size) -> Tensor {
            let x = x + dropPath(attn(norm1(x), grid: grid))
            return dropPath.isActive ? x + dropPath(mlp(norm2(x))) : mlp(norm2(x), residual: x)
        }
    }

    /// Attention whose queries, keys and values are convolved before they are projected; the class token is not.
    final class ConvolutionalAttention: Module {
        let convProjQ: ConvolutionNormActivation?
        let convProjK: ConvolutionNormActivation?
        let convProjV: ConvolutionNormActivation?
        let projQ: Linear
        let projK: Linear
        let projV: Linear
        let proj: Linear
        private let heads: Int
        private let hasToken: Bool
        /// How keys and values are averaged, if they are.
        private let pooling: (kernel: Int, stride: Int, padding: Int)?
        private let attentionDropout: Float
        private let dropout: Dropout

        init(_ c: Configuration, _ stage: Int) {
            let width = c.widths[stage]
            let kernel = c.kernels[stage]
            let isConvolved = c.projections[stage] == .depthwise
            func convolution(stride: Int, padding: Int) -> ConvolutionNormActivation? {
                guard isConvolved else { return nil }
                return ConvolutionNormActivation(
                    width, width, kernel: kernel, stride: stride, padding: padding, groups: width)
            }
            func linear(bias: Bool) -> Linear {
                Linear(width, width, bias: bias, initializer: c.initializer(width, width))
            }
            convProjQ = convolution(stride: c.queryStrides[stage], padding: c.queryPaddings[stage])
            convProjK = convolution(stride: c.keyStrides[stage], padding: c.keyPaddings[stage])
            convProjV = convolution(stride: c.keyStrides[stage], padding: c.keyPaddings[stage])
            projQ = linear(bias: c.qkvBiases[stage])
            projK = linear(bias: c.qkvBiases[stage])
            projV = linear(bias: c.qkvBiases[stage])
            proj = linear(bias: true)
            heads = c.heads[stage]
            hasToken = c.classTokens[stage]
            pooling =
                c.projections[stage] == .average ? (kernel, c.keyStrides[stage], c.keyPaddings[stage]) : nil
            attentionDropout = c.attentionDropouts[stage]
            dropout = Dropout(c.dropouts[stage])
        }

        /// `[batch, tokens, channels]` → the same
        func callAsFunction(_ x: Tensor, grid: Size) -> Tensor {
            let (batch, channels) = (x.shape[0], x.shape[2])
            let (token, places) = hasToken ? separated(x) : (nil, x)
            let map = places.reshaped([batch, grid.height, grid.width, channels])
            func tokens(_ map: Tensor) -> Tensor {
                let flat = map.reshaped([batch, map.shape[1] * map.shape[2], channels])
                return token.map { concatenate([$0, flat], axis: 1) } ?? flat
            }
            let pooled = pooling.map {
                map.averagePool(kernel: $0.kernel, stride: $0.stride, padding: $0.padding, ceilMode: true)
            }
            let pass = attentionDropout > 0 ? TrainingPass.current : nil
            let mixed = attention(
                projQ(tokens(convProjQ?(map) ?? map)), projK(tokens(convProjK?(map) ?? pooled ?? map)),
                projV(tokens(convProjV?(map) ?? pooled ?? map)), heads: heads,
                scale: 1 / Float(channels).squareRoot(), dropout: pass == nil ? 0 : attentionDropout,
                seed: pass?.nextSeed() ?? 0)
            return dropout(proj(mixed))
        }
    }

    private func encode(_ image: Tensor) -> (maps: [Tensor], token: Tensor?) {
        var maps: [Tensor] = []
        var token: Tensor?
        for stage in stages {
            let (map, last) = stage(maps.last ?? image)
            maps.append(map)
            token = last
        }
        return (maps, token)
    }

    public func pyramid(_ image: Tensor) -> [Tensor] { encode(image).maps }

    public func features(_ image: Tensor) -> Features {
        let (maps, token) = encode(image)
        let last = maps.last!
        let pooled =
            token.map { norm($0).reshaped([last.shape[0], last.shape[3]]) } ?? norm(last).globalAveragePool()
        return Features(logits: head(pooled), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] {
        configuration.patchStrides.reduce(into: []) { $0.append(($0.last ?? 1) * $1) }
    }
    public var pyramidChannels: [Int] { configuration.widths }
    public var headPrefixes: [String] { ["head."] }
    public var prefixTokens: Int { configuration.classTokens.last == true ? 1 : 0 }
    public var undecayedKeys: Set<String> { Set(parameters.map(\.key).filter { $0.hasSuffix("cls_token") }) }
}

/// The first token, and those of the places.
private func separated(_ x: Tensor) -> (token: Tensor?, places: Tensor) {
    let parts = x.split(axis: 1, sizes: [1, x.shape[1] - 1])
    return (parts[0], parts[1])
}

extension ConvolutionalVisionTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        if arguments.has("input") {
            let input = try arguments.ints("input", count: 3, in: Limits.side)
            (channels, imageSize) = (input[0], Size(input[1], input[2]))
        }
        switch try arguments.string("act", default: activation == .gelu ? "gelu" : "quick_gelu") {
        case "quick_gelu": activation = .quickGelu
        case "gelu": activation = .gelu
        case let other: throw ArgumentError(field: "act", found: "\"\(other)\"", expected: "quick_gelu or gelu")
        }
        guard try arguments.double("layer_norm_eps", default: 1e-5) == 1e-5 else {
            throw ArgumentError(field: "layer_norm_eps", found: "another value", expected: "1e-5")
        }
        if let spec = try arguments.nested("spec") {
            try update(spec: spec)
            try spec.finish()
        }
    }

    /// What the reference's files call `MODEL.SPEC`: a list with an element for each stage.
    private mutating func update(spec: Arguments) throws {
        func rates(_ name: String, _ current: [Float]) throws -> [Float] {
            try spec.doubles(name, default: current.map(Double.init), in: Limits.rate).map { Float($0) }
        }
        initialization = try spec.choice("INIT", default: initialization)
        patchSizes = try spec.ints("PATCH_SIZE", default: patchSizes, in: Limits.side)
        patchStrides = try spec.ints("PATCH_STRIDE", default: patchStrides, in: Limits.side)
        patchPaddings = try spec.ints("PATCH_PADDING", default: patchPaddings, in: 0...1024)
        widths = try spec.ints("DIM_EMBED", default: widths, in: Limits.width)
        heads = try spec.ints("NUM_HEADS", default: heads, in: Limits.heads)
        depths = try spec.ints("DEPTH", default: depths, in: Limits.depth)
        mlpRatios = try spec.doubles("MLP_RATIO", default: mlpRatios, in: Limits.ratio)
        dropouts = try rates("DROP_RATE", dropouts)
        attentionDropouts = try rates("ATTN_DROP_RATE", attentionDropouts)
        dropPaths = try rates("DROP_PATH_RATE", dropPaths)
        qkvBiases = try spec.bools("QKV_BIAS", default: qkvBiases)
        classTokens = try spec.bools("CLS_TOKEN", default: classTokens)
        projections = try spec.strings("QKV_PROJ_METHOD", default: projections.map(\.rawValue)).map {
            guard let projection = Projection(rawValue: $0) else {
                throw ArgumentError(field: "QKV_PROJ_METHOD", found: "\"\($0)\"", expected: "dw_bn, avg or linear")
            }
            return projection
        }
        kernels = try spec.ints("KERNEL_QKV", default: kernels, in: 1...64)
        queryStrides = try spec.ints("STRIDE_Q", default: queryStrides, in: 1...1)
        queryPaddings = try spec.ints("PADDING_Q", default: queryPaddings, in: 0...32)
        keyStrides = try spec.ints("STRIDE_KV", default: keyStrides, in: 1...64)
        keyPaddings = try spec.ints("PADDING_KV", default: keyPaddings, in: 0...32)
        if try spec.bools("POS_EMBED", default: []).contains(true) {
            throw ArgumentError(field: "POS_EMBED", found: "true", expected: "false: the model has no positions")
        }
        try requireStages(depths)
        guard try spec.int("NUM_STAGES", default: depths.count) == depths.count else {
            throw ArgumentError(field: "NUM_STAGES", found: "another number", expected: "\(depths.count), as DEPTH has")
        }
    }

    public func validate() throws {
        try requireStages(
            depths, ("PATCH_SIZE", patchSizes), ("PATCH_STRIDE", patchStrides), ("PATCH_PADDING", patchPaddings),
            ("DIM_EMBED", widths), ("NUM_HEADS", heads), ("MLP_RATIO", mlpRatios), ("QKV_BIAS", qkvBiases),
            ("CLS_TOKEN", classTokens), ("QKV_PROJ_METHOD", projections), ("KERNEL_QKV", kernels),
            ("STRIDE_Q", queryStrides), ("PADDING_Q", queryPaddings), ("STRIDE_KV", keyStrides),
            ("PADDING_KV", keyPaddings), ("DROP_RATE", dropouts), ("ATTN_DROP_RATE", attentionDropouts),
            ("DROP_PATH_RATE", dropPaths))
        for (width, count) in zip(widths, heads) { try require("DIM_EMBED", width, divisibleBy: count, "NUM_HEADS") }
        var side = min(imageSize.height, imageSize.width)
        for stage in depths.indices {
            let padded = side + 2 * patchPaddings[stage]
            side = (padded - patchSizes[stage]) / patchStrides[stage] + 1
            guard padded >= patchSizes[stage], side + 2 * keyPaddings[stage] >= kernels[stage] else {
                throw ArgumentError(
                    field: "img_size", found: "\(imageSize)", expected: "an image that no stage shrinks to nothing")
            }
            if projections[stage] == .depthwise, queryPaddings[stage] * 2 + 1 != kernels[stage] {
                throw ArgumentError(
                    field: "PADDING_Q", found: "\(queryPaddings[stage])",
                    expected: "half of KERNEL_QKV (\(kernels[stage])), so that there is a query for each place")
            }
            guard keyPaddings[stage] * 2 <= kernels[stage] else {
                throw ArgumentError(
                    field: "PADDING_KV", found: "\(keyPaddings[stage])",
                    expected: "at most half of KERNEL_QKV (\(kernels[stage]))")
            }
        }
    }

    public func makeModel() -> any ImageClassifier { ConvolutionalVisionTransformer(self) }

    init(_ widths: [Int], heads: [Int], _ depths: [Int], dropPath: Float = 0.1, image: Int = 224) {
        (self.widths, self.heads, self.depths) = (widths, heads, depths)
        (dropPaths, imageSize) = ([0, 0, dropPath], Size(image))
    }

    public static let cvt13 = Self([64, 192, 384], heads: [1, 3, 6], [1, 2, 10])
    public static let cvt21 = Self([64, 192, 384], heads: [1, 3, 6], [1, 4, 16])
    public static let cvtW24 = Self([192, 768, 1024], heads: [3, 12, 16], [2, 2, 20], dropPath: 0.3, image: 384)
}

extension ConvolutionalVisionTransformer {
    static let system = ModelSystem(
        id: "cvt", title: "CvT: Introducing Convolutions to Vision Transformers", year: 2021, arxiv: "2103.15808",
        variants: [
            ("CvT-13@224", .cvt13), ("CvT-13@384", .cvt13.with(imageSize: 384)),
            ("CvT-21@224", .cvt21), ("CvT-21@384", .cvt21.with(imageSize: 384)),
            ("CvT-W24@384", .cvtW24),
        ] as [(String, Configuration)],
        reference: { _ in Configuration.cvt13 })
}
