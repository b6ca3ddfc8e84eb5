import Tessera
import TesseraNN

/// Hire-MLP: "Hire-MLP: Vision MLP via Hierarchical Rearrangement" (2021), arXiv 2108.13341.
///
/// A few neighbouring rows (or columns) are stacked into the channels, mixed by a narrow perceptron and put back: local
/// exchange. Every second block first rolls the map, so that the groups lie across those of the block before: exchange
/// between regions.
///
/// The reference is `HireMLPNet` of ggjy/Hire-Wave-MLP.pytorch (no licence file).
public final class HireMLP: MixingPyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var widths = [64, 128, 320, 512]
        public var depths = [2, 2, 4, 2]
        public var mlpRatios: [Double] = [4, 4, 4, 4]
        /// Rows in a group.
        public var regions = [4, 3, 3, 2]
        /// Block i of a stage rolls by (i mod stride) · dilation.
        public var stepStrides = [2, 2, 3, 2]
        public var stepDilations = [2, 2, 1, 1]
        public var dropout: Float = 0
        public var dropPath: Float = 0
    }

    /// - Precondition: the configuration is valid.
    public init(_ c: Configuration) {
        func embedding(_ inputs: Int, _ outputs: Int, kernel: Int, stride: Int, padding: Int) -> Embedding {
            Embedding(
                inputs, outputs, kernel: kernel, stride: stride, padding: padding, norm: BatchNorm(outputs),
                activation: .relu)
        }
        super.init(
            embedding: embedding(c.channels, c.widths[0], kernel: 7, stride: 4, padding: 2), widths: c.widths,
            depths: c.depths, classes: c.classes, dropPath: c.dropPath, norm: { BatchNorm($0) },
            block: { stage, index in
                let width = c.widths[stage]
                let step = index % c.stepStrides[stage] * c.stepDilations[stage]
                return (
                    Mixing(width, region: c.regions[stage], step: step, dropout: c.dropout),
                    FeedForward(
                        width, hidden: Int(Double(width) * c.mlpRatios[stage]), dropout: c.dropout,
                        isConvolution: true)
                )
            },
            transition: { embedding(c.widths[$0], c.widths[$0 + 1], kernel: 3, stride: 2, padding: 1) })
    }

    final class Mixing: Module, Layer {
        let rows: Rearrangement
        let columns: Rearrangement
        let mlpC: Linear
        let fusion: SplitAttention
        let proj: Linear
        private let dropout: Dropout

        override var keys: [String: String] { ["rows": "", "columns": "", "fusion": "reweight"] }

        init(_ width: Int, region: Int, step: Int, dropout: Float) {
            rows = Rearrangement(width, axis: 1, region: region, step: step)
            columns = Rearrangement(width, axis: 2, region: region, step: step)
            mlpC = Linear(width, width, isConvolution: true)
            fusion = SplitAttention(width, isConvolution: true)
            proj = Linear(width, width, isConvolution: true)
            self.dropout = Dropout(dropout)
        }

        func forward(_ x: Tensor) -> Tensor { dropout(proj(fusion([rows(x), columns(x), mlpC(x)]))) }
    }

    /// Groups of neighbours along one axis as channels, through a perceptron, and back.
    final class Rearrangement: Module {
        let narrow: Linear
        let norm: BatchNorm
        let widen: Linear
        private let axis: Int
        private let region: Int
        private let step: Int

        override var keys: [String: String] {
            let name = axis == 1 ? "mlp_h" : "mlp_w"
            return ["narrow": name + "1", "norm": name + "1_norm", "widen": name + "2"]
        }

        init(_ width: Int, axis: Int, region: Int, step: Int) {
            narrow = Linear(width * region, width / 2, bias: false, isConvolution: true)
            norm = BatchNorm(width / 2)
            widen = Linear(width / 2, width * region, isConvolution: true)
            (self.axis, self.region, self.step) = (axis, region, step)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let (extent, width) = (x.shape[axis], x.shape[3])
            let groups = (extent + region - 1) / region
            // Rolled by the step, and continued from the start to fill the last group.
            let source = (0..<groups * region).map { Int32((($0 - step) % extent + extent) % extent) }
            let target = (0..<extent).map { Int32(($0 + step) % extent) }
            let gathered = x.gathered(source, axis: axis)
            var split = gathered.shape.dimensions
            split.replaceSubrange(axis...axis, with: [groups, region])
            // The place in the group varies fastest among the channels.
            let order = axis == 1 ? [0, 1, 3, 4, 2] : [0, 1, 2, 4, 3]
            let back = axis == 1 ? [0, 1, 4, 2, 3] : [0, 1, 2, 4, 3]
            let grouped = gathered.reshaped(Shape(split)).transposed(order)
            let flat = grouped.reshaped([grouped.shape[0], grouped.shape[1], grouped.shape[2], width * region])
            return widen(norm(narrow(flat)).relu()).reshaped(grouped.shape).transposed(back)
                .reshaped(gathered.shape).gathered(target, axis: axis)
        }
    }
}

extension HireMLP.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        depths = try arguments.ints("layers", default: depths, in: Limits.depth)
        widths = try arguments.ints("embed_dims", default: widths, in: Limits.width)
        mlpRatios = try arguments.doubles("mlp_ratios", default: mlpRatios, in: Limits.ratio)
        regions = try arguments.ints("pixel", default: regions, in: 1...1024)
        stepStrides = try arguments.ints("step_stride", default: stepStrides, in: 1...1024)
        stepDilations = try arguments.ints("step_dilation", default: stepDilations, in: 0...1024)
        dropout = try arguments.rate("drop_rate", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        for name in ["step_pad_mode", "pixel_pad_mode"] {
            let mode = try arguments.string(name, default: "c")
            guard mode == "c" else { throw ArgumentError(field: name, found: mode, expected: "c (circular)") }
        }
    }

    public func validate() throws {
        try requireStages(
            depths, ("embed_dims", widths), ("mlp_ratios", mlpRatios), ("pixel", regions),
            ("step_stride", stepStrides), ("step_dilation", stepDilations))
    }

    public func makeModel() -> any ImageClassifier { HireMLP(self) }

    init(_ depths: [Int], widths: [Int] = [64, 128, 320, 512]) { (self.depths, self.widths) = (depths, widths) }

    public static let tiny = Self([2, 2, 4, 2])
    public static let small = Self([3, 4, 10, 3])
    public static let base = Self([4, 6, 24, 3])
    public static let large = Self([4, 6, 24, 3], widths: [96, 192, 384, 768])
}

extension HireMLP {
    static let system = ModelSystem(
        id: "hiremlp", group: "vision_mlp", title: "Hire-MLP: Vision MLP via Hierarchical Rearrangement", year: 2021,
        arxiv: "2108.13341",
        variants: [
            ("hire_mlp_tiny", .tiny), ("hire_mlp_small", .small), ("hire_mlp_base", .base), ("hire_mlp_large", .large),
        ] as [(String, Configuration)],
        reference: { $0.contains("HireMLPNet") ? Configuration() : nil })
}
