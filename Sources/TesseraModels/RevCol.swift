import Tessera
import TesseraNN

/// RevCol: "Reversible Column Networks" (2022), arXiv 2212.11696.
///
/// Several columns of the same shape look at the image one after the other. Each level of a column sees the level below
/// it, the level above it in the column before, and a scaled copy of itself there; the copy makes columns invertible,
/// so that training keeps the maps of the last one only.
///
/// The reference is `FullNet` and `RevColHuge` of megvii-research/RevCol (Apache-2.0).
public final class RevCol: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var widths = [64, 128, 256, 512]
        public var depths = [2, 2, 4, 2]
        public var columns = 4
        public var kernel = 3
        /// The first level sees the last one of the column before, too (RevCol-H).
        public var feedsLastToFirst = false
        /// Heads and image decoders after each quarter of the columns.
        public var supervisesColumns = false
        /// Whether training computes the maps of all columns but the last a second time instead of keeping them.
        public var savesMemory = true
        /// What the first values of the head are multiplied by.
        public var headScale: Float = 1
        public var dropPath: Float = 0
    }

    let stem: Projection
    let columns: [Column]
    let cls: Head?
    let clsBlocks: [Head]
    let decoderBlocks: [any ImageDecoder]
    let configuration: Configuration

    public override var keys: [String: String] { ["columns": ""] }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        stem = Projection(c.channels, c.widths[0], side: 4)
        columns = (0..<c.columns).map { Column(c, $0) }
        cls = c.supervisesColumns ? nil : Head(c)
        clsBlocks = c.supervisesColumns ? (0..<4).map { _ in Head(c) } : []
        decoderBlocks = c.supervisesColumns ? (0..<3).map { _ in RevCol.makeDecoder(c) } : []
    }

    /// Patches, and a norm over their channels.
    final class Projection: Module {
        let conv: Convolution2D
        let norm: LayerNorm

        override var keys: [String: String] { ["conv": "0", "norm": "1"] }

        init(_ inputs: Int, _ outputs: Int, side: Int) {
            conv = Convolution2D(
                inputs, outputs, kernel: side, stride: side, initializer: .truncatedNormal(0.02),
                biasInitializer: .zeros)
            norm = LayerNorm(outputs, epsilon: 1e-6)
        }

        func callAsFunction(_ x: Tensor) -> Tensor { norm(conv(x)) }
    }

    /// A coarse map at the width and, by repetition, at the size of a finer one.
    final class Expansion: Module {
        let linear: Linear
        let norm: LayerNorm

        override var keys: [String: String] { ["linear": "0", "norm": "1"] }

        init(_ inputs: Int, _ outputs: Int) {
            linear = Linear(inputs, outputs, initializer: .truncatedNormal(0.02))
            norm = LayerNorm(outputs, epsilon: 1e-6)
        }

        func callAsFunction(_ x: Tensor, like map: Tensor) -> Tensor {
            norm(linear(x)).resized(height: map.shape[1], width: map.shape[2], interpolation: .nearest)
        }
    }

    final class Column: Module, ReversibleColumn {
        let alpha0, alpha1, alpha2, alpha3: Parameter
        let level0, level1, level2, level3: Level
        private let index: Int

        override var keys: [String: String] {
            let names = (0..<4).flatMap { ["alpha\($0)", "level\($0)"] }
            return Dictionary(uniqueKeysWithValues: names.map { ($0, "subnet\(index).\($0)") })
        }

        init(_ c: Configuration, _ index: Int) {
            self.index = index
            let alphas = c.widths.map { Parameter([1, 1, 1, $0], .constant(0.5), layout: .convolution) }
            (alpha0, alpha1, alpha2, alpha3) = (alphas[0], alphas[1], alphas[2], alphas[3])
            var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
            let levels = c.depths.indices.map { level in
                defer { rates = rates.dropFirst(c.depths[level]) }
                return Level(c, level, isFirst: index == 0, dropPath: Array(rates.prefix(c.depths[level])))
            }
            (level0, level1, level2, level3) = (levels[0], levels[1], levels[2], levels[3])
        }

        private var alphas: [Parameter] { [alpha0, alpha1, alpha2, alpha3] }
        private var levels: [Level] { [level0, level1, level2, level3] }
        var scales: [Parameter]? { index == 0 ? nil : alphas }
        var levelCount: Int { levels.count }

        func level(_ index: Int, _ below: Tensor, above: [Tensor]) -> Tensor { levels[index](below, above: above) }

        /// No scale may come so close to zero that dividing by it loses the map.
        func clampScales() {
            for alpha in alphas where alpha.isInitialized {
                let values = alpha.value.scalars
                guard values.contains(where: { abs($0) < 1e-3 }) else { continue }
                alpha.value = Tensor(
                    values.map { $0 == 0 ? 0 : $0 < 0 ? min($0, -1e-3) : max($0, 1e-3) }, alpha.shape)
            }
        }
    }

    /// Blocks on the sum of what comes from below and from above.
    final class Level: Module {
        let down: Projection?
        let up: Expansion?
        let farUp: Expansion?
        let blocks: [ConvolutionBlock]

        override var keys: [String: String] {
            [
                "down": "fusion.down", "up": "fusion.up.channel_reschedule",
                "farUp": "fusion.up2.channel_reschedule",
            ]
        }

        init(_ c: Configuration, _ level: Int, isFirst: Bool, dropPath: [Float]) {
            let (width, last) = (c.widths[level], c.widths.count - 1)
            down = level == 0 ? nil : Projection(c.widths[level - 1], width, side: 2)
            up = isFirst || level == last ? nil : Expansion(c.widths[level + 1], width)
            farUp = isFirst || level > 0 || !c.feedsLastToFirst ? nil : Expansion(c.widths[last], width)
            blocks = dropPath.map { ConvolutionBlock(width, hidden: 4 * width, kernel: c.kernel, dropPath: $0) }
        }

        func callAsFunction(_ below: Tensor, above: [Tensor]) -> Tensor {
            var x = down.map { $0(below) } ?? below
            if let up { x = x + up(above[0], like: x) }
            if let farUp { x = x + farUp(above.last!, like: x) }
            return blocks.reduce(x) { $1($0) }
        }
    }

    /// ConvNeXt's block ("A ConvNet for the 2020s", 2022, arXiv 2201.03545): a depthwise convolution, a norm and a
    /// perceptron, scaled, beside the map itself.
    final class ConvolutionBlock: Module {
        let dwconv: Convolution2D
        let norm: LayerNorm
        let pwconv1: Linear
        let pwconv2: Linear
        let gamma: Parameter
        private let dropPath: DropPath

        init(_ width: Int, hidden: Int, kernel: Int, dropPath: Float = 0) {
            let initializer = Initializer.truncatedNormal(0.02)
            dwconv = Convolution2D(
                width, width, kernel: kernel, padding: (kernel - 1) / 2, groups: width, initializer: initializer,
                biasInitializer: .zeros)
            norm = LayerNorm(width, epsilon: 1e-6)
            pwconv1 = Linear(width, hidden, initializer: initializer)
            pwconv2 = Linear(hidden, width, initializer: initializer)
            gamma = Parameter([width], .constant(1e-6))
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            x + dropPath(pwconv2(pwconv1(norm(dwconv(x)), activation: .gelu)) * gamma.tensor)
        }
    }

    final class Head: Module {
        let norm: LayerNorm
        let linear: Linear

        override var keys: [String: String] { ["norm": "classifier.0", "linear": "classifier.1"] }

        init(_ c: Configuration) {
            norm = LayerNorm(c.widths.last!, epsilon: 1e-6)
            linear = Linear(c.widths.last!, c.classes, initializer: .truncatedNormal(0.02 * c.headScale))
        }

        /// The logits and what they are computed from.
        func callAsFunction(_ map: Tensor) -> (logits: Tensor, pooled: Tensor) {
            let pooled = norm(map.globalAveragePool())
            return (linear(pooled), pooled)
        }
    }

    /// The maps after every quarter of the columns, or after all of them.
    func maps(_ image: Tensor, quarters: Bool = false) -> [[Tensor]] {
        for column in columns { column.clampScales() }
        let x = stem(image)
        let count = quarters ? columns.count / 4 : columns.count
        var maps: [Tensor] = []
        return stride(from: 0, to: columns.count, by: count).map { start in
            maps = reversible(
                Array(columns[start..<start + count]), x, maps, savesMemory: configuration.savesMemory)
            return maps
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] { maps(image)[0] }

    public func features(_ image: Tensor) -> Features {
        let last = pyramid(image).last!
        let (logits, pooled) = (cls ?? clsBlocks[3])(last)
        return Features(logits: logits, pooled: pooled, tokens: last)
    }

    public func referenceOutputs(_ image: Tensor) -> [(key: String, tensor: Tensor)] {
        configuration.supervisesColumns ? supervisedOutputs(image) : [("output", self(image))]
    }

    public var pyramidStrides: [Int] { configuration.widths.indices.map { 4 << $0 } }
    public var pyramidChannels: [Int] { configuration.widths }
    public var headPrefixes: [String] { ["cls.", "cls_blocks."] }
}

