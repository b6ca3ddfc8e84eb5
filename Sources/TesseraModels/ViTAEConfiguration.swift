import Tessera
import TesseraNN

extension ViTAE {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public enum Kind: String, Codable, Sendable, CaseIterable {
            case first = "ViTAE_ViT_basic"
            case second = "ViTAEv2_basic"
            /// The second version without a head, for detection and segmentation.
            case dense = "ViTAEv2 dense backbone"
        }
        /// What a reduction cell does with its pyramid of convolutions.
        public enum ReductionType: String, Codable, Sendable, CaseIterable {
            case performer
            /// Nothing more.
            case performerLess = "performer_less"
            case window, transformer
            /// Patches and a class token instead.
            case embedding
            /// There is no cell.
            case none
        }
        public enum CellType: String, Codable, Sendable, CaseIterable {
            case transformer, window
            /// Two convolutions instead of three.
            case shallow = "transformer_shallow"
        }

        public var kind = Kind.second
        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var reductionTypes: [ReductionType] = [.window, .window, .transformer, .transformer]
        public var cellTypes: [CellType] = [.window, .window, .transformer, .transformer]
        /// By stage: kernel and dilations of the pyramid, and by how much it shrinks the map.
        public var kernels = [7, 3, 3, 3]
        public var dilations = [[1, 2, 3, 4], [1, 2, 3], [1, 2], [1, 2]]
        public var ratios = [4, 2, 2, 2]
        /// Channels of each convolution of the pyramid.
        public var embeddingWidths = [64, 64, 128, 256]
        public var tokenWidths = [64, 128, 256, 512]
        public var depths = [2, 2, 8, 2]
        public var heads = [1, 2, 4, 8]
        public var reductionHeads = [1, 1, 2, 4]
        /// Groups of the convolutions beside the attention.
        public var groups = [1, 32, 64, 128]
        public var reductionGroups = [1, 16, 32, 64]
        public var mlpRatio: Float = 4
        public var qkvBias = true
        public var window = 7
        public var hasRelativePositions = false
        public var dropout: Float = 0
        public var attentionDropout: Float = 0
        /// In the reduction cells with a performer, on in training whatever the other rates.
        public var performerDropout: Float = 0.1
        public var dropPath: Float = 0.1

        var hasClassToken: Bool { reductionTypes[0] == .embedding }
    }
}

