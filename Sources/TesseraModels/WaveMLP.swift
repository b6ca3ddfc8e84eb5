import Tessera
import TesseraNN

/// WaveMLP: "An Image Patch is a Wave: Phase-Aware Vision MLP" (2021), arXiv 2111.12294.
///
/// A token is a wave with an amplitude and a phase that a small network estimates from it; as waves that meet, tokens of
/// a row or column of seven are summed by their real and imaginary parts, so that how they add up depends on what they
/// show.
///
/// The reference is `WaveNet` of ggjy/Hire-Wave-MLP.pytorch (no licence file; the same model in
/// huawei-noah/Efficient-AI-Backbones is Apache-2.0). Its sums pair channel 2g with 2g + 1 of real parts followed by
/// imaginary parts, not the two parts of one channel as the paper says; published weights need it so.
public final class WaveMLP: MixingPyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        /// What estimates the phase.
        public enum Phase: String, Codable, Sendable, CaseIterable {
            case linear = "fc"
            case depthwise
        }

        public enum Norm: String, Codable, Sendable, CaseIterable {
            case batch = "BatchNorm2d"
            /// Over all places and channels of a sample.
            case group = "GroupNorm(1,C)"
        }

        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var widths = [64, 128, 320, 512]
        public var depths = [2, 2, 4, 2]
        public var mlpRatios: [Double] = [4, 4, 4, 4]
        public var phase = Phase.linear
        public var norm = Norm.batch
        /// Whether the embedding and the transitions end with a norm.
        public var normalizesEmbeddings = true
        public var dropout: Float = 0
        public var dropPath: Float = 0

        func makeNorm(_ width: Int) -> any Layer {
            norm == .batch ? BatchNorm(width) : GroupNorm(width, groups: 1)
        }
    }

    /// - Precondition: the configuration is valid.
    public init(_ c: Configuration) {
        func embedding(_ inputs: Int, _ outputs: Int, kernel: Int, stride: Int, padding: Int) -> Embedding {
            Embedding(
                inputs, outputs, kernel: kernel, stride: stride, padding: padding,
                norm: c.normalizesEmbeddings ? c.makeNorm(outputs) : nil)
        }
        super.init(
            embedding: embedding(c.channels, c.widths[0], kernel: 7, stride: 4, padding: 2), widths: c.widths,
            depths: c.depths, classes: c.classes, dropPath: c.dropPath, norm: c.makeNorm,
            block: { stage, index in
                let width = c.widths[stage]
                return (
                    PhaseAwareMixing(width, phase: c.phase, dropout: c.dropout),
                    FeedForward(
                        width, hidden: Int(Double(width) * c.mlpRatios[stage]), dropout: c.dropout,
                        isConvolution: true)
                )
            },
            transition: { embedding(c.widths[$0], c.widths[$0 + 1], kernel: 3, stride: 2, padding: 1) })
    }

    final class PhaseAwareMixing: Module, Layer {
        let fcH: Linear
        let fcW: Linear
        let fcC: Linear
        let tfcH: Convolution2D
        let tfcW: Convolution2D
        let fusion: SplitAttention
        let proj: Linear
        let thetaHConv: ConvolutionNormActivation
        let thetaWConv: ConvolutionNormActivation
        private let dropout: Dropout

        override var keys: [String: String] { ["fusion": "reweight"] }

        init(_ width: Int, phase: Configuration.Phase, dropout: Float) {
            func amplitude() -> Linear { Linear(width, width, bias: false, isConvolution: true) }
            func sum(_ kernel: (Int, Int)) -> Convolution2D {
                Convolution2D(2 * width, width, kernel: kernel, groups: width, bias: false)
            }
            func angle() -> ConvolutionNormActivation {
                let isLinear = phase == .linear
                return ConvolutionNormActivation(
                    width, width, kernel: isLinear ? 1 : 3, groups: isLinear ? 1 : width, bias: isLinear,
                    activation: .relu, names: ("0", "1"))
            }
            (fcH, fcW, fcC) = (amplitude(), amplitude(), amplitude())
            (tfcH, tfcW) = (sum((1, 7)), sum((7, 1)))
            fusion = SplitAttention(width, isConvolution: true)
            proj = Linear(width, width, isConvolution: true)
            (thetaHConv, thetaWConv) = (angle(), angle())
            self.dropout = Dropout(dropout)
        }

        func forward(_ x: Tensor) -> Tensor {
            let h = superposed(fcH(x), phase: thetaHConv(x), tfcH)
            let w = superposed(fcW(x), phase: thetaWConv(x), tfcW)
            return dropout(proj(fusion([h, w, fcC(x)])))
        }

        /// A convolution with two inputs for each output is two depthwise ones, which have a kernel of their own.
        private func superposed(_ amplitude: Tensor, phase: Tensor, _ sum: Convolution2D) -> Tensor {
            let waves = concatenate([amplitude * phase.cosine(), amplitude * phase.sine()], axis: 3)
            let weight = sum.weight.tensor
            let (rows, columns) = (weight.shape[1] / 2, weight.shape[2] / 2)
            let padding = Padding(top: rows, left: columns, bottom: rows, right: columns)
            let pairs = waves.reshaped([amplitude.count / amplitude.shape[3], amplitude.shape[3], 2])
            let parts = (0..<2).map { place in
                convolution(
                    pairs.sliced(axis: 2, from: place, to: place + 1).reshaped(amplitude.shape),
                    weight: weight.sliced(axis: 3, from: place, to: place + 1), padding: padding,
                    groups: amplitude.shape[3])
            }
            return parts[0] + parts[1]
        }
    }
}

