import Tessera

extension InternImage.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        width = try arguments.int("channels", default: width, in: Limits.width)
        depths = try arguments.ints("depths", default: depths, in: Limits.depth)
        groups = try arguments.ints("groups", default: groups, in: Limits.heads)
        mlpRatio = try arguments.double("mlp_ratio", default: mlpRatio, in: Limits.ratio)
        kernel = try arguments.int("dw_kernel_size", default: kernel, in: 1...63)
        offsetScale = Float(try arguments.double("offset_scale", default: Double(offsetScale), in: 0...64))
        removesCenter = try arguments.bool("remove_center", default: removesCenter)
        normalizesAfter = try arguments.bool("post_norm", default: normalizesAfter)
        normalizesBoth = try arguments.bool("res_post_norm", default: normalizesBoth)
        layerScale = try arguments.optionalDouble("layer_scale", in: 0...1).map { Float($0) } ?? layerScale
        let blocks = try arguments.ints("level2_post_norm_block_ids", default: normalizedBlocks, in: 0...1023)
        normalizedBlocks = try arguments.bool("level2_post_norm", default: !blocks.isEmpty) ? blocks : []
        scalesCenter = try arguments.bool("center_feature_scale", default: scalesCenter)
        headRatio = try arguments.double("cls_scale", default: headRatio, in: Limits.ratio)
        if try arguments.bool("use_clip_projector", default: attentionPooling != nil) {
            attentionPooling = attentionPooling ?? AttentionPooling()
        } else {
            attentionPooling = nil
        }
        try updateHead(arguments)
        dropout = try arguments.rate("drop_rate", dropout)
        dropPathRule = try arguments.choice("drop_path_type", default: dropPathRule)
        dropPath = try arguments.rate("drop_path_rate", dropPath)
    }

    /// The reference has these sizes in its code; reference cases tell theirs as `[names]=[1024,2,16,768]`.
    private mutating func updateHead(_ arguments: Arguments) throws {
        guard let text = try arguments.optionalString("head") else { return }
        let pattern = /^\[embed_dim,pixel_shuffle,num_heads,clip_dim\]=\[(\d{1,5}),(\d),(\d{1,4}),(\d{1,5})\].*/
        guard attentionPooling != nil, let match = text.wholeMatch(of: pattern), let width = Int(match.1),
            let upsampling = Int(match.2), let heads = Int(match.3), let outputs = Int(match.4),
            min(width, upsampling, heads, outputs) > 0
        else {
            throw ArgumentError(
                field: "head", found: text, expected: "[embed_dim,pixel_shuffle,num_heads,clip_dim]=[1024,2,16,768]")
        }
        attentionPooling = AttentionPooling(width: width, upsampling: upsampling, heads: heads, outputs: outputs)
    }

    public func validate() throws {
        try requireStages(depths, ("groups", groups))
        for (stage, count) in groups.enumerated() {
            try require("channels", width(stage), divisibleBy: count, "groups")
        }
        try require("channels", width, divisibleBy: 2, "the stem")
        if kernel % 2 == 0 {
            throw ArgumentError(field: "dw_kernel_size", found: "\(kernel)", expected: "an odd number")
        }
        if let pooling = attentionPooling {
            guard depths.count > 1 else {
                throw ArgumentError(field: "depths", found: "\(depths.count) stages", expected: "2 for the head")
            }
            try require("head embed_dim", pooling.width, divisibleBy: pooling.heads, "num_heads")
            try require("img_size", imageSize.height, divisibleBy: 4 << (depths.count - 1), "the last stride")
            try require("img_size", imageSize.width, divisibleBy: 4 << (depths.count - 1), "the last stride")
        }
    }

    public func makeModel() -> any ImageClassifier { InternImage(self) }

    init(_ width: Int, _ depths: [Int], groups: Int, dropPath: Float) {
        (self.width, self.depths, self.dropPath) = (width, depths, dropPath)
        self.groups = depths.indices.map { groups << $0 }
    }

    private static func scaled(
        _ width: Int, _ depths: [Int], groups: Int, offsetScale: Float, dropPath: Float
    ) -> Self {
        var configuration = Self(width, depths, groups: groups, dropPath: dropPath)
        (configuration.normalizesAfter, configuration.layerScale) = (true, 1e-5)
        configuration.offsetScale = offsetScale
        return configuration
    }

    private static func pooled(
        _ width: Int, _ depths: [Int], groups: Int, normalizedBlocks: [Int], dropPath: Float
    ) -> Self {
        var configuration = Self(width, depths, groups: groups, dropPath: dropPath)
        (configuration.kernel, configuration.scalesCenter) = (5, true)
        configuration.normalizedBlocks = normalizedBlocks
        configuration.attentionPooling = AttentionPooling()
        return configuration
    }

    public static let tiny = Self(64, [4, 4, 18, 4], groups: 4, dropPath: 0.1)
    public static let small = scaled(80, [4, 4, 21, 4], groups: 5, offsetScale: 1, dropPath: 0.4)
    public static let base = scaled(112, [4, 4, 21, 4], groups: 7, offsetScale: 1, dropPath: 0.5)
    public static let large = scaled(160, [5, 5, 22, 5], groups: 10, offsetScale: 2, dropPath: 0.1)
    public static let extraLarge = scaled(192, [5, 5, 24, 5], groups: 12, offsetScale: 2, dropPath: 0.2)
    public static var huge: Self {
        var configuration = pooled(
            320, [6, 6, 32, 6], groups: 10, normalizedBlocks: [5, 11, 17, 23, 29], dropPath: 0.2)
        configuration.normalizesBoth = true
        return configuration
    }
    public static var giant: Self {
        var configuration = pooled(
            512, [2, 2, 48, 4], groups: 16, normalizedBlocks: [5, 11, 17, 23, 29, 35, 41, 47], dropPath: 0.4)
        configuration.normalizesAfter = true
        return configuration
    }
}

extension InternImage {
    static let system = ModelSystem(
        id: "internimage",
        title: "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions", year: 2022,
        arxiv: "2211.05778",
        variants: [
            ("internimage_t", .tiny), ("internimage_s", .small), ("internimage_b", .base), ("internimage_l", .large),
            ("internimage_xl", .extraLarge), ("internimage_h", .huge), ("internimage_g", .giant),
        ] as [(String, Configuration)],
        reference: { $0.contains("intern_image.py") ? Configuration() : nil })
}
