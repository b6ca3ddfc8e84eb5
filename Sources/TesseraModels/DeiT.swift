import Tessera
import TesseraNN

/// Distilled DeiT: "Training data-efficient image transformers & distillation through attention" (2020), arXiv
/// 2012.12877.
///
/// DeiT is the Vision Transformer unchanged, trained on ImageNet-1k alone; its distilled form adds a second learned
/// token that a convolutional teacher supervises through a head of its own. The reference is facebookresearch/deit
/// (Apache-2.0), which averages the logits of the two heads where the paper adds their softmax outputs.
public final class DistilledVisionTransformer: VisionTransformer {
    let distToken: Parameter
    let headDist: Linear

    /// - Precondition: the configuration is valid, has a class token and classes, and pools by token.
    public init(_ configuration: Configuration) {
        precondition(
            configuration.hasClassToken && configuration.pooling == .token && configuration.classes > 0,
            "a distilled model needs its class token and its heads")
        distToken = Parameter([1, 1, configuration.width], .truncatedNormal(0.02))
        headDist = Linear(configuration.width, configuration.classes, initializer: .truncatedNormal(0.02))
        super.init(configuration, prefixTokens: 2)
    }

    /// The class token, the distillation token.
    override var prefixParameters: [Parameter] { super.prefixParameters + [distToken] }

    override func classify(tokens z: Tensor) -> Classification {
        let (classToken, distillationToken) = (token(0, of: z), token(1, of: z))
        let heads = (head!(classToken), headDist(distillationToken))
        return Classification(
            logits: (heads.0 + heads.1) * 0.5, pooled: (classToken + distillationToken) * 0.5, heads: heads)
    }

    public override var headPrefixes: [String] { ["head.", "head_dist."] }
    public override var undecayedKeys: Set<String> { ["pos_embed", "cls_token", "dist_token"] }
    /// As the DeiT fine-tuning script does.
    override var resampling: PositionTable.Resampling { .bicubic }
}

/// The plain DeiT of the registry: a Vision Transformer whose table is resampled as DeiT's script does.
public final class DataEfficientTransformer: VisionTransformer {
    public init(_ configuration: Configuration) { super.init(configuration) }

    override var resampling: PositionTable.Resampling { .bicubic }
}

/// DeiT: a Vision Transformer, distilled or not.
public struct DeiTConfiguration: ClassifierConfiguration, Hashable {
    public var transformer: VisionTransformer.Configuration
    public var isDistilled: Bool

    public init(_ transformer: VisionTransformer.Configuration, isDistilled: Bool = false) {
        (self.transformer, self.isDistilled) = (transformer, isDistilled)
        self.transformer.dropPath = 0.1
    }

    public var imageSize: Size {
        get { transformer.imageSize }
        set { transformer.imageSize = newValue }
    }
    public var channels: Int {
        get { transformer.channels }
        set { transformer.channels = newValue }
    }
    public var classes: Int {
        get { transformer.classes }
        set { transformer.classes = newValue }
    }
    public var dropPath: Float {
        get { transformer.dropPath }
        set { transformer.dropPath = newValue }
    }

    public mutating func update(_ arguments: Arguments) throws { try transformer.update(arguments) }

    public func validate() throws {
        try transformer.validate()
        guard transformer.hasClassToken, transformer.pooling == .token else {
            throw ArgumentError(field: "global_pool", found: "avg or no class token", expected: "token")
        }
        guard transformer.registers == 0, !isDistilled || classes > 0 else {
            throw ArgumentError(
                field: "reg_tokens, num_classes", found: "\(transformer.registers), \(classes)",
                expected: "0, 1 or more")
        }
    }

    public func makeModel() -> any ImageClassifier {
        isDistilled ? DistilledVisionTransformer(transformer) : DataEfficientTransformer(transformer)
    }
}

extension DeiTConfiguration {
    static let system = ModelSystem(
        id: "deit", title: "Training data-efficient image transformers & distillation through attention", year: 2020,
        arxiv: "2012.12877",
        variants: [
            ("deit_tiny_patch16_224", DeiTConfiguration(.tiny16)),
            ("deit_small_patch16_224", DeiTConfiguration(.small16)),
            ("deit_base_patch16_224", DeiTConfiguration(.base16)),
            ("deit_tiny_distilled_patch16_224", DeiTConfiguration(.tiny16, isDistilled: true)),
            ("deit_small_distilled_patch16_224", DeiTConfiguration(.small16, isDistilled: true)),
            ("deit_base_distilled_patch16_224", DeiTConfiguration(.base16, isDistilled: true)),
            ("deit_base_patch16_384", DeiTConfiguration(.base16.at(384))),
            ("deit_base_distilled_patch16_384", DeiTConfiguration(.base16.at(384), isDistilled: true)),
        ],
        reference: { DeiTConfiguration(.init(), isDistilled: $0.contains("DistilledVisionTransformer")) })
}
