import Tessera
import TesseraModels
import TesseraNN
import Testing

/// What models show of their blocks.
@Suite struct BlockProbeTests {
    struct Shown: Sendable {
        let name: String
        let arguments: String
        /// Sides and channels of the maps behind the blocks.
        let maps: [[Int]]
    }

    static let shown = [
        Shown(
            name: "deit_tiny_distilled_patch16_224", arguments: #"{"img_size": 32, "depth": 3}"#,
            maps: [[2, 192], [2, 192], [2, 192]]),
        Shown(name: "t2t_vit_7", arguments: #"{"img_size": 32, "depth": 2}"#, maps: [[2, 256], [2, 256]]),
        Shown(
            name: "pvt_tiny", arguments: #"{"img_size": 64, "depths": [2, 1, 1, 2]}"#,
            maps: [[16, 64], [16, 64], [8, 128], [4, 320], [2, 512], [2, 512]]),
        Shown(
            name: "pvt_v2_b0", arguments: #"{"img_size": 64, "depths": [1, 2, 1, 1]}"#,
            maps: [[16, 32], [8, 64], [8, 64], [4, 160], [2, 256]]),
        Shown(
            name: "CvT-13@224", arguments: #"{"img_size": 64, "spec": {"DEPTH": [1, 1, 2], "DIM_EMBED": [8, 12, 24]}}"#,
            maps: [[16, 8], [8, 12], [4, 24], [4, 24]]),
        Shown(
            name: "swin_tiny_patch4_window7_224",
            arguments: #"{"img_size": 64, "embed_dim": 12, "depths": [1, 2, 1, 1]}"#,
            maps: [[16, 12], [8, 24], [8, 24], [4, 48], [2, 96]]),
        Shown(name: "SoT_Tiny", arguments: #"{"img_size": 32, "depth": 2}"#, maps: [[2, 240], [2, 240]]),
        Shown(name: "cct_2_3x2_32", arguments: "{}", maps: [[8, 128], [8, 128]]),
        Shown(
            name: "xcit_nano_12_p16_224", arguments: #"{"img_size": 32, "depth": 2}"#, maps: [[2, 128], [2, 128]]),
        Shown(
            name: "dhvt_tiny_imagenet_patch16", arguments: #"{"img_size": 32, "depth": 2}"#,
            maps: [[2, 192], [2, 192]]),
        Shown(
            name: "HAT_Net_tiny", arguments: #"{"img_size": 64, "depths": [1, 1, 1, 1]}"#,
            maps: [[16, 48], [8, 96], [4, 240], [2, 384]]),
        Shown(
            name: "CMT_Ti", arguments: #"{"img_size": 64, "depths": [1, 1, 1, 1]}"#,
            maps: [[16, 46], [8, 92], [4, 184], [2, 368]]),
        // This one does not show its blocks.
        Shown(name: "mixer_s16_224", arguments: #"{"img_size": 32, "num_blocks": 2}"#, maps: [[2, 512]]),
    ]

    @Test(arguments: shown) func mapsOfBlocks(_ model: Shown) throws {
        var configuration = try Registry.entry(model.name).configuration
        try configuration.apply(Arguments(parsing: model.arguments, section: "model"))
        let side = configuration.imageSize.height
        let maps = configuration.makeModel().observed(Tensor(abstract: [2, side, side, 3])).blocks
        #expect(maps.map(\.shape) == model.maps.map { [2, $0[0], $0[0], $0[1]] }, "\(model.name)")
    }

    /// The last block's map before the last norm is what the norm makes the token grid of; the answer is the same.
    @Test func mapsLeadToTheGrid() throws {
        var configuration = try Registry.entry("vit_tiny_patch16_224").configuration
        try configuration.apply(
            Arguments(parsing: #"{"img_size": [32, 48], "embed_dim": 12, "depth": 2}"#, section: "model"))
        let model = configuration.makeModel()
        model.initialize(seed: 1)
        var generator = RandomGenerator(seed: 2)
        let image = Tensor((0..<(2 * 32 * 48 * 3)).map { _ in generator.normal() }, [2, 32, 48, 3])
        let (features, blocks) = model.observed(image)
        #expect(blocks.count == 2)
        let normalized = layerNorm(blocks[1], weight: nil, bias: nil, epsilon: 1e-6)
        #expect(relativeError(normalized, features.tokens) < 1e-6)
        #expect(features.logits.scalars == model.features(image).logits.scalars)
    }
}
