import Tessera
import TesseraNN

/// CycleMLP: "CycleMLP: A MLP-like Architecture for Dense Prediction" (2021), arXiv 2107.10224.
///
/// A linear map over the channels that reads each channel from a place that steps around the token's own: neighbouring
/// channels come from neighbouring places, so that an ordinary linear layer mixes places at no cost and for maps of any
/// size.
///
/// The reference is `CycleNet` of ShoufaChen/CycleMLP (MIT), which computes the shift as a deformable convolution with
/// constant offsets; its `sfc_h` shifts along the width and its `sfc_w` along the height.
public final class CycleMLP: MixingPyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var widths = [64, 128, 320, 512]
        public var depths = [2, 2, 4, 2]
        public var mlpRatios: [Double] = [4, 4, 4, 4]
        public var mixingBias = false
        public var dropout: Float = 0
        public var dropPath: Float = 0
    }

    /// - Precondition: the configuration is valid.
    public init(_ c: Configuration) {
        super.init(
            embedding: Embedding(c.channels, c.widths[0], kernel: 7, stride: 4, padding: 2), widths: c.widths,
            depths: c.depths, classes: c.classes, dropPath: c.dropPath, norm: { LayerNorm($0, epsilon: 1e-5) },
            block: { stage, _ in
                let width = c.widths[stage]
                return (
                    Mixing(width, bias: c.mixingBias, dropout: c.dropout),
                    FeedForward(
                        width, hidden: Int(Double(width) * c.mlpRatios[stage]), dropout: c.dropout,
                        initializer: .truncatedNormal(0.02))
                )
            },
            transition: { Embedding(c.widths[$0], c.widths[$0 + 1], kernel: 3, stride: 2, padding: 1) })
    }

    final class Mixing: Module, Layer {
        let mlpC: Linear
        let sfcH: CycleLinear
        let sfcW: CycleLinear
        let fusion: SplitAttention
        let proj: Linear
        private let dropout: Dropout

        override var keys: [String: String] { ["fusion": "reweight"] }

        init(_ width: Int, bias: Bool, dropout: Float) {
            let initializer = Initializer.truncatedNormal(0.02)
            mlpC = Linear(width, width, bias: bias, initializer: initializer)
            sfcH = CycleLinear(width, isHorizontal: true)
            sfcW = CycleLinear(width, isHorizontal: false)
            fusion = SplitAttention(width, initializer: initializer)
            proj = Linear(width, width, initializer: initializer)
            self.dropout = Dropout(dropout)
        }

        func forward(_ x: Tensor) -> Tensor { dropout(proj(fusion([sfcH(x), sfcW(x), mlpC(x)]))) }
    }

    /// A linear map whose channel i is read ((i + 1) mod 3) − 1 places further along one axis; zero beyond the border.
    final class CycleLinear: Module {
        let linear: Linear
        /// `[1, 2 · channels, 1, 1]`: the same displacements (down, right) as the reference stores them.
        let offset: Parameter
        private let shifts: [ChannelShift]

        override var keys: [String: String] { ["linear": ""] }

        init(_ width: Int, isHorizontal: Bool) {
            let steps = (0..<width).map { ($0 + 1) % 3 - 1 }
            shifts = steps.enumerated().map { channel, step in
                ChannelShift(
                    channel..<channel + 1, rows: isHorizontal ? 0 : step, columns: isHorizontal ? step : 0)
            }
            linear = Linear(width, width, isConvolution: true)
            let values = shifts.flatMap { [Float($0.rows), Float($0.columns)] }
            offset = Parameter(
                [1, 2 * width, 1, 1], Initializer { buffer, _ in _ = buffer.update(from: values) }, isTrainable: false)
        }

        func callAsFunction(_ x: Tensor) -> Tensor { linear(x.shifted(shifts)) }
    }
}

extension CycleMLP.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        depths = try arguments.ints("layers", default: depths, in: Limits.depth)
        widths = try arguments.ints("embed_dims", default: widths, in: Limits.width)
        mlpRatios = try arguments.doubles("mlp_ratios", default: mlpRatios, in: Limits.ratio)
        mixingBias = try arguments.bool("qkv_bias", default: mixingBias)
        dropout = try arguments.rate("drop_rate", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        try arguments.fixed("skip_lam", 1)
        try arguments.fixed("transitions", allOf: true)
    }

    public func validate() throws {
        try requireStages(depths, ("embed_dims", widths), ("mlp_ratios", mlpRatios))
    }

    public func makeModel() -> any ImageClassifier { CycleMLP(self) }

    init(_ depths: [Int], widths: [Int] = [64, 128, 320, 512], mlpRatios: [Double] = [4, 4, 4, 4]) {
        (self.depths, self.widths, self.mlpRatios) = (depths, widths, mlpRatios)
    }

    public static let b1 = Self([2, 2, 4, 2])
    public static let b2 = Self([2, 3, 10, 3])
    public static let b3 = Self([3, 4, 18, 3], mlpRatios: [8, 8, 4, 4])
    public static let b4 = Self([3, 8, 27, 3], mlpRatios: [8, 8, 4, 4])
    public static let b5 = Self([3, 4, 24, 3], widths: [96, 192, 384, 768])
}

extension CycleMLP {
    static let system = ModelSystem(
        id: "cyclemlp", group: "vision_mlp", title: "CycleMLP: A MLP-like Architecture for Dense Prediction",
        year: 2021, arxiv: "2107.10224",
        variants: [
            ("CycleMLP_B1", .b1), ("CycleMLP_B2", .b2), ("CycleMLP_B3", .b3), ("CycleMLP_B4", .b4),
            ("CycleMLP_B5", .b5),
        ] as [(String, Configuration)],
        reference: { $0.contains("CycleNet") ? Configuration() : nil })
}
