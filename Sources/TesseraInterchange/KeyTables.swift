/// The names that publishers other than timm give, by the id of the model's system.
extension KeyTable {
    /// The tables for a system, timm's first.
    static func tables(of system: String) -> [KeyTable] { [own] + (published[system] ?? []) }

    /// The systems that a `model_type` of Hugging Face's transformers can be.
    static func systems(ofModelType type: String) -> [String] {
        switch type {
        case "dinov2", "dinov2_with_registers": ["dinov2"]
        case "vit", "deit", "cvt", "swin", "pvt", "pvt_v2", "mobilevit", "resnet": [type]
        default: []
        }
    }

    private static let published: [String: [KeyTable]] = [
        "vit": [transformer], "deit": [transformer], "dinov2": [dinov2, originalDinov2], "cvt": [cvt],
        "swin": [swin, originalSwin], "pvt": [pvt], "pvt_v2": [pvt2, originalPVT2], "mobilevit": [mobileViT],
        "resnet": [resNet], "xcit_qkv": [originalXCiT],
    ]

    private static let face = "Hugging Face"

    /// What transformers' encoder blocks have in common.
    private static let block = [
        ("norm1.", "layernorm_before."), ("norm2.", "layernorm_after."), ("attn.proj.", "attention.output.dense."),
        ("mlp.fc1.", "intermediate.dense."), ("mlp.fc2.", "output.dense."),
    ]
    private static let queryKeyValue =
        "attention.attention.query. + attention.attention.key. + attention.attention.value."
    private static let embeddings = [
        ("^cls_token", "embeddings.cls_token"), ("^dist_token", "embeddings.distillation_token"),
        ("^patch_embed.proj.", "embeddings.patch_embeddings.projection."), ("^blocks.#.", "encoder.layer.#."),
        ("^norm.", "layernorm."), ("attn.qkv.", queryKeyValue),
    ]

    /// `ViTForImageClassification`, `DeiTForImageClassification`, `DeiTForImageClassificationWithTeacher`.
    private static let transformer = KeyTable(
        face,
        embeddings + block + [
            ("^pos_embed", "embeddings.position_embeddings"), ("^head.", "classifier. | cls_classifier."),
            ("^head_dist.", "distillation_classifier."),
        ], ignored: ["pooler.", "mask_token"])

    /// `Dinov2Model`, `Dinov2WithRegistersModel`; in ONNX files, where PyTorch's exporter folds the resampling of the
    /// position table, it comes in two parts.
    private static let dinov2 = KeyTable(
        face,
        embeddings + [
            ("^pos_embed", "embeddings.position_embeddings | embeddings.Concat + embeddings.Reshape"),
            ("^reg_token", "embeddings.register_tokens"), ("attn.proj.", "attention.output.dense."),
            ("ls#.gamma", "layer_scale#.lambda1"), ("mlp.fc1.", "mlp.fc1. | mlp.weights_in."),
            ("mlp.fc2.", "mlp.fc2. | mlp.weights_out."), ("^head.", "classifier."),
        ], ignored: ["mask_token"])

    /// facebookresearch/dinov2.
    private static let originalDinov2 = KeyTable(
        "DINOv2",
        [
            ("^reg_token", "register_tokens"), ("mlp.fc1.", "mlp.fc1. | mlp.w12."),
            ("mlp.fc2.", "mlp.fc2. | mlp.w3."),
        ], ignored: ["mask_token"])

