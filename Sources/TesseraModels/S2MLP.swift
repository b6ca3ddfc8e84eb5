import Tessera
import TesseraNN

/// S2-MLP: "S²-MLP: Spatial-Shift MLP Architecture for Vision" (2021), arXiv 2106.07477.
///
/// Between two linear maps over the channels, each quarter of the channels moves by one place: down, up, right or left.
/// The border keeps its own values. There are no parameters that know places.
///
/// There is no official code; the reference is `S2MLPv1` of liuruiyang98/Jittor-MLP (MIT) with the shift as the paper
/// defines it: written in place through overlapping views, as there, the first row would fill the map.
public final class S2MLP: Module, ImageClassifier {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        /// Each stage begins with patches of the map before.
        public var patchSizes = [16]
        public var widths = [384]
        public var depths = [36]
        public var mlpRatios: [Double] = [4]
        public var dropout: Float = 0
        public var dropPath: Float = 0
    }

    let stages: [Stage]
    let head: Linear

    public override var keys: [String: String] { ["head": "mlp_head.1"] }

    /// - Precondition: the configuration is valid.
    public init(_ c: Configuration) {
        var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
        stages = c.depths.indices.map { stage in
            defer { rates = rates.dropFirst(c.depths[stage]) }
            return Stage(c, stage, dropPath: Array(rates.prefix(c.depths[stage])))
        }
        head = Linear(c.widths.last!, c.classes)
    }

    final class Stage: Module {
        let patches: Convolution2D
        let blocks: [[Residual]]

        override var keys: [String: String] { ["patches": "0", "blocks": "1.model"] }

        init(_ c: Configuration, _ stage: Int, dropPath: [Float]) {
            let (width, patch) = (c.widths[stage], c.patchSizes[stage])
            patches = Convolution2D(
                stage == 0 ? c.channels : c.widths[stage - 1], width, kernel: patch, stride: patch)
            blocks = dropPath.map { rate in
                [
                    Residual(width, hidden: width, shifts: true, c, dropPath: rate),
                    Residual(
                        width, hidden: Int(Double(width) * c.mlpRatios[stage]), shifts: false, c, dropPath: rate),
                ]
            }
        }
    }

    /// x + linear(gelu(linear(norm(x)))), with or without the shift before the second linear map.
    final class Residual: Module {
        let norm: LayerNorm
        let first: Linear
        let second: Linear
        private let shifts: [ChannelShift]?
        private let dropout: Dropout
        private let dropPath: DropPath

        override var keys: [String: String] { ["first": "fn.0", "second": "fn.3"] }

        init(_ width: Int, hidden: Int, shifts: Bool, _ c: Configuration, dropPath: Float) {
            norm = LayerNorm(width, epsilon: 1e-5)
            first = Linear(width, hidden)
            second = Linear(hidden, width)
            let quarter = hidden / 4
            self.shifts =
                shifts
                ? [
                    ChannelShift(0..<quarter, rows: -1), ChannelShift(quarter..<2 * quarter, rows: 1),
                    ChannelShift(2 * quarter..<3 * quarter, columns: -1),
                    ChannelShift(3 * quarter..<hidden, columns: 1),
                ] : nil
            dropout = Dropout(c.dropout)
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let hidden = first(norm(x), activation: .gelu)
            let y = shifts.map { second(hidden.shifted($0, clamps: true)) } ?? dropout(second(dropout(hidden)))
            return x + dropPath(y)
        }
    }

    public func features(_ image: Tensor) -> Features {
        let last = stages.reduce(image) { x, stage in
            stage.blocks.joined().reduce(stage.patches(x)) { x, residual in
                checkpointed(residual, x) { residual($0) }
            }
        }
        let pooled = last.globalAveragePool()
        return Features(logits: head(pooled), pooled: pooled, tokens: last)
    }

    public var headPrefixes: [String] { ["mlp_head.1."] }
}

extension S2MLP.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("image_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_channels", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        patchSizes = try arguments.ints("patch_size", default: patchSizes, in: 1...1024)
        widths = try arguments.ints("d_model", default: widths, in: Limits.width)
        depths = try arguments.ints("depth", default: depths, in: Limits.depth)
        mlpRatios = try arguments.doubles("expansion_factor", default: mlpRatios, in: Limits.ratio)
        dropout = try arguments.rate("dropout", dropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    public func validate() throws {
        try requireStages(
            depths, ("patch_size", patchSizes), ("d_model", widths), ("expansion_factor", mlpRatios))
        for width in widths where width < 4 {
            throw ArgumentError(field: "d_model", found: "\(width)", expected: "at least 4 channels to shift")
        }
        let stride = patchSizes.reduce(1) { $0.multipliedReportingOverflow(by: $1).partialValue }
        try require("image_size", imageSize.height, divisibleBy: stride, "the product of patch_size")
        try require("image_size", imageSize.width, divisibleBy: stride, "the product of patch_size")
    }

    public func makeModel() -> any ImageClassifier { S2MLP(self) }

    init(width: Int, depth: Int) { (widths, depths) = ([width], [depth]) }

    public static let deep = Self(width: 384, depth: 36)
    public static let wide = Self(width: 768, depth: 12)
}

extension S2MLP {
    static let system = ModelSystem(
        id: "s2mlp", group: "vision_mlp", title: "S²-MLP: Spatial-Shift MLP Architecture for Vision", year: 2021,
        arxiv: "2106.07477",
        variants: [("s2mlp_v1_deep", .deep), ("s2mlp_v1_wide", .wide)] as [(String, Configuration)],
        reference: { $0.contains("S2MLPv1") ? Configuration() : nil })
}