extension ViTAE.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        kind = try arguments.choice("class_", default: kind)
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        let stages = try arguments.int("stages", default: depths.count, in: 1...8)
        reductionTypes = try arguments.choices("RC_tokens_type", default: reductionTypes)
        cellTypes = try arguments.choices("NC_tokens_type", default: cellTypes)
        // The reference's defaults for these two have four stages, of which a model with three uses three.
        kernels = Array(try arguments.ints("kernel_size", default: kernels, in: 1...63).prefix(stages))
        dilations = Array(try dilations(arguments).prefix(stages))
        ratios = try arguments.ints("downsample_ratios", default: ratios, in: 1...64)
        embeddingWidths = try arguments.ints("embed_dims", default: embeddingWidths, in: Limits.width)
        tokenWidths = try arguments.ints("token_dims", default: tokenWidths, in: Limits.width)
        depths = try arguments.ints("NC_depth", default: depths, in: 0...1024)
        heads = try arguments.ints("NC_heads", default: heads, in: Limits.heads)
        reductionHeads = try arguments.ints("RC_heads", default: reductionHeads, in: Limits.heads)
        groups = try arguments.ints("NC_group", default: groups, in: Limits.width)
        reductionGroups = try arguments.ints("RC_group", default: reductionGroups, in: Limits.width)
        mlpRatio = Float(try arguments.double("mlp_ratio", default: Double(mlpRatio), in: Limits.ratio))
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        window = try arguments.int("window_size", default: window, in: Limits.side)
        hasRelativePositions = try arguments.bool("relative_pos", default: hasRelativePositions)
        dropout = try arguments.rate("drop_rate", dropout)
        attentionDropout = try arguments.rate("attn_drop_rate", attentionDropout)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
        // The shape of a reference case's image.
        _ = try arguments.ints("input", count: 3, default: [])
        guard try arguments.string("RC_op", default: "cat") == "cat" else {
            throw ArgumentError(field: "RC_op", found: "another operation", expected: "cat")
        }
        guard try arguments.double("norm_eps", default: 1e-6) == 1e-6 else {
            throw ArgumentError(field: "norm_eps", found: "another value", expected: "1e-6")
        }
        guard try arguments.bool("class_token", default: hasClassToken) == hasClassToken else {
            throw ArgumentError(
                field: "class_token", found: "\(!hasClassToken)",
                expected: "true with an embedding as first reduction, else false")
        }
        guard depths.count == stages else {
            throw ArgumentError(field: "stages", found: "\(stages)", expected: "as many as NC_depth (\(depths.count))")
        }
    }

    private func dilations(_ arguments: Arguments) throws -> [[Int]] {
        guard let rows = arguments.json("dilations")?.array else { return dilations }
        return try rows.map { row in
            let numbers = row.array?.compactMap(\.int) ?? []
            guard (1...16).contains(numbers.count), numbers.count == row.array?.count,
                numbers.allSatisfy({ (1...64).contains($0) })
            else {
                throw ArgumentError(field: "dilations", found: row.summary, expected: "lists of numbers from 1 to 64")
            }
            return numbers
        }
    }

    public func validate() throws {
        try requireStages(
            depths, ("RC_tokens_type", reductionTypes), ("NC_tokens_type", cellTypes), ("kernel_size", kernels),
            ("dilations", dilations), ("downsample_ratios", ratios), ("embed_dims", embeddingWidths),
            ("token_dims", tokenWidths), ("NC_heads", heads), ("RC_heads", reductionHeads), ("NC_group", groups),
            ("RC_group", reductionGroups))
        for stage in depths.indices { try validate(stage) }
    }

    private func validate(_ stage: Int) throws {
        let (width, type) = (tokenWidths[stage], reductionTypes[stage])
        let inputs = stage == 0 ? channels : tokenWidths[stage - 1]
        func refuse(_ field: String, _ found: String, _ expected: String) -> ArgumentError {
            ArgumentError(field: field, found: "\(found) in stage \(stage + 1)", expected: expected)
        }
        if depths[stage] > 0 {
            try require("token_dims", width, divisibleBy: heads[stage], "NC_heads")
            try require("token_dims", width, divisibleBy: groups[stage], "NC_group")
            try require("mlp_ratio", Int(Float(width) * mlpRatio), divisibleBy: groups[stage], "NC_group")
        }
        guard type != .embedding || stage == 0 else { throw refuse("RC_tokens_type", "embedding", "it in the first") }
        guard !hasClassToken || cellTypes[stage] != .window else {
            throw refuse("NC_tokens_type", "window", "another type with a class token")
        }
        switch type {
        case .embedding:
            try require("img_size", imageSize.height, divisibleBy: ratios[stage], "the patch")
            try require("img_size", imageSize.width, divisibleBy: ratios[stage], "the patch")
        case _ where ratios[stage] == 1 || type == .none:
            guard inputs == width, ratios[stage] == 1 else {
                throw refuse("token_dims", "\(width)", "\(inputs), as nothing is reduced")
            }
        case .performerLess:
            guard embeddingWidths[stage] * dilations[stage].count == width else {
                throw refuse("token_dims", "\(width)", "embed_dims times the number of dilations")
            }
        default:
            guard !hasClassToken else { throw refuse("RC_tokens_type", type.rawValue, "none behind an embedding") }
            guard [2, 4].contains(ratios[stage]) else {
                throw refuse("downsample_ratios", "\(ratios[stage])", "2 or 4")
            }
            guard type != .performer || width > 1 else { throw refuse("token_dims", "\(width)", "at least 2") }
            try require("token_dims", width, divisibleBy: reductionHeads[stage], "RC_heads")
            for (name, value) in [("in_chans", inputs), ("embed_dims", embeddingWidths[stage]), ("token_dims", width)] {
                try require(name, value, divisibleBy: reductionGroups[stage], "RC_group")
            }
        }
    }

    public func makeModel() -> any ImageClassifier { ViTAE(self) }

    /// The first version: performers, then a pyramid without attention, all normal cells at the end.
    static func columnar(
        _ embedding: Int, _ tokens: [Int], depth: Int, heads: Int, ratio: Float, groups: Int
    ) -> Self {
        var c = Self()
        c.kind = .first
        (c.reductionTypes, c.cellTypes) = (
            [.performer, .performer, .performerLess], [.transformer, .transformer, .transformer]
        )
        (c.kernels, c.dilations, c.ratios) = ([7, 3, 3], [[1, 2, 3, 4], [1, 2, 3], [1, 2]], [4, 2, 2])
        (c.embeddingWidths, c.tokenWidths) = ([64, 64, embedding], tokens)
        (c.depths, c.heads, c.reductionHeads) = ([0, 0, depth], [1, 1, heads], [1, 1, 1])
        (c.groups, c.reductionGroups, c.mlpRatio) = ([1, 1, groups], [1, 1, 1], ratio)
        return c
    }

    /// The first version on patches, with a class token.
    static func plain(_ width: Int, depth: Int, heads: Int, groups: Int) -> Self {
        var c = columnar(width, [width, width, width], depth: depth, heads: heads, ratio: 4, groups: groups)
        (c.reductionTypes, c.cellTypes) = ([.embedding, .none, .none], [.shallow, .shallow, .shallow])
        (c.embeddingWidths, c.ratios) = ([width, width, width], [16, 1, 1])
        return c
    }

    /// The second version.
    static func staged(
        _ embedding: [Int], _ tokens: Int, depth: Int, heads: [Int] = [1, 2, 4, 8],
        reductionHeads: [Int] = [1, 1, 2, 4],
        dropPath: Float
    ) -> Self {
        var c = Self()
        (c.embeddingWidths, c.tokenWidths) = (embedding, (0..<4).map { tokens << $0 })
        (c.depths, c.heads, c.reductionHeads) = ([2, 2, depth, 2], heads, reductionHeads)
        c.dropPath = dropPath
        return c
    }

    public static let tiny = columnar(128, [64, 64, 256], depth: 7, heads: 4, ratio: 2, groups: 64)
    public static let small = columnar(192, [96, 192, 384], depth: 14, heads: 6, ratio: 3, groups: 96)
    public static let secondSmall = staged([64, 64, 128, 256], 64, depth: 8, dropPath: 0.1)
}

