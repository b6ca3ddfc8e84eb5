import Tessera
import TesseraNN

/// InternImage: "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions" (2022), arXiv
/// 2211.05778.
///
/// In the place of attention, every token reads nine places around it that depend on what it shows, with weights that
/// do so, too: the long reach of attention at the cost of a convolution.
///
/// The reference is `InternImage` of OpenGVLab/InternImage, folder classification (MIT).
public final class InternImage: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        /// The head of the largest models: the last two maps, pooled by attention from their mean.
        public struct AttentionPooling: Codable, Sendable, Hashable {
            public var width = 1024
            /// How much larger the last map is made to fit the one before.
            public var upsampling = 2
            public var heads = 16
            public var outputs = 768
        }

        public enum DropPathRule: String, Codable, Sendable, CaseIterable { case linear, uniform }

        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        /// Channels of the first stage; each stage doubles them.
        public var width = 64
        public var depths = [4, 4, 18, 4]
        public var groups = [4, 8, 16, 32]
        public var mlpRatio = 4.0
        /// Of the depthwise convolution that the offsets are computed from.
        public var kernel = 3
        public var offsetScale: Float = 1
        public var removesCenter = false
        /// Norms after a branch instead of before it.
        public var normalizesAfter = false
        /// Norms before and after a branch, where there is neither layer scale nor `normalizesAfter`.
        public var normalizesBoth = false
        /// The initial value of layer scale; nil: none.
        public var layerScale: Float?
        /// Blocks of the third stage that are followed by a norm.
        public var normalizedBlocks: [Int] = []
        /// Whether a token may keep its own value instead of what it sampled.
        public var scalesCenter = false
        /// Channels of the head, relative to the last stage's.
        public var headRatio = 1.5
        public var attentionPooling: AttentionPooling?
        public var dropout: Float = 0
        public var dropPathRule = DropPathRule.linear
        public var dropPath: Float = 0

        func width(_ stage: Int) -> Int { width << stage }
        var headWidth: Int { Int(Double(width(depths.count - 1)) * headRatio) }
        func makeNorm(_ width: Int) -> LayerNorm { LayerNorm(width, epsilon: 1e-6) }
    }

    let patchEmbed: Stem
    let levels: [Stage]
    let convHead: ConvolutionNormActivation?
    let clipHead: AttentionPoolingHead?
    let head: Linear
    let configuration: Configuration

    public override var keys: [String: String] { ["convHead": "", "clipHead": ""] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        patchEmbed = Stem(c)
        let depth = c.depths.reduce(0, +)
        let all =
            c.dropPathRule == .linear
            ? DropPath.linear(to: c.dropPath, depth: depth) : [Float](repeating: c.dropPath, count: depth)
        var rates = all[...]
        levels = c.depths.indices.map { stage in
            defer { rates = rates.dropFirst(c.depths[stage]) }
            return Stage(c, stage, dropPath: Array(rates.prefix(c.depths[stage])))
        }
        let last = c.width(c.depths.count - 1)
        clipHead = c.attentionPooling.map { AttentionPoolingHead($0, c.width(c.depths.count - 2), last) }
        convHead =
            clipHead != nil
            ? nil
            : ConvolutionNormActivation(
                last, c.headWidth, kernel: 1, activation: .gelu, names: ("conv_head.0", "conv_head.1.0"))
        head = Linear(
            c.attentionPooling?.outputs ?? c.headWidth, c.classes, initializer: .truncatedNormal(0.02))
    }

    /// Two convolutions of stride 2.
    final class Stem: Module {
        let conv1: Convolution2D
        let norm1: LayerNorm
        let conv2: Convolution2D
        let norm2: LayerNorm

        override var keys: [String: String] { ["norm1": "norm1.1", "norm2": "norm2.1"] }

        init(_ c: Configuration) {
            conv1 = Convolution2D(c.channels, c.width / 2, kernel: 3, stride: 2, padding: 1)
            norm1 = c.makeNorm(c.width / 2)
            conv2 = Convolution2D(c.width / 2, c.width, kernel: 3, stride: 2, padding: 1)
            norm2 = c.makeNorm(c.width)
        }

        func callAsFunction(_ image: Tensor) -> Tensor { norm2(conv2(norm1(conv1(image)).gelu())) }
    }

    final class Stage: Module {
        let blocks: [Block]
        let postNorms: [[LayerNorm]]
        let norm: LayerNorm?
        let downsample: Downsampling?
        private let normalizedBlocks: [Int]

        override var keys: [String: String] { ["norm": "norm.0"] }

        init(_ c: Configuration, _ stage: Int, dropPath: [Float]) {
            let width = c.width(stage)
            blocks = dropPath.map { Block(c, stage, dropPath: $0) }
            normalizedBlocks = stage == 2 ? c.normalizedBlocks : []
            postNorms = normalizedBlocks.map { _ in [c.makeNorm(width)] }
            norm = !c.normalizesAfter || c.scalesCenter ? c.makeNorm(width) : nil
            downsample = stage + 1 < c.depths.count ? Downsampling(c, width) : nil
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let y = blocks.enumerated().reduce(x) { x, item in
                let y = checkpointed(item.element, x) { item.element($0) }
                return normalizedBlocks.firstIndex(of: item.offset).map { postNorms[$0][0](y) } ?? y
            }
            return norm.map { $0(y) } ?? y
        }
    }

    final class Downsampling: Module {
        let conv: Convolution2D
        let norm: LayerNorm

        override var keys: [String: String] { ["norm": "norm.1"] }

        init(_ c: Configuration, _ width: Int) {
            conv = Convolution2D(width, 2 * width, kernel: 3, stride: 2, padding: 1, bias: false)
            norm = c.makeNorm(2 * width)
        }

        func callAsFunction(_ x: Tensor) -> Tensor { norm(conv(x)) }
    }

    /// x + sampling, then x + perceptron, with norms and scales where the configuration puts them.
    final class Block: Module {
        let norm1: LayerNorm
        let dcn: DeformableMixing
        let norm2: LayerNorm
        let mlp: FeedForward
        let gamma1: Parameter?
        let gamma2: Parameter?
        let resPostNorm1: LayerNorm?
        let resPostNorm2: LayerNorm?
        private let normalizesAfter: Bool
        private let dropPath: DropPath

        override var keys: [String: String] {
            [
                "norm1": "norm1.0", "norm2": "norm2.0", "resPostNorm1": "res_post_norm1.0",
                "resPostNorm2": "res_post_norm2.0",
            ]
        }

        init(_ c: Configuration, _ stage: Int, dropPath: Float) {
            let width = c.width(stage)
            (norm1, norm2) = (c.makeNorm(width), c.makeNorm(width))
            dcn = DeformableMixing(c, width, groups: c.groups[stage])
            mlp = FeedForward(
                width, hidden: Int(Double(width) * c.mlpRatio), dropout: c.dropout,
                initializer: .truncatedNormal(0.02))
            let scale = c.layerScale.map { Initializer.constant($0) }
            (gamma1, gamma2) = (scale.map { Parameter([width], $0) }, scale.map { Parameter([width], $0) })
            let normalizesBoth = c.normalizesBoth && scale == nil && !c.normalizesAfter
            resPostNorm1 = normalizesBoth ? c.makeNorm(width) : nil
            resPostNorm2 = normalizesBoth ? c.makeNorm(width) : nil
            normalizesAfter = c.normalizesAfter
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            func branch(
                _ x: Tensor, _ norm: LayerNorm, _ last: LayerNorm?, _ gamma: Parameter?, _ body: (Tensor) -> Tensor
            ) -> Tensor {
                var y = normalizesAfter ? norm(body(x)) : body(norm(x))
                if let last { y = last(y) }
                if let gamma { y = y * gamma.tensor }
                return x + dropPath(y)
            }
            let x = branch(x, norm1, resPostNorm1, gamma1) { dcn($0) }
            return branch(x, norm2, resPostNorm2, gamma2) { mlp($0) }
        }
    }

    /// DCNv3 with its projections: the places and weights come from a depthwise convolution of the input.
    final class DeformableMixing: Module {
        let dwConv: Convolution2D
        let dwNorm: LayerNorm
        let offset: Linear
        let mask: Linear
        let inputProj: Linear
        let outputProj: Linear
        let centerFeatureScaleProjWeight: Parameter?
        let centerFeatureScaleProjBias: Parameter?
        private let groups: Int
        private let offsetScale: Float
        private let removesCenter: Bool

        override var keys: [String: String] { ["dwConv": "dw_conv.0", "dwNorm": "dw_conv.1.1"] }

        init(_ c: Configuration, _ width: Int, groups: Int) {
            let taps = c.removesCenter ? 8 : 9
            let initializer = Initializer.xavierUniform(fanIn: width, fanOut: width)
            dwConv = Convolution2D(
                width, width, kernel: c.kernel, padding: (c.kernel - 1) / 2, groups: width)
            dwNorm = c.makeNorm(width)
            // All samples start on the kernel's grid with the same weight.
            offset = Linear(width, groups * taps * 2, initializer: .zeros)
            mask = Linear(width, groups * taps, initializer: .zeros)
            inputProj = Linear(width, width, initializer: initializer)
            outputProj = Linear(width, width, initializer: initializer)
            centerFeatureScaleProjWeight = c.scalesCenter ? Parameter([groups, width], .zeros) : nil
            centerFeatureScaleProjBias = c.scalesCenter ? Parameter([groups], .zeros) : nil
            (self.groups, offsetScale, removesCenter) = (groups, c.offsetScale, c.removesCenter)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let values = inputProj(x)
            let seen = dwNorm(dwConv(x)).gelu()
            let scores = mask(seen)
            let grouped = scores.reshaped([scores.count / scores.shape[3], groups, scores.shape[3] / groups])
            var y = deformableConvolution(
                values, offsets: offset(seen), masks: grouped.softmax(axis: 2).reshaped(scores.shape),
                groups: groups, offsetScale: offsetScale, removesCenter: removesCenter)
            if let weight = centerFeatureScaleProjWeight {
                let share = linear(
                    seen, weight: weight.tensor, bias: centerFeatureScaleProjBias?.tensor, activation: .sigmoid)
                let places = x.count / x.shape[3]
                func byGroup(_ x: Tensor) -> Tensor { x.reshaped([places, groups, x.count / (places * groups)]) }
                y = (byGroup(y) + byGroup(share) * (byGroup(values) - byGroup(y))).reshaped(x.shape)
            }
            return outputProj(y)
        }
    }

    /// The last two maps as one, pooled by attention whose query is their mean.
    final class AttentionPoolingHead: Module {
        let fromLast: Linear
        let fromPrevious: Linear
        let normQ, normK, normV: LayerNorm
        let q, k, v: Linear
        let qBias, kBias, vBias: Parameter
        let proj: Linear
        let norm: LayerNorm
        private let pooling: Configuration.AttentionPooling

        override var keys: [String: String] {
            var keys = ["fromLast": "dcnv3_head_x4.0", "fromPrevious": "dcnv3_head_x3", "norm": "fc_norm.0"]
            for name in ["q", "k", "v"] {
                keys["norm\(name.uppercased())"] = "clip_projector.norm1_\(name).0"
                keys[name] = "clip_projector.cross_dcn.\(name)"
                keys["\(name)Bias"] = "clip_projector.cross_dcn.\(name)_bias"
            }
            keys["proj"] = "clip_projector.cross_dcn.proj"
            return keys
        }

        init(_ p: Configuration.AttentionPooling, _ previous: Int, _ last: Int) {
            pooling = p
            let initializer = Initializer.truncatedNormal(0.02)
            fromLast = Linear(last, p.width * p.upsampling * p.upsampling, isConvolution: true)
            fromPrevious = Linear(previous, p.width, isConvolution: true)
            func norm(_ width: Int) -> LayerNorm { LayerNorm(width, epsilon: 1e-6) }
            func projection() -> Linear { Linear(p.width, p.width, bias: false, initializer: initializer) }
            func bias() -> Parameter { Parameter([p.width], .zeros) }
            (normQ, normK, normV) = (norm(p.width), norm(p.width), norm(p.width))
            (q, k, v) = (projection(), projection(), projection())
            (qBias, kBias, vBias) = (bias(), bias(), bias())
            proj = Linear(p.width, p.outputs, initializer: initializer)
            self.norm = norm(p.outputs)
        }

        /// - Precondition: the last map, made larger, has the size of the one before.
        func callAsFunction(_ previous: Tensor, _ last: Tensor) -> Tensor {
            let map = fromLast(last).pixelShuffled(pooling.upsampling) + fromPrevious(previous)
            let tokens = map.reshaped([map.shape[0], map.shape[1] * map.shape[2], map.shape[3]])
            let mixed = attention(
                q(normQ(tokens.mean(axes: [1], keepingAxes: true))) + qBias.tensor,
                k(normK(tokens)) + kBias.tensor, v(normV(tokens)) + vBias.tensor, heads: pooling.heads)
            return norm(proj(mixed.reshaped([map.shape[0], map.shape[3]])))
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var x = Dropout(configuration.dropout)(patchEmbed(image))
        return levels.map { level in
            let map = level(x)
            x = level.downsample.map { $0(map) } ?? map
            return map
        }
    }

    public func features(_ image: Tensor) -> Features {
        let maps = pyramid(image)
        let last = maps.last!
        let pooled = clipHead.map { $0(maps[maps.count - 2], last) } ?? convHead!(last).globalAveragePool()
        return Features(logits: head(pooled), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] { levels.indices.map { 4 << $0 } }
    public var pyramidChannels: [Int] { levels.indices.map(configuration.width) }
    public var headPrefixes: [String] { ["head."] }
}
