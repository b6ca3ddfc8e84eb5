import Tessera
import TesseraModels
import Testing

@testable import TesseraTraining

/// Layers of models found from their parameters and a forward pass.
@Suite struct LayerDecayTests {
    private func layers(_ name: String, _ arguments: String) throws -> LayerDecay {
        var configuration = try Registry.entry(name).configuration
        try configuration.apply(Arguments(parsing: arguments, section: "model"))
        let model = configuration.makeModel()
        let size = configuration.imageSize
        return LayerDecay(of: model, images: [1, size.height, size.width, configuration.channels])
    }

    /// The published rule: 0 for tokens, positions and patches, k + 1 for block k, the rest beyond the last block.
    @Test func visionTransformer() throws {
        let decay = try layers("vit_tiny_patch16_224", #"{"img_size": 32, "embed_dim": 12, "num_heads": 2}"#)
        #expect(decay.depth == 12)
        for (key, layer) in decay.layers {
            let parts = key.split(separator: ".")
            let expected =
                parts[0] == "blocks"
                ? Int(parts[1])! + 1 : ["cls_token", "pos_embed", "patch_embed"].contains(parts[0]) ? 0 : 13
            #expect(layer == expected, "\(key)")
        }
        let scales = decay.scales(0.65)
        #expect(scales["head.weight"] == 1 && abs(scales["blocks.11.norm1.weight"]! - 0.65) < 1e-12)
    }

    /// Blocks are counted through the stages; the merging in front of a stage belongs to its first block.
    @Test func pyramids() throws {
        let swin = try layers(
            "swin_tiny_patch4_window7_224",
            #"{"img_size": 32, "embed_dim": 12, "depths": [2, 1, 3], "num_heads": [1, 2, 4]}"#)
        #expect(swin.depth == 6)
        #expect(swin.layers["patch_embed.proj.weight"] == 0 && swin.layers["layers.0.blocks.1.attn.qkv.weight"] == 2)
        #expect(swin.layers["layers.1.downsample.reduction.weight"] == 3)
        #expect(swin.layers["layers.1.blocks.0.mlp.fc1.weight"] == 3)
        #expect(swin.layers["layers.2.blocks.2.norm1.bias"] == 6 && swin.layers["head.fc.weight"] == 7)
    }

    /// Published numbers of blocks; without names of blocks in common, every system has some.
    private static let depths = [
        "cifar_resnet56_c10": 27, "vit_tiny_patch16_224": 12, "deit_tiny_patch16_224": 12, "pvt_tiny": 8,
        "swin_tiny_patch4_window7_224": 12, "mixer_s16_224": 8, "resmlp_12_224": 12, "gmlp_ti16_224": 30,
        "pvt_v2_b0": 8, "vip_s7": 18, "asmlp_tiny": 12, "hire_mlp_tiny": 10, "internimage_t": 30, "remvitv2_t": 10,
        "reswin_t": 12, "s2mlp_v1_deep": 36,
    ]

    @Test(arguments: Registry.systems.map(\.id)) func everySystem(_ id: String) throws {
        let entry = try #require(
            try Registry.system(id).variants.min { $0.measure().parameters < $1.measure().parameters })
        let model = entry.configuration.makeModel()
        let size = entry.configuration.imageSize
        let decay = LayerDecay(of: model, images: [1, size.height, size.width, entry.configuration.channels])
        #expect(Self.depths[entry.name].map { $0 == decay.depth } ?? (decay.depth > 1), "\(entry.name): \(decay.depth)")
        for key in model.parameters.map(\.key) where model.headPrefixes.contains(where: key.hasPrefix) {
            #expect(decay.layers[key].map { $0 == decay.depth + 1 } ?? true, "\(entry.name): \(key)")
        }
        #expect(decay.layers.values.contains(0), "\(entry.name): nothing comes before the first block")
    }
}
