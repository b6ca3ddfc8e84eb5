import Tessera
import TesseraNN

extension ResidualAttentionTransformer {
    /// The hyper-parameters of ReViT and ReMViTv2. The latter is described by the blocks where something changes.
    public struct Configuration: ClassifierConfiguration, Hashable {
        public enum HeadActivation: String, Codable, Sendable, CaseIterable { case softmax, sigmoid }

        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var patchKernel = 16
        public var patchStride = 16
        public var patchPadding = 0
        public var width = 768
        public var depth = 12
        public var heads = 12
        public var mlpRatio: Float = 4
        public var qkvBias = true
        public var hasClassToken = false
        public var hasPositions = true
        /// Whether α is learned; else it is ½.
        public var learnsAlpha = true
        /// What turns logits to probabilities in the reference's evaluation mode.
        public var headActivation = HeadActivation.softmax
        /// Factors of the width at blocks.
        public var widthFactors: [Int: Float] = [:]
        /// Factors of the number of heads at blocks.
        public var headFactors: [Int: Float] = [:]
        /// The stride at which queries are pooled, by block; at other blocks they are not.
        public var queryStrides: [Int: Int] = [:]
        /// The stride at which keys and values of the first block are pooled, divided by the queries' strides from
        /// there on; nil: they are not pooled.
        public var keyStride: Int?
        public var poolKernel = 3
        public var hasRelativePositions = false
        public var zeroesRelativePositions = false
        /// Pooled queries are added to what attention makes of them.
        public var residualPooling = false
        public var dropout: Float = 0
        public var dropPath: Float = 0

        public var grid: Size { Size(patches(imageSize.height), patches(imageSize.width)) }

        private func patches(_ pixels: Int) -> Int { (pixels + 2 * patchPadding - patchKernel) / patchStride + 1 }

        /// The extent of a pooled map.
        func pooled(_ side: Int, _ stride: Int?) -> Int {
            stride.map { (side + 2 * (poolKernel / 2) - poolKernel) / $0 + 1 } ?? side
        }
    }

    /// The shape of one block.
    struct BlockShape {
        var inputs: Int
        var outputs: Int
        var heads: Int
        var queryStride: Int?
        var keyStride: Int?
        /// Of the tokens that come in.
        var grid: Size
    }
}

extension ResidualAttentionTransformer.Configuration {
    var blockShapes: [ResidualAttentionTransformer.BlockShape] {
        var (width, heads, grid, keyStride) = (self.width, self.heads, self.grid, self.keyStride)
        return (0..<depth).map { index in
            let outputs = Int(Float(width) * (widthFactors[index] ?? 1))
            heads = Int(Float(heads) * (headFactors[index] ?? 1))
            let queryStride = queryStrides[index]
            keyStride = keyStride.map { max(1, $0 / (queryStride ?? 1)) }
            defer {
                width = outputs
                grid = Size(pooled(grid.height, queryStride), pooled(grid.width, queryStride))
            }
            return ResidualAttentionTransformer.BlockShape(
                inputs: width, outputs: outputs, heads: heads, queryStride: queryStride, keyStride: keyStride,
                grid: grid)
        }
    }

    /// The reference's arguments stand in the sections `ReViT`, `MODEL` and `DATA` of its configuration; those of the first
    /// may also stand alone.
    public mutating func update(_ arguments: Arguments) throws {
        if let data = try arguments.nested("DATA") {
            imageSize = Size(try data.int("crop_size", default: imageSize.height, in: Limits.side))
            try data.finish()
        }
        if let model = try arguments.nested("MODEL") {
            classes = try model.int("num_classes", default: classes, in: Limits.classes)
            dropout = try model.rate("dropout_rate", dropout)
            headActivation = try model.choice("head_act", default: headActivation)
            for name in ["name", "loss_func", "loss_func_val"] { _ = try model.optionalString(name) }
            _ = try model.bool("act_checkpoint", default: false)
            try model.finish()
        }
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        if let own = try arguments.nested("ReViT") {
            try updateArchitecture(own)
            try own.finish()
        } else {
            try updateArchitecture(arguments)
        }
    }

