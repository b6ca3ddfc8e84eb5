import Tessera
import TesseraNN

/// SReT: "Sliced Recursive Transformer" (2021), arXiv 2111.05297.
///
/// Every transformer block is applied twice in a row with the same weights, each time followed by a small perceptron of
/// its own. To pay for that, tokens are sliced into groups that attend among themselves, and the second pass shuffles
/// the tokens first, so that groups mix. Learned scalars weigh both sides of every residual.
///
/// The reference is szq0214/SReT (MIT). It draws the permutations anew in evaluation too; here they are fixed then, so
/// that an image has one answer. Groups that do not divide the tokens of another image size become fewer.
public final class SlicedRecursiveTransformer: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        /// Channels of a head, by stage.
        public var headWidths = [32, 32, 32]
        public var heads = [2, 4, 8]
        /// Applications of blocks, by stage.
        public var depths = [4, 10, 6]
        /// Different blocks among them.
        public var sharedBlocks = [2, 5, 3]
        /// Groups of tokens in the first pass and in the second; nil: one.
        public var groups1: [Int]?
        public var groups2: [Int]?
        public var mlpRatio: Float = 4
        /// The ratio of the perceptrons that are not shared.
        public var projectionRatio: Float = 1
        public var dropout: Float = 0
        public var attentionDropout: Float = 0
        public var dropPath: Float = 0

        func width(_ stage: Int) -> Int { headWidths[stage] * heads[stage] }
        func groups(_ stage: Int, shuffled: Bool) -> Int { (shuffled ? groups2 : groups1)?[stage] ?? 1 }
    }

    let posEmbed: Parameter
    let patchEmbed: Stem
    let transformers: [Stage]
    let pools: [Pool]
    let norm: LayerNorm
    let head: Linear
    let configuration: Configuration
    /// The first permutations of a forward pass, where a reference case prescribes them.
    private var prescribed: [[Int32]] = []

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        posEmbed = Parameter(
            [1, c.width(0), c.imageSize.height / 8, c.imageSize.width / 8], .truncatedNormal(0.02))
        patchEmbed = Stem(c.channels, c.width(0))
        transformers = c.depths.indices.map { Stage(c, $0) }
        pools = c.depths.indices.dropLast().map { Pool(c.width($0), c.width($0 + 1)) }
        norm = LayerNorm(c.width(c.depths.count - 1), epsilon: 1e-6)
        head = Linear(c.width(c.depths.count - 1), c.classes)
    }

    /// Three convolutions of stride 2.
    final class Stem: Module {
        let conv1: Convolution2D
        let bn1: BatchNorm
        let conv2: Convolution2D
        let bn2: BatchNorm
        let conv3: Convolution2D
        let bn3: BatchNorm

        init(_ channels: Int, _ width: Int) {
            conv1 = Convolution2D(channels, width / 2, kernel: 3, stride: 2, padding: 1)
            bn1 = BatchNorm(width / 2)
            conv2 = Convolution2D(width / 2, width, kernel: 3, stride: 2, padding: 1)
            bn2 = BatchNorm(width)
            conv3 = Convolution2D(width, width, kernel: 3, stride: 2, padding: 1)
            bn3 = BatchNorm(width)
        }

        func callAsFunction(_ image: Tensor) -> Tensor {
            bn3(conv3(bn2(conv2(bn1(conv1(image)).relu())).relu())).relu()
        }
    }

    /// A depthwise convolution that halves the map and widens it.
    final class Pool: Module {
        let conv: Convolution2D

        init(_ inputs: Int, _ outputs: Int) {
            conv = Convolution2D(inputs, outputs, kernel: 3, stride: 2, padding: 1, groups: inputs)
        }
    }

    /// Blocks and perceptrons in turn; a block that is applied twice is in the list twice.
    final class Stage: Module {
        let blocks: [Module & StageLayer]

        init(_ c: Configuration, _ stage: Int) {
            let width = c.width(stage)
            let passes = c.depths[stage] / c.sharedBlocks[stage]
            let before = c.depths[..<stage].reduce(0, +)
            let total = Float(c.depths.reduce(0, +))
            var blocks: [Module & StageLayer] = []
            for index in 0..<c.sharedBlocks[stage] {
                // As in the reference, the rates count blocks and not their applications.
                let shared = Block(c, stage, dropPath: c.dropPath * Float(before + index) / total)
                for _ in 0..<passes { blocks += [shared, Projection(width, ratio: c.projectionRatio)] }
            }
            self.blocks = blocks
        }

        func callAsFunction(_ map: Tensor, _ permutations: inout Permutations) -> Tensor {
            var x = map.reshaped([map.shape[0], map.shape[1] * map.shape[2], map.shape[3]])
            for (index, block) in blocks.enumerated() {
                // With two passes, which all published models have, the second pass of each block.
                let shuffle = block.shuffle(x.shape[1], isSecondPass: (index + 2) % 4 == 0, &permutations)
                x = checkpointed(block, x) { block($0, shuffle) }
            }
            return x.reshaped(map.shape)
        }
    }

    /// In how many groups tokens attend to each other, and in which order they are divided into them.
    struct Shuffle {
        let groups: Int
        let order: [Int32]?
    }

    protocol StageLayer {
        /// What the layer wants with `count` tokens.
        func shuffle(_ count: Int, isSecondPass: Bool, _ permutations: inout Permutations) -> Shuffle
        func callAsFunction(_ x: Tensor, _ shuffle: Shuffle) -> Tensor
    }

    /// A learned factor.
    final class Coefficient: Module {
        let bias = Parameter([1], .ones)

        static func * (_ coefficient: Coefficient, _ x: Tensor) -> Tensor { x * coefficient.bias.tensor }
    }

    /// c₁ x + c₂ attention(norm(x)), then c₃ x + c₄ perceptron(norm(x)).
    final class Block: Module, StageLayer {
        let norm1: LayerNorm
        let attn: GroupAttention
        let norm2: LayerNorm
        let mlp: FeedForward
        let coefficient1 = Coefficient()
        let coefficient2 = Coefficient()
        let coefficient3 = Coefficient()
        let coefficient4 = Coefficient()
        private let dropPath: DropPath

        init(_ c: Configuration, _ stage: Int, dropPath: Float) {
            let width = c.width(stage)
            norm1 = LayerNorm(width, epsilon: 1e-6)
            attn = GroupAttention(c, stage)
            norm2 = LayerNorm(width, epsilon: 1e-6)
            mlp = FeedForward(width, hidden: Int(Float(width) * c.mlpRatio), dropout: c.dropout)
            self.dropPath = DropPath(dropPath)
        }

        func shuffle(_ count: Int, isSecondPass: Bool, _ permutations: inout Permutations) -> Shuffle {
            attn.shuffle(count, isSecondPass: isSecondPass, &permutations)
        }

        func callAsFunction(_ x: Tensor, _ shuffle: Shuffle) -> Tensor {
            let mixed = attn(norm1(x), shuffle)
            let x = coefficient1 * x + coefficient2 * dropPath(mixed)
            return coefficient3 * x + coefficient4 * dropPath(mlp(norm2(x)))
        }
    }

    /// The perceptron after each application of a block, whose weights are not shared.
    final class Projection: Module, StageLayer {
        let norm1: LayerNorm
        let mlp: FeedForward
        let coefficient1 = Coefficient()
        let coefficient2 = Coefficient()

        init(_ width: Int, ratio: Float) {
            norm1 = LayerNorm(width, epsilon: 1e-6)
            mlp = FeedForward(width, hidden: Int(Float(width) * ratio))
        }

        func shuffle(_ count: Int, isSecondPass: Bool, _ permutations: inout Permutations) -> Shuffle {
            Shuffle(groups: 1, order: nil)
        }

        func callAsFunction(_ x: Tensor, _ shuffle: Shuffle) -> Tensor {
            coefficient1 * x + coefficient2 * mlp(norm1(x))
        }
    }

    /// Self-attention inside groups of tokens that follow each other; in the second pass, after a shuffle.
    final class GroupAttention: Module {
        let qkv: Linear
        let proj: Linear
        private let heads: Int
        private let groups: (first: Int, second: Int)
        private let attentionDropout: Float
        private let dropout: Dropout

        init(_ c: Configuration, _ stage: Int) {
            let width = c.width(stage)
            qkv = Linear(width, 3 * width)
            proj = Linear(width, width)
            heads = c.heads[stage]
            groups = (c.groups(stage, shuffled: false), c.groups(stage, shuffled: true))
            (attentionDropout, dropout) = (c.attentionDropout, Dropout(c.dropout))
        }

        func shuffle(_ count: Int, isSecondPass: Bool, _ permutations: inout Permutations) -> Shuffle {
            let wanted = isSecondPass ? groups.second : groups.first
            return Shuffle(
                groups: (1...wanted).last { count % $0 == 0 }!,
                order: isSecondPass && wanted != 1 ? permutations.next(count) : nil)
        }

        func callAsFunction(_ x: Tensor, _ shuffle: Shuffle) -> Tensor {
            let (batch, count, width) = (x.shape[0], x.shape[1], x.shape[2])
            let (groups, order) = (shuffle.groups, shuffle.order)
            let shuffled = order.map { x.gathered($0, axis: 1) } ?? x
            let pass = attentionDropout > 0 ? TrainingPass.current : nil
            let mixed = attention(
                packed: qkv(shuffled).reshaped([batch * groups, count / groups, 3 * width]), heads: heads,
                dropout: pass == nil ? 0 : attentionDropout, seed: pass?.nextSeed() ?? 0
            ).reshaped([batch, count, width])
            return dropout(proj(order.map { mixed.gathered(inverse($0), axis: 1) } ?? mixed))
        }

        private func inverse(_ order: [Int32]) -> [Int32] {
            var inverse = order
            for (place, source) in order.enumerated() { inverse[Int(source)] = Int32(place) }
            return inverse
        }
    }

    /// The permutations of one forward pass, in the order in which layers ask for them.
    struct Permutations {
        let prescribed: [[Int32]]
        private var drawn = 0

        init(_ prescribed: [[Int32]]) { self.prescribed = prescribed }

        mutating func next(_ count: Int) -> [Int32] {
            defer { drawn += 1 }
            if drawn < prescribed.count, prescribed[drawn].count == count { return prescribed[drawn] }
            var generator = RandomGenerator(seed: TrainingPass.current?.nextSeed() ?? UInt64(drawn))
            return generator.permutation(count).map(Int32.init)
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var permutations = Permutations(prescribed)
        let embedded = patchEmbed(image)
        var map = Dropout(configuration.dropout)(embedded + positions(embedded.shape[1], embedded.shape[2]))
        return transformers.enumerated().map { stage, transformer in
            if stage > 0 { map = pools[stage - 1].conv(map) }
            map = transformer(map, &permutations)
            return map
        }
    }

    public func features(_ image: Tensor) -> Features {
        let last = pyramid(image).last!
        let pooled = norm(last.globalAveragePool())
        return Features(logits: head(pooled), pooled: pooled, tokens: last)
    }

    private func positions(_ rows: Int, _ columns: Int) -> Tensor {
        let trained = posEmbed.tensor.transposed([0, 2, 3, 1])
        guard (rows, columns) != (trained.shape[1], trained.shape[2]) else { return trained }
        return trained.resized(height: rows, width: columns, interpolation: .bilinear)
    }

    public var pyramidStrides: [Int] { transformers.indices.map { 8 << $0 } }
    public var pyramidChannels: [Int] { transformers.indices.map(configuration.width) }
    public var headPrefixes: [String] { ["head."] }
    public var undecayedKeys: Set<String> { ["pos_embed"] }

    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? {
        guard key == "pos_embed", tensor.rank == 4, tensor.shape[1] == posEmbed.shape[1] else { return nil }
        return tensor.transposed([0, 2, 3, 1])
            .resized(height: posEmbed.shape[2], width: posEmbed.shape[3], interpolation: .bilinear)
            .transposed([0, 3, 1, 2])
    }

    /// `input.perm.K` is the K-th permutation of a forward pass.
    public func adoptReferenceInputs(_ inputs: [String: Tensor]) throws {
        prescribed = try (0..<inputs.count).map { index in
            let name = "input.perm.\(index)"
            guard let tensor = inputs[name] else { throw ReferenceCaseError("tensor \(name)", "nothing", "it") }
            let order = tensor.scalars.map { Int32(exactly: $0) ?? -1 }
            guard order.sorted() == Array(0..<Int32(order.count)) else {
                throw ReferenceCaseError("tensor \(name)", "other numbers", "a permutation of 0 to \(order.count - 1)")
            }
            return order
        }
    }
}