    /// `CvtForImageClassification`, whose activation is the exact GELU.
    private static let cvt = KeyTable(
        face,
        block + [
            ("^stage#.patch_embed.proj.", "encoder.stages.#.embedding.convolution_embeddings.projection."),
            ("^stage#.patch_embed.norm.", "encoder.stages.#.embedding.convolution_embeddings.normalization."),
            ("^stage#.cls_token", "encoder.stages.#.cls_token"),
            ("^stage#.blocks.#.", "encoder.stages.#.layers.#."), ("attn.", "attention.attention."),
            ("conv_proj_q.", "convolution_projection_query.convolution_projection."),
            ("conv_proj_k.", "convolution_projection_key.convolution_projection."),
            ("conv_proj_v.", "convolution_projection_value.convolution_projection."),
            ("proj_q.", "projection_query."), ("proj_k.", "projection_key."), ("proj_v.", "projection_value."),
            ("conv.", "convolution."), ("bn.", "normalization."), ("^norm.", "layernorm."), ("^head.", "classifier."),
        ], arguments: #"{"act": "gelu"}"#)

    /// `SwinForImageClassification`.
    private static let swin = KeyTable(
        face,
        block + [
            ("^patch_embed.proj.", "embeddings.patch_embeddings.projection."),
            ("^patch_embed.norm.", "embeddings.norm."), ("^layers.#.blocks.", "encoder.layers.#.blocks."),
            ("^layers.#.downsample.", "encoder.layers.#-1.downsample."),
            ("attn.qkv.", "attention.self.query. + attention.self.key. + attention.self.value."),
            ("attn.relative_position_bias_table", "attention.self.relative_position_bias_table"),
            ("^norm.", "layernorm."), ("^head.fc.", "classifier."),
        ])

    /// microsoft/Swin-Transformer, where a stage ends with what timm's next one begins with.
    private static let originalSwin = KeyTable(
        "Swin", [("^layers.#.downsample.", "layers.#-1.downsample."), ("^head.fc.", "head.")])

    /// `PvtForImageClassification`.
    private static let pvt = KeyTable(
        face,
        [
            ("^patch_embed#.proj.", "encoder.patch_embeddings.#-1.projection."),
            ("^patch_embed#.norm.", "encoder.patch_embeddings.#-1.layer_norm."),
            ("^pos_embed#", "encoder.patch_embeddings.#-1.position_embeddings"),
            ("^cls_token", "encoder.patch_embeddings.3.cls_token"), ("^block#.#.", "encoder.block.#-1.#."),
            ("^norm.", "encoder.layer_norm."), ("norm#.", "layer_norm_#."), ("attn.q.", "attention.self.query."),
            ("attn.kv.", "attention.self.key. + attention.self.value."),
            ("attn.sr.", "attention.self.sequence_reduction."), ("attn.norm.", "attention.self.layer_norm."),
            ("attn.proj.", "attention.output.dense."), ("mlp.fc#.", "mlp.dense#."), ("^head.", "classifier."),
        ])

    /// `PvtV2ForImageClassification`.
    private static let pvt2 = KeyTable(
        face,
        [
            ("^patch_embed.proj.", "encoder.layers.0.patch_embedding.proj."),
            ("^patch_embed.norm.", "encoder.layers.0.patch_embedding.layer_norm."),
            ("^stages.#.downsample.proj.", "encoder.layers.#.patch_embedding.proj."),
            ("^stages.#.downsample.norm.", "encoder.layers.#.patch_embedding.layer_norm."),
            ("^stages.#.norm.", "encoder.layers.#.layer_norm."), ("^stages.#.blocks.", "encoder.layers.#.blocks."),
            ("norm#.", "layer_norm_#."), ("attn.q.", "attention.query."),
            ("attn.kv.", "attention.key. + attention.value."), ("attn.sr.", "attention.spatial_reduction."),
            ("attn.norm.", "attention.layer_norm."), ("attn.proj.", "attention.proj."), ("mlp.fc#.", "mlp.dense#."),
            ("mlp.dwconv.", "mlp.dwconv.dwconv."), ("^head.", "classifier."),
        ])

    /// whai362/PVT.
    private static let originalPVT2 = KeyTable(
        "PVT",
        [
            ("^patch_embed.", "patch_embed1."), ("^stages.#.downsample.", "patch_embed#+1."),
            ("^stages.#.norm.", "norm#+1."), ("^stages.#.blocks.", "block#+1."), ("mlp.dwconv.", "mlp.dwconv.dwconv."),
        ])

    /// `MobileViTForImageClassification`.
    private static let mobileViT = KeyTable(
        face,
        [
            ("^stem.", "conv_stem."), ("^final_conv.", "conv_1x1_exp."), ("^head.fc.", "classifier."),
            ("^stages.0.", "encoder.layer.0.layer."), ("^stages.1.", "encoder.layer.1.layer."),
            ("^stages.#.0.", "encoder.layer.#.downsampling_layer."),
            ("^stages.#.1.norm.", "encoder.layer.#.layernorm."),
            ("^stages.#.1.", "encoder.layer.#."), ("conv1_1x1.", "expand_1x1."), ("conv2_kxk.", "conv_3x3."),
            ("conv3_1x1.", "reduce_1x1."), ("conv_1x1.", "conv_1x1.convolution."), ("conv_proj.", "conv_projection."),
            ("conv_fusion.", "fusion."), ("conv.", "convolution."), ("bn.", "normalization."),
            ("transformer.#.", "transformer.layer.#."), ("attn.qkv.", queryKeyValue),
        ] + block)

    /// `ResNetForImageClassification`.
    private static let resNet = KeyTable(
        face,
        [
            ("^conv1.", "embedder.embedder.convolution."), ("^bn1.", "embedder.embedder.normalization."),
            ("^layer#.#.conv#.", "encoder.stages.#-1.layers.#.layer.#-1.convolution."),
            ("^layer#.#.bn#.", "encoder.stages.#-1.layers.#.layer.#-1.normalization."),
            ("^layer#.#.downsample.0.", "encoder.stages.#-1.layers.#.shortcut.convolution."),
            ("^layer#.#.downsample.1.", "encoder.stages.#-1.layers.#.shortcut.normalization."),
            ("^fc.", "classifier.1."),
        ])

    /// facebookresearch/xcit.
    private static let originalXCiT = KeyTable("XCiT", [("^pos_embed.", "pos_embeder.")])
}