    private mutating func updateArchitecture(_ arguments: Arguments) throws {
        patchKernel = try arguments.square("patch_kernel", in: Limits.side) ?? patchKernel
        patchStride = try arguments.square("patch_stride", in: Limits.side) ?? patchStride
        patchPadding = try arguments.square("patch_padding", in: 0...1024) ?? patchPadding
        width = try arguments.int("embed_dim", default: width, in: Limits.width)
        depth = try arguments.int("depth", default: depth, in: Limits.depth)
        heads = try arguments.int("num_heads", default: heads, in: Limits.heads)
        mlpRatio = Float(try arguments.double("mlp_ratio", default: Double(mlpRatio), in: Limits.ratio))
        qkvBias = try arguments.bool("qkv_bias", default: qkvBias)
        dropPath = try arguments.rate("drop_path", dropPath)
        hasClassToken = try arguments.bool("cls_embed_on", default: hasClassToken)
        hasPositions = try arguments.bool("use_abs_pos", default: hasPositions)
        hasRelativePositions = try arguments.bool("use_rel_pos", default: hasRelativePositions)
        zeroesRelativePositions = try arguments.bool("rel_pos_zero_init", default: zeroesRelativePositions)
        residualPooling = try arguments.bool("residual_pooling", default: residualPooling)
        learnsAlpha = try arguments.bool("alpha", default: learnsAlpha)
        widthFactors = try arguments.byBlock("dim_mul", columns: 2)?.mapValues { Float($0[0]) } ?? widthFactors
        headFactors = try arguments.byBlock("head_mul", columns: 2)?.mapValues { Float($0[0]) } ?? headFactors
        if let strides = try arguments.byBlock("pool_q_stride", columns: 3) {
            queryStrides = try strides.mapValues { pair in
                guard pair[0] == pair[1], let stride = Int(exactly: pair[0]), (1...64).contains(stride) else {
                    throw ArgumentError(field: "pool_q_stride", found: "\(pair)", expected: "equal whole numbers")
                }
                return stride
            }
        }
        poolKernel = try arguments.square("pool_qkv_kernel", in: 1...63) ?? poolKernel
        keyStride = try arguments.square("pool_kv_stride_adaptive", in: 1...64) ?? keyStride
        _ = try arguments.bool("zero_decay_pos", default: false)
        _ = try arguments.bool("visualize", default: false)
        guard try arguments.string("mode", default: "conv") == "conv" else {
            throw ArgumentError(field: "mode", found: "another mode", expected: "conv")
        }
        guard try !arguments.bool("pool_first", default: false) else {
            throw ArgumentError(field: "pool_first", found: "true", expected: "false")
        }
        guard try arguments.bool("dim_mul_in_att", default: true) || widthFactors.isEmpty else {
            throw ArgumentError(field: "dim_mul_in_att", found: "false", expected: "true where dim_mul is not empty")
        }
    }

    public func validate() throws {
        guard min(imageSize.height, imageSize.width) + 2 * patchPadding >= patchKernel else {
            throw ArgumentError(field: "img_size", found: "\(imageSize)", expected: "at least a patch (\(patchKernel))")
        }
        guard !hasClassToken || queryStrides.isEmpty && keyStride == nil && !hasRelativePositions && !residualPooling
        else {
            throw ArgumentError(
                field: "cls_embed_on", found: "true", expected: "false with pooling or relative positions")
        }
        guard poolKernel % 2 == 1 else {
            throw ArgumentError(field: "pool_qkv_kernel", found: "\(poolKernel)", expected: "an odd number")
        }
        for (index, layer) in blockShapes.enumerated() {
            guard Limits.width.contains(layer.outputs), Limits.heads.contains(layer.heads) else {
                throw ArgumentError(
                    field: "dim_mul", found: "\(layer.outputs) channels, \(layer.heads) heads at block \(index)",
                    expected: "\(Limits.width) channels, \(Limits.heads) heads")
            }
            try require("embed_dim", layer.outputs, divisibleBy: layer.heads, "num_heads")
        }
    }

    public func makeModel() -> any ImageClassifier {
        queryStrides.isEmpty && keyStride == nil
            ? ResidualAttentionTransformer(self) : ResidualMultiscaleTransformer(self)
    }

    public static let base: Self = {
        var c = Self()
        c.dropPath = 0.2
        return c
    }()

    public static let multiscaleTiny: Self = {
        var c = Self()
        (c.patchKernel, c.patchStride, c.patchPadding) = (7, 4, 3)
        (c.width, c.depth, c.heads, c.dropPath) = (96, 10, 1, 0.1)
        (c.widthFactors, c.headFactors) = ([1: 2, 3: 2, 8: 2], [1: 2, 3: 2, 8: 2])
        c.queryStrides = Dictionary(uniqueKeysWithValues: (0..<10).map { ($0, [1, 3, 8].contains($0) ? 2 : 1) })
        c.keyStride = 4
        (c.hasPositions, c.hasRelativePositions, c.residualPooling) = (false, true, true)
        return c
    }()
}

extension Arguments {
    /// A number, or a pair of equal ones; nil if absent or an empty list.
    fileprivate func square(_ name: String, in range: ClosedRange<Int>) throws -> Int? {
        if json(name)?.array?.isEmpty ?? !has(name) { return nil }
        let sides = try pair(name, in: range)
        guard sides.0 == sides.1 else {
            throw ArgumentError(field: name, found: "\(sides)", expected: "two equal numbers")
        }
        return sides.0
    }

    /// Rows `[block, …]` of numbers as a dictionary by block.
    fileprivate func byBlock(_ name: String, columns: Int) throws -> [Int: [Double]]? {
        guard let rows = json(name)?.array else { return nil }
        var table: [Int: [Double]] = [:]
        for row in rows {
            let numbers = row.array?.compactMap(\.double) ?? []
            guard numbers.count == columns, row.array?.count == columns, let block = Int(exactly: numbers[0]),
                Limits.depth.contains(block + 1), numbers.dropFirst().allSatisfy({ (0.01...64).contains($0) })
            else {
                throw ArgumentError(
                    field: name, found: row.summary, expected: "lists of \(columns) numbers, the first a block")
            }
            table[block] = Array(numbers.dropFirst())
        }
        return table
    }
}

extension ResidualAttentionTransformer {
    static let system = ModelSystem(
        id: "revit", title: "ReViT: Enhancing Vision Transformers with Attention Residual Connections", year: 2024,
        arxiv: "2402.11301",
        variants: [("revit_b", .base), ("remvitv2_t", .multiscaleTiny)] as [(String, Configuration)],
        reference: { $0.contains("revit_model") ? Configuration() : nil })
}