extension SlicedRecursiveTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("image_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        headWidths = try arguments.ints("base_dims", default: headWidths, in: Limits.width)
        heads = try arguments.ints("heads", default: heads, in: Limits.heads)
        depths = try arguments.ints("depth", default: depths, in: Limits.depth)
        sharedBlocks = try arguments.ints("recursive_num", default: sharedBlocks, in: Limits.depth)
        if arguments.has("groups1") { groups1 = try arguments.ints("groups1", in: 1...16384) }
        if arguments.has("groups2") { groups2 = try arguments.ints("groups2", in: 1...16384) }
        mlpRatio = Float(try arguments.double("mlp_ratio", default: Double(mlpRatio), in: Limits.ratio))
        projectionRatio = Float(
            try arguments.double("np_mlp_ratio", default: Double(projectionRatio), in: Limits.ratio))
        dropout = try arguments.rate("drop_rate", dropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        // The reference has these arguments and ignores them.
        _ = (try arguments.optionalInt("patch_size"), try arguments.optionalInt("stride"))
    }

    public func validate() throws {
        try requireStages(
            depths, ("recursive_num", sharedBlocks), ("base_dims", headWidths), ("heads", heads),
            ("groups1", groups1 ?? depths), ("groups2", groups2 ?? depths))
        try require("image_size", imageSize.height, divisibleBy: 8, "the stem's stride")
        try require("image_size", imageSize.width, divisibleBy: 8, "the stem's stride")
        try require("base_dims", width(0), divisibleBy: 2, "what the stem halves")
        var grid = Size(imageSize.height / 8, imageSize.width / 8)
        for stage in depths.indices {
            try require("depth", depths[stage], divisibleBy: sharedBlocks[stage], "recursive_num")
            if stage > 0 {
                try require("heads", width(stage), divisibleBy: width(stage - 1), "the width of the stage before")
                grid = Size((grid.height + 1) / 2, (grid.width + 1) / 2)
            }
            for (name, groups) in [("groups1", groups1), ("groups2", groups2)] {
                guard let count = groups?[stage], grid.height * grid.width % count != 0 else { continue }
                throw ArgumentError(
                    field: name, found: "\(count)",
                    expected: "a divisor of the \(grid.height * grid.width) tokens of stage \(stage + 1)")
            }
        }
    }

    public func makeModel() -> any ImageClassifier { SlicedRecursiveTransformer(self) }

    init(_ headWidth: Int, heads: Int, ratio: Float, projectionRatio: Float = 1) {
        headWidths = [headWidth, headWidth, headWidth]
        self.heads = [heads, 2 * heads, 4 * heads]
        (mlpRatio, self.projectionRatio) = (ratio, projectionRatio)
    }

    func sliced(_ groups1: [Int] = [8, 4, 1], _ groups2: [Int] = [2, 1, 1]) -> Self {
        var copy = self
        (copy.groups1, copy.groups2, copy.dropPath) = (groups1, groups2, 0.1)
        return copy
    }

    /// The models without slices.
    public static let tiny = Self(32, heads: 2, ratio: 3.6)
    public static let largeTiny = Self(32, heads: 2, ratio: 4)
    public static let small = Self(42, heads: 3, ratio: 3, projectionRatio: 2)
}

extension SlicedRecursiveTransformer {
    static let system = ModelSystem(
        id: "sret", title: "Sliced Recursive Transformer", year: 2021, arxiv: "2111.05297",
        variants: [
            ("SReT_T", Configuration.tiny.sliced()), ("SReT_LT", Configuration.largeTiny.sliced()),
            ("SReT_LT_16_14_1", Configuration.largeTiny.sliced([16, 14, 1], [1, 1, 1])),
            ("SReT_S", Configuration.small.sliced()),
            ("SReT_T_wo_slice", .tiny), ("SReT_LT_wo_slice", .largeTiny), ("SReT_S_wo_slice", .small),
            ("SReT_T_wo_slice_384", Configuration.tiny.with(imageSize: 384)),
            ("SReT_S_wo_slice_384", Configuration.small.with(imageSize: 384)),
        ] as [(String, Configuration)],
        reference: { _ in Configuration() })
}