extension Arguments {
    /// A list of names out of `Choice`.
    fileprivate func choices<Choice: RawRepresentable<String> & CaseIterable>(
        _ name: String, default absent: [Choice]
    ) throws -> [Choice] {
        guard has(name) else { return absent }
        return try strings(name).map { text in
            guard let choice = Choice(rawValue: text) else {
                throw ArgumentError(
                    field: name, found: "\"\(text)\"",
                    expected: "one of \(Choice.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            return choice
        }
    }
}

extension ViTAE {
    static let system = ModelSystem(
        id: "vitae",
        title: "ViTAE: Vision Transformer Advanced by Exploring Intrinsic Inductive Bias", year: 2021,
        arxiv: "2106.03348",
        variants: [
            ("ViTAE_basic_Tiny", Configuration.tiny),
            (
                "ViTAE_basic_6M",
                Configuration.columnar(128, [64, 64, 256], depth: 10, heads: 4, ratio: 2, groups: 64)
            ),
            (
                "ViTAE_basic_13M",
                Configuration.columnar(160, [64, 64, 320], depth: 11, heads: 5, ratio: 2, groups: 64)
            ),
            ("ViTAE_basic_Small", Configuration.small),
            ("ViTAE_basic_Base", Configuration.plain(768, depth: 12, heads: 12, groups: 192)),
            ("ViTAE_basic_Large", Configuration.plain(1024, depth: 24, heads: 16, groups: 256)),
            ("ViTAE_basic_Huge", Configuration.plain(1280, depth: 32, heads: 16, groups: 320)),
            ("ViTAEv2_S", Configuration.secondSmall),
            ("ViTAEv2_48M", Configuration.staged([64, 64, 192, 384], 96, depth: 11, dropPath: 0.25)),
            (
                "ViTAEv2_B",
                Configuration.staged(
                    [96, 96, 256, 512], 128, depth: 12, heads: [1, 4, 8, 16], reductionHeads: [1, 1, 4, 8],
                    dropPath: 0.4)
            ),
        ],
        reference: { reference in
            var configuration = Configuration()
            // The reference cases were made without these.
            (configuration.performerDropout, configuration.dropPath) = (0, 0)
            if reference.contains("ViTAE_ViT_basic") { configuration.kind = .first }
            if reference.contains("Detection") { configuration.kind = .dense }
            return configuration
        })
}