extension WaveMLP.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        depths = try arguments.ints("layers", default: depths, in: Limits.depth)
        widths = try arguments.ints("embed_dims", default: widths, in: Limits.width)
        mlpRatios = try arguments.doubles("mlp_ratios", default: mlpRatios, in: Limits.ratio)
        phase = try arguments.choice("mode", default: phase)
        norm = try arguments.choice("norm_layer", default: norm)
        normalizesEmbeddings = try arguments.bool("ds_use_norm", default: normalizesEmbeddings)
        dropout = try arguments.rate("drop_rate", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        try arguments.fixed("transitions", allOf: true)
    }

    public func validate() throws {
        try requireStages(depths, ("embed_dims", widths), ("mlp_ratios", mlpRatios))
    }

    public func makeModel() -> any ImageClassifier { WaveMLP(self) }

    init(
        _ depths: [Int], widths: [Int] = [64, 128, 320, 512], mlpRatios: [Double] = [4, 4, 4, 4],
        phase: Phase = .linear, norm: Norm = .group, normalizesEmbeddings: Bool = true
    ) {
        (self.depths, self.widths, self.mlpRatios) = (depths, widths, mlpRatios)
        (self.phase, self.norm, self.normalizesEmbeddings) = (phase, norm, normalizesEmbeddings)
    }

    public static let tinyDepthwise = Self([2, 2, 4, 2], phase: .depthwise, norm: .batch)
    public static let tiny = Self([2, 2, 4, 2], norm: .batch)
    public static let small = Self([2, 3, 10, 3])
    public static let medium = Self([3, 4, 18, 3], mlpRatios: [8, 8, 4, 4], normalizesEmbeddings: false)
    public static let base = Self([2, 2, 18, 2], widths: [96, 192, 384, 768], normalizesEmbeddings: false)
}

extension WaveMLP {
    static let system = ModelSystem(
        id: "wavemlp", group: "vision_mlp", title: "An Image Patch is a Wave: Phase-Aware Vision MLP", year: 2021,
        arxiv: "2111.12294",
        variants: [
            ("WaveMLP_T_dw", .tinyDepthwise), ("WaveMLP_T", .tiny), ("WaveMLP_S", .small), ("WaveMLP_M", .medium),
            ("WaveMLP_B", .base),
        ] as [(String, Configuration)],
        reference: { $0.contains("WaveNet") ? Configuration() : nil })
}