extension RevCol.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        widths = try arguments.ints("channels", default: widths, in: Limits.width)
        depths = try arguments.ints("layers", default: depths, in: Limits.depth)
        columns = try arguments.int("num_subnet", default: columns, in: 1...256)
        kernel = try arguments.int("kernel_size", default: kernel, in: 1...63)
        supervisesColumns = try arguments.bool("inter_supv", default: supervisesColumns)
        savesMemory = try arguments.bool("save_memory", default: savesMemory)
        headScale = Float(try arguments.double("head_init_scale", default: Double(headScale), in: 0...1))
        dropPath = try arguments.rate("drop_path", dropPath)
    }

    public func validate() throws {
        guard depths.count == 4, widths.count == 4 else {
            throw ArgumentError(
                field: "layers", found: "\(depths.count) depths and \(widths.count) widths", expected: "4 of each")
        }
        try require("img_size", imageSize.height, divisibleBy: 32, "the last stride")
        try require("img_size", imageSize.width, divisibleBy: 32, "the last stride")
        if kernel % 2 == 0 { throw ArgumentError(field: "kernel_size", found: "\(kernel)", expected: "an odd number") }
        if supervisesColumns { try require("num_subnet", columns, divisibleBy: 4, "the number of heads") }
    }

    public func makeModel() -> any ImageClassifier { RevCol(self) }

    init(_ widths: [Int], _ depths: [Int], columns: Int, dropPath: Float, feedsLastToFirst: Bool = false) {
        (self.widths, self.depths, self.columns, self.dropPath) = (widths, depths, columns, dropPath)
        self.feedsLastToFirst = feedsLastToFirst
    }

    public static let tiny = Self([64, 128, 256, 512], [2, 2, 4, 2], columns: 4, dropPath: 0.1)
    public static let small = Self([64, 128, 256, 512], [2, 2, 4, 2], columns: 8, dropPath: 0.3)
    public static let base = Self([72, 144, 288, 576], [1, 1, 3, 2], columns: 16, dropPath: 0.4)
    public static let large = Self([128, 256, 512, 1024], [1, 2, 6, 2], columns: 8, dropPath: 0.3)
    public static let extraLarge = Self([224, 448, 896, 1792], [1, 2, 6, 2], columns: 8, dropPath: 0.4)
    public static let huge = Self(
        [360, 720, 1440, 2880], [1, 2, 6, 2], columns: 8, dropPath: 0.4, feedsLastToFirst: true)
}

extension RevCol {
    static let system = ModelSystem(
        id: "revcol", title: "Reversible Column Networks", year: 2022, arxiv: "2212.11696",
        variants: [
            ("revcol_tiny", .tiny), ("revcol_small", .small), ("revcol_base", .base), ("revcol_large", .large),
            ("revcol_xlarge", .extraLarge), ("revcol_huge", .huge),
        ] as [(String, Configuration)],
        reference: { reference in
            var configuration = Configuration()
            configuration.feedsLastToFirst = reference.contains("RevColHuge")
            return reference.contains("FullNet") || configuration.feedsLastToFirst ? configuration : nil
        })
}
