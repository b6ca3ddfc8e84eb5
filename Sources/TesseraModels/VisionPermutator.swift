import Tessera
import TesseraNN

/// ViP: "Vision Permutator: A Permutable MLP-Like Architecture for Visual Recognition" (2021), arXiv 2106.12368.
///
/// Rows, columns and channels are mixed apart: to mix along the height, the channels are cut into as many segments as the
/// map has rows, so that one segment of every row together is a vector of the same length as a token, and one linear map
/// serves both. The three results are summed with learned, input-dependent weights.
///
/// The reference is `VisionPermutator` of houqb/VisionPermutator (MIT).
public final class VisionPermutator: MixingPyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var patchSize = 7
        public var channels = 3
        public var classes = 1000
        public var widths = [192, 384, 384, 384]
        public var depths = [4, 3, 8, 3]
        /// Whether a stage is followed by a map of half the size.
        public var transitions = [true, false, false, false]
        /// Segments of the channels, which are as many as the map has rows.
        public var segments = [32, 16, 16, 16]
        public var mlpRatios: [Double] = [3, 3, 3, 3]
        public var mixingBias = false
        public var dropout: Float = 0
        public var dropPath: Float = 0
    }

    /// - Precondition: the configuration is valid.
    public init(_ c: Configuration) {
        super.init(
            embedding: Embedding(c.channels, c.widths[0], kernel: c.patchSize, stride: c.patchSize), widths: c.widths,
            depths: c.depths, classes: c.classes, dropPath: c.dropPath, norm: { LayerNorm($0, epsilon: 1e-5) },
            block: { stage, _ in
                let width = c.widths[stage]
                return (
                    PermuteMLP(width, segments: c.segments[stage], bias: c.mixingBias, dropout: c.dropout),
                    FeedForward(
                        width, hidden: Int(Double(width) * c.mlpRatios[stage]), dropout: c.dropout,
                        initializer: .truncatedNormal(0.02))
                )
            },
            transition: { stage in
                let side = c.transitions[stage] ? 2 : 1
                return side == 2 || c.widths[stage] != c.widths[stage + 1]
                    ? Embedding(c.widths[stage], c.widths[stage + 1], kernel: side, stride: side) : nil
            })
    }

    final class PermuteMLP: Module, Layer {
        let mlpC: Linear
        let mlpH: Linear
        let mlpW: Linear
        let fusion: SplitAttention
        let proj: Linear
        private let segments: Int
        private let dropout: Dropout

        override var keys: [String: String] { ["fusion": "reweight"] }

        init(_ width: Int, segments: Int, bias: Bool, dropout: Float) {
            let initializer = Initializer.truncatedNormal(0.02)
            mlpC = Linear(width, width, bias: bias, initializer: initializer)
            mlpH = Linear(width, width, bias: bias, initializer: initializer)
            mlpW = Linear(width, width, bias: bias, initializer: initializer)
            fusion = SplitAttention(width, initializer: initializer)
            proj = Linear(width, width, initializer: initializer)
            self.segments = segments
            self.dropout = Dropout(dropout)
        }

        /// - Precondition: the map has as many rows and columns as the channels have segments.
        func forward(_ x: Tensor) -> Tensor {
            let (batch, rows, columns, width) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
            precondition(
                rows == segments && columns == segments,
                "this vision permutator is for maps of \(segments)×\(segments), not \(rows)×\(columns)")
            let parts = x.reshaped([batch, rows, columns, segments, width / segments])
            /// `linear` on all places of one axis at once, which changes its place with the segments.
            func mixed(_ linear: Linear, _ order: [Int]) -> Tensor {
                let swapped = parts.transposed(order)
                let flat = swapped.reshaped([batch, swapped.shape[1], swapped.shape[2], width])
                return linear(flat).reshaped(swapped.shape).transposed(order).reshaped(x.shape)
            }
            let views = [mixed(mlpH, [0, 3, 2, 1, 4]), mixed(mlpW, [0, 1, 3, 2, 4]), mlpC(x)]
            return dropout(proj(fusion(views)))
        }
    }
}

extension VisionPermutator.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        patchSize = try arguments.int("patch_size", default: patchSize, in: 1...1024)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        depths = try arguments.ints("layers", default: depths, in: Limits.depth)
        widths = try arguments.ints("embed_dims", default: widths, in: Limits.width)
        transitions = try arguments.bools("transitions", default: transitions)
        segments = try arguments.ints("segment_dim", default: segments, in: 1...1024)
        mlpRatios = try arguments.doubles("mlp_ratios", default: mlpRatios, in: Limits.ratio)
        mixingBias = try arguments.bool("qkv_bias", default: mixingBias)
        dropout = try arguments.rate("drop_rate", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        try arguments.fixed("skip_lam", 1)
        // The segments fix the size of the image.
        let side = patchSize * (segments.first ?? 1)
        let image = try arguments.pair("img_size", default: (side, side), in: Limits.side)
        imageSize = Size(image.0, image.1)
    }

    public func validate() throws {
        try requireStages(
            depths, ("embed_dims", widths), ("transitions", transitions), ("segment_dim", segments),
            ("mlp_ratios", mlpRatios))
        var side = imageSize.height / patchSize
        guard imageSize.height == imageSize.width else {
            throw ArgumentError(field: "img_size", found: "\(imageSize)", expected: "a square")
        }
        for stage in depths.indices {
            guard segments[stage] == side else {
                throw ArgumentError(
                    field: "segment_dim", found: "\(segments[stage])",
                    expected: "\(side), the side of the map in stage \(stage + 1)")
            }
            try require("embed_dims", widths[stage], divisibleBy: segments[stage], "segment_dim")
            if transitions[stage] { side /= 2 }
        }
    }

    public func makeModel() -> any ImageClassifier { VisionPermutator(self) }

    init(
        patch: Int = 7, _ widths: [Int], _ depths: [Int], transitions: [Bool], segments: [Int]
    ) {
        (patchSize, self.widths, self.depths) = (patch, widths, depths)
        (self.transitions, self.segments) = (transitions, segments)
    }

    public static let small14 = Self(
        patch: 14, [384, 384, 384, 384], [4, 3, 8, 3], transitions: [false, false, false, false],
        segments: [16, 16, 16, 16])
    public static let small7 = Self(
        [192, 384, 384, 384], [4, 3, 8, 3], transitions: [true, false, false, false], segments: [32, 16, 16, 16])
    public static let medium7 = Self(
        [256, 256, 512, 512], [4, 3, 14, 3], transitions: [false, true, false, false], segments: [32, 32, 16, 16])
    public static let large7 = Self(
        [256, 512, 512, 512], [8, 8, 16, 4], transitions: [true, false, false, false], segments: [32, 16, 16, 16])
}

extension VisionPermutator {
    static let system = ModelSystem(
        id: "vip", group: "vision_mlp",
        title: "Vision Permutator: A Permutable MLP-Like Architecture for Visual Recognition", year: 2021,
        arxiv: "2106.12368",
        variants: [("vip_s14", .small14), ("vip_s7", .small7), ("vip_m7", .medium7), ("vip_l7", .large7)]
            as [(String, Configuration)],
        reference: { $0.contains("VisionPermutator") ? Configuration() : nil })
}
