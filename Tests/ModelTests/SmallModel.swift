import Tessera
import TesseraModels
import Testing

/// A variant of every kind that the systems have, with another image size, one channel, three classes and little width or
/// depth.
struct SmallModel: Sendable, CustomTestStringConvertible {
    let name: String
    let arguments: String

    var testDescription: String { name }

    var configuration: any ClassifierConfiguration {
        get throws {
            var configuration = try Registry.entry(name).configuration
            try configuration.apply(Arguments(parsing: arguments, section: name))
            return configuration
        }
    }

    /// Models with a weight for each place know one size.
    var knowsOneSize: Bool { ["mixer", "resmlp", "gmlp", "vip", "smlpnet"].contains { name.hasPrefix($0) } }

    /// Pixels by which an image may be larger.
    var step: Int { name.contains("patch14") ? 28 : 32 }

    /// A model whose zeros are filled (layer scales, offsets, last layers), so that something flows everywhere, and two
    /// images.
    func filled() throws -> (model: any ImageClassifier, images: Tensor) {
        let configuration = try self.configuration
        let model = configuration.makeModel()
        model.initialize(seed: 3)
        var generator = RandomGenerator(seed: 4)
        for (_, parameter) in model.parameters where parameter.isTrainable {
            let noise = Tensor(parameter.shape) { for i in $0.indices { $0[i] = 0.05 * generator.normal() } }
            parameter.value = parameter.value + noise
        }
        let size = configuration.imageSize
        let images = Tensor([2, size.height, size.width, configuration.channels]) {
            for i in $0.indices { $0[i] = generator.normal() }
        }
        return (model, images)
    }

    static let all: [SmallModel] = [
        ("cct_2_3x2_32", #"{"n_input_channels": 1, "img_size": 28, "num_classes": 3}"#),
        ("cct_2_3x2_32_sine", #"{"n_input_channels": 1, "num_classes": 3}"#),
        ("vit_2_4_32", #"{"n_input_channels": 1, "num_classes": 3}"#),
        ("vit_tiny_patch16_224", #"{"img_size": 32, "depth": 2, "in_chans": 1, "num_classes": 3}"#),
        ("swin_tiny_patch4_window7_224", #"{"img_size": 64, "embed_dim": 12, "in_chans": 1, "num_classes": 3}"#),
        (
            "deit_tiny_distilled_patch16_224",
            #"{"img_size": 32, "embed_dim": 48, "depth": 1, "in_chans": 1, "num_classes": 3}"#
        ),
        (
            "vit_small_patch14_reg4_dinov2",
            #"{"img_size": 42, "embed_dim": 48, "depth": 1, "in_chans": 1, "num_classes": 3}"#
        ),
        ("cifar_resnet56_c10", #"{"depth": 8, "in_chans": 1, "num_classes": 3}"#),
        ("pvt_tiny", #"{"img_size": 64, "embed_dims": [8, 8, 10, 8], "in_chans": 1, "num_classes": 3}"#),
        ("pvt_v2_b0", #"{"img_size": 48, "in_chans": 1, "num_classes": 3}"#),
        ("pvt_v2_b2_li", #"{"img_size": 32, "depths": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        ("t2t_vit_7", #"{"img_size": 32, "depth": 1, "in_chans": 1, "num_classes": 3}"#),
        (
            "CvT-13@224",
            #"{"in_chans": 1, "num_classes": 3, "spec": {"DEPTH": [1, 1, 1], "DIM_EMBED": [8, 12, 24]}}"#
        ),
        ("CMT_Ti", #"{"img_size": 64, "depths": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        ("mobilevit_xxs", #"{"img_size": 48, "in_chans": 1, "num_classes": 3}"#),
        ("ExMobileViT_640", #"{"image_size": 48, "in_chans": 1, "num_classes": 3}"#),
        ("HAT_Net_tiny", #"{"img_size": 48, "depths": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        ("resnet18", #"{"img_size": 32, "layers": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        ("revit_b", #"{"img_size": 32, "embed_dim": 24, "depth": 2, "in_chans": 1, "num_classes": 3}"#),
        ("remvitv2_t", #"{"img_size": 64, "embed_dim": 8, "in_chans": 1, "num_classes": 3}"#),
        ("reswin_t", #"{"img_size": 64, "embed_dim": 12, "in_chans": 1, "num_classes": 3}"#),
        ("dhvt_tiny_imagenet_patch16", #"{"img_size": 32, "depth": 2, "in_chans": 1, "num_classes": 3}"#),
        ("SReT_T", #"{"image_size": 64, "base_dims": [4, 4, 4], "in_chans": 1, "num_classes": 3}"#),
        ("xcit_nano_12_p16_224_fsne", #"{"img_size": 32, "depth": 1, "in_chans": 1, "num_classes": 3}"#),
        ("ViTAE_basic_Tiny", #"{"img_size": 32, "NC_depth": [0, 0, 1], "in_chans": 1, "num_classes": 3}"#),
        ("ViTAEv2_S", #"{"img_size": 32, "NC_depth": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        ("mixer_s16_224", #"{"img_size": [32, 48], "num_blocks": 1, "in_chans": 1, "num_classes": 3}"#),
        ("resmlp_12_224", #"{"img_size": 32, "num_blocks": 1, "in_chans": 1, "num_classes": 3}"#),
        ("gmlp_ti16_224", #"{"img_size": 32, "num_blocks": 1, "in_chans": 1, "num_classes": 3}"#),
        (
            "vip_s7",
            #"{"patch_size": 4, "segment_dim": [8, 4, 4, 4], "layers": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#
        ),
        ("smlpnet_tiny", #"{"image_size": 32, "depths": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        ("CycleMLP_B1", #"{"img_size": 48, "layers": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        ("s2mlp_v1_deep", #"{"image_size": 48, "depth": [2], "in_channels": 1, "num_classes": 3}"#),
        ("asmlp_tiny", #"{"img_size": 40, "depths": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        ("hire_mlp_tiny", #"{"img_size": 48, "layers": [2, 2, 2, 2], "in_chans": 1, "num_classes": 3}"#),
        ("WaveMLP_T_dw", #"{"img_size": 48, "layers": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        ("revcol_tiny", #"{"img_size": 64, "num_subnet": 2, "in_chans": 1, "num_classes": 3}"#),
        ("internimage_t", #"{"img_size": 44, "depths": [1, 1, 1, 1], "in_chans": 1, "num_classes": 3}"#),
        (
            "bootstrapped_vit_small_c100",
            #"{"img_size": 32, "num_encoder_layers": 1, "image_channels": 1, "num_classes": 3, "use_entmax": true}"#
        ),
        (
            "bootstrapped_vit_base_in1k",
            #"{"img_size": 32, "num_encoder_layers": 1, "image_channels": 1, "num_classes": 3, "pre_norm": false}"#
        ),
        ("agent_small_c100", #"{"img_size": 32, "num_layers": 1, "image_channels": 1, "num_classes": 3}"#),
        (
            "agent_base_res_like_c100",
            #"{"img_size": 48, "num_layers": 9, "embed_dim": 12, "image_channels": 1, "num_classes": 3}"#
        ),
        ("SoT_Tiny", #"{"img_size": 32, "depth": 1, "in_chans": 1, "num_classes": 3}"#),
    ].map { SmallModel(name: $0, arguments: $1) }
}
