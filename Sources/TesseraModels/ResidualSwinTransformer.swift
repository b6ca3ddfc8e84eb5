import Tessera
import TesseraNN

/// ReSwin: the attention residual of ReViT (2024, arXiv 2402.11301) in a Swin transformer.
///
/// Half of every layer's scores are the layer before's, across stages too. Where the number of windows and heads
/// changes, the nearest of the fused window and head axis is taken, and between shifted and plain windows the maps
/// are of different parts of the image.
///
/// The reference is ADiko1997/ReViT (MIT), `model/reswin.py`, derived by its authors from timm.
public final class ResidualSwinTransformer: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        /// Everything but the residual.
        public var swin = SwinTransformer.Configuration()

        public var imageSize: Size {
            get { swin.imageSize }
            set { swin.imageSize = newValue }
        }
        public var channels: Int {
            get { swin.channels }
            set { swin.channels = newValue }
        }
        public var classes: Int {
            get { swin.classes }
            set { swin.classes = newValue }
        }
        public var dropPath: Float {
            get { swin.dropPath }
            set { swin.dropPath = newValue }
        }
    }

    let patchEmbed: NormalizedPatchEmbedding
    let layers: [Stage]
    let norm: LayerNorm
    let head: Linear
    let configuration: SwinTransformer.Configuration

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration.swin
        self.configuration = c
        patchEmbed = NormalizedPatchEmbedding(c.channels, c.width, kernel: c.patchSize)
        var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
        var grid = Size(c.imageSize.height / c.patchSize, c.imageSize.width / c.patchSize)
        layers = c.depths.indices.map { stage in
            if stage > 0 { grid = Size((grid.height + 1) / 2, (grid.width + 1) / 2) }
            let window = Size(min(c.window.height, grid.height), min(c.window.width, grid.width))
            defer { rates = rates.dropFirst(c.depths[stage]) }
            return Stage(c, stage, window, dropPath: Array(rates.prefix(c.depths[stage])))
        }
        norm = LayerNorm(c.width(c.depths.count - 1), epsilon: 1e-5)
        head = Linear(c.width(c.depths.count - 1), c.classes)
    }

    final class Stage: Module {
        let blocks: [Block]
        /// Towards the next stage.
        let downsample: SwinTransformer.PatchMerging?

        init(_ c: SwinTransformer.Configuration, _ stage: Int, _ window: Size, dropPath: [Float]) {
            blocks = dropPath.enumerated().map { Block(c, stage, window, isShifted: $0 % 2 == 1, dropPath: $1) }
            downsample = stage < c.depths.count - 1 ? SwinTransformer.PatchMerging(c.width(stage)) : nil
        }
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)), on a map.
    final class Block: Module {
        let norm1: LayerNorm
        let attn: ResidualWindowAttention
        let norm2: LayerNorm
        let mlp: FeedForward
        private let dropPath: DropPath

        init(_ c: SwinTransformer.Configuration, _ stage: Int, _ window: Size, isShifted: Bool, dropPath: Float) {
            let width = c.width(stage)
            norm1 = LayerNorm(width, epsilon: 1e-5)
            attn = ResidualWindowAttention(c, stage, window, isShifted: isShifted)
            norm2 = LayerNorm(width, epsilon: 1e-5)
            mlp = FeedForward(width, hidden: Int(Float(width) * c.mlpRatio), dropout: c.projectionDropout)
            self.dropPath = DropPath(dropPath)
        }

        /// `scores` are the previous layer's, and become this layer's.
        func callAsFunction(_ x: Tensor, _ scores: inout Tensor?) -> Tensor {
            let x = x + dropPath(attn(norm1(x), &scores))
            return dropPath.isActive ? x + dropPath(mlp(norm2(x))) : mlp(norm2(x), residual: x)
        }
    }

    /// Window attention whose scores are the mean of its own and the previous layer's.
    final class ResidualWindowAttention: Module {
        let qkv: Linear
        let proj: Linear
        let relativePositionBiasTable: Parameter
        private let heads: Int
        private let window: Size
        private let isShifted: Bool
        private let attentionDropout: Dropout
        private let dropout: Dropout

        init(_ c: SwinTransformer.Configuration, _ stage: Int, _ window: Size, isShifted: Bool) {
            let width = c.width(stage)
            qkv = Linear(width, 3 * width, bias: c.qkvBias)
            proj = Linear(width, width)
            relativePositionBiasTable = Parameter(
                [(2 * window.height - 1) * (2 * window.width - 1), c.heads[stage]], .truncatedNormal(0.02))
            (heads, self.window, self.isShifted) = (c.heads[stage], window, isShifted)
            (attentionDropout, dropout) = (Dropout(c.attentionDropout), Dropout(c.projectionDropout))
        }

        func callAsFunction(_ x: Tensor, _ scores: inout Tensor?) -> Tensor {
            let (batch, width) = (x.shape[0], x.shape[3])
            let window = (height: window.height, width: window.width)
            let partition = WindowPartition(
                height: x.shape[1], width: x.shape[2], window: window, isShifted: isShifted)
            let (places, maps) = (partition.places, partition.count * heads)
            let packed = qkv(partition.windows(of: x))
            let parts = packed.split(axis: 2, sizes: [width, width, width]).map {
                $0.reshaped([batch * partition.count, places, heads, width / heads]).transposed([0, 2, 1, 3])
            }
            let scale = 1 / Float(width / heads).squareRoot()
            let own =
                (parts[0] * scale).multiplied(by: parts[1], transposing: (false, true))
                + partition.bias(relativePositionBiasTable.tensor, window: window)
            var mixed = own.reshaped([batch, maps, places, places])
            if let previous = scores {
                mixed = mixed * 0.5 + nearest(previous, maps: maps, places: places) * 0.5
            }
            scores = mixed
            // The mask is no part of what the next layer sees.
            if let mask = partition.mask {
                mixed =
                    mixed.reshaped([batch, partition.count, heads, places * places])
                    + mask.reshaped([partition.count, 1, places * places])
            }
            let weights = attentionDropout(
                mixed.reshaped([batch * partition.count, heads, places, places]).softmax(axis: -1))
            let attended = weights.multiplied(by: parts[2]).transposed([0, 2, 1, 3])
                .reshaped([batch * partition.count, places, width])
            return partition.map(of: dropout(proj(attended)))
        }

        /// `[batch, maps, places, places]` with other extents.
        private func nearest(_ scores: Tensor, maps: Int, places: Int) -> Tensor {
            [maps, places, places].enumerated().reduce(scores) { x, target in
                let (axis, extent) = (target.offset + 1, target.element)
                guard x.shape[axis] != extent else { return x }
                return x.gathered((0..<extent).map { Int32($0 * x.shape[axis] / extent) }, axis: axis)
            }
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var x = Dropout(configuration.dropout)(patchEmbed(image))
        var scores: Tensor?
        return layers.map { stage in
            for block in stage.blocks {
                let results = checkpointed(block, [x] + [scores].compactMap { $0 }) { inputs in
                    var scores = inputs.count > 1 ? inputs[1] : nil
                    let y = block(inputs[0], &scores)
                    return [y, scores!]
                }
                (x, scores) = (results[0], results[1])
            }
            defer { if let downsample = stage.downsample { x = downsample(x) } }
            return x
        }
    }

    public func features(_ image: Tensor) -> Features {
        let last = norm(pyramid(image).last!)
        let pooled = last.globalAveragePool()
        return Features(logits: head(pooled), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] { layers.indices.map { configuration.patchSize << $0 } }
    public var pyramidChannels: [Int] { layers.indices.map(configuration.width) }
    public var headPrefixes: [String] { ["head."] }
    public var undecayedKeys: Set<String> {
        Set(parameters.map(\.key).filter { $0.hasSuffix("relative_position_bias_table") })
    }
}

extension ResidualSwinTransformer.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        try swin.update(arguments)
        guard try !arguments.bool("ape", default: false) else {
            throw ArgumentError(field: "ape", found: "true", expected: "false")
        }
        guard try arguments.bool("patch_norm", default: true) else {
            throw ArgumentError(field: "patch_norm", found: "false", expected: "true")
        }
    }

    public func validate() throws { try swin.validate() }

    public func makeModel() -> any ImageClassifier { ResidualSwinTransformer(self) }
}

extension ResidualSwinTransformer {
    static let system = ModelSystem(
        id: "reswin", group: "revit",
        title: "ReViT: Enhancing Vision Transformers with Attention Residual Connections (windowed)", year: 2024,
        arxiv: "2402.11301", variants: [("reswin_t", Configuration())],
        reference: { $0.contains("reswin") ? Configuration() : nil })
}
