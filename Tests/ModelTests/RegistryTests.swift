import Foundation
import Tessera
import TesseraModels
import TesseraNN
import Testing

@Suite struct RegistryTests {
    struct Published {
        let name: String
        let parameters: Int
        let multiplyAdds: Int
    }

    static func published(_ system: String) throws -> [Published] {
        let data = try Data(contentsOf: URL(fileURLWithPath: FixtureFolder.path(system, "variants.json")))
        let members = try JSON(parsing: data).members ?? []
        return members.compactMap { member in
            guard let parameters = member.value["params"]?.int, let adds = member.value["macs"]?.int,
                let name = system == "bootstrapping" ? bootstrappingName(member.key) : member.key
            else { return nil }
            return Published(name: name, parameters: parameters, multiplyAdds: adds)
        }
    }

    /// The published figure of an agent with heads counts how they find their places: products with matrices of zeros and
    /// ones, places × (heads · places), in each block.
    private static func dense(_ name: String) -> Int {
        guard name.hasPrefix("agent_base") else { return 0 }
        let places = name.contains("res_like") ? [(3, 28), (6, 14), (3, 7)] : [(12, 14)]
        let (heads, width) = (6, 384)
        return places.reduce(0) { $0 + $1.0 * $1.1 * $1.1 * $1.1 * $1.1 * heads * width }
    }

    /// `bootstrapped_vit_small_c100` for `cifar100 vit/vit-small`, which names a folder and a file; nil for two networks
    /// that share weights.
    private static func bootstrappingName(_ published: String) -> String? {
        guard let parts = published.wholeMatch(of: /(\S+) (?:vit|cnn)\/(\S+)/) else { return nil }
        let name = parts.2.replacing("-", with: "_").replacing(/^vit/, with: "bootstrapped_vit")
        return name + (parts.1 == "cifar100" ? "_c100" : "_in1k")
    }

    @Test(arguments: Set(Registry.systems.map(\.group)).sorted())
    func everyVariantHasItsPublishedSize(_ system: String) throws {
        let published = try Self.published(system)
        #expect(!published.isEmpty)
        for variant in published {
            let (parameters, _, multiplyAdds) = try Registry.entry(variant.name).measure()
            #expect(parameters == variant.parameters, "\(variant.name)")
            let ratio = Double(multiplyAdds) / Double(variant.multiplyAdds - Self.dense(variant.name))
            // The published figure counts what all three codes share three times.
            if variant.name.hasSuffix("_fsne") {
                #expect((0.6..<0.8).contains(ratio), "\(variant.name): \(ratio)")
                continue
            }
            #expect(abs(ratio - 1) < 0.002, "\(variant.name): \(multiplyAdds), published \(variant.multiplyAdds)")
        }
        let known = Registry.systems.filter { $0.group == system }.flatMap(\.variants)
        #expect(Set(published.map(\.name)) == Set(known.map(\.name)))
    }

    @Test func namesAreUniqueAndNearNamesAreOffered() {
        #expect(Set(Registry.entries.map(\.name)).count == Registry.entries.count)
        #expect(throws: UnknownModelError.self) { try Registry.entry("cct_2_3x2_23") }
        do { _ = try Registry.entry("deit_tiny_patch16_244") } catch {
            #expect("\(error)".contains("deit_tiny_patch16_224"), "\(error)")
        }
    }

    @Test func impossibleConfigurationsAreRefused() throws {
        func refusal(_ configuration: some ClassifierConfiguration, _ json: String) -> String {
            var configuration = configuration
            do {
                try configuration.apply(Arguments(parsing: json, section: "model"))
                return "accepted"
            } catch { return "\(error)" }
        }
        let vit = VisionTransformer.Configuration.tiny16
        #expect(refusal(vit, #"{"num_heads": 5}"#).contains("model.embed_dim") == false)
        #expect(refusal(vit, #"{"num_heads": 5}"#).contains("num_heads (5)"))
        #expect(refusal(vit, #"{"img_size": 225}"#).contains("patch_size (16)"))
        #expect(refusal(vit, #"{"depht": 3}"#).contains("depth"))
        #expect(refusal(vit, #"{"depth": 0}"#).contains("1 to 1024"))
        #expect(refusal(vit, #"{"global_pool": "max"}"#).contains("token, avg"))
        #expect(refusal(CompactTransformer.Configuration.cct2k3x2, #"{"img_size": 28}"#) == "accepted")
        #expect(refusal(CompactTransformer.Configuration.cct2k3x2, #"{"kernel_size": 99}"#).contains("img_size"))
        let agent = try Registry.entry("agent_small_c100").configuration
        #expect(refusal(agent, #"{"num_heads": 3}"#) == "accepted")
        #expect(refusal(agent, #"{"num_heads": 3, "conv_block": "conv_manyhead"}"#).contains("a window of 2×2"))
        #expect(refusal(agent, #"{"down_sample_layers": [6]}"#).contains("0 to 5"))
        #expect(refusal(agent, #"{"img_size": 48, "down_sample_layers": [0, 1]}"#).contains("a map of 3×3"))
    }

    @Test func weightsOfAnotherArchitectureAreNamed() throws {
        let (small, other) = (try Registry.entry("cct_2_3x2_32"), try Registry.entry("cvt_2_4_32"))
        let (model, wrong) = (small.configuration.makeModel(), other.configuration.makeModel())
        model.initialize(seed: 1)
        wrong.initialize(seed: 1)
        let before = model.stateDictionary.map(\.tensor.scalars)
        do {
            try model.load(Dictionary(uniqueKeysWithValues: wrong.stateDictionary.map { ($0.key, $0.tensor) }))
            Issue.record("loaded")
        } catch let error as StateDictionaryError {
            #expect(error.missing == ["tokenizer.conv_layers.1.0.weight"])
            #expect(error.unexpected == ["tokenizer.conv_layers.0.0.bias"])
            #expect(error.misshaped.contains { $0.hasPrefix("tokenizer.conv_layers.0.0.weight: found [128, 3, 4, 4]") })
        }
        #expect(model.stateDictionary.map(\.tensor.scalars) == before)
    }

    @Test func everySystemHasASmallConfiguration() throws {
        let systems = try Set(SmallModel.all.map { try Registry.entry($0.name).system })
        #expect(systems == Set(Registry.systems.map(\.id)))
    }

    @Test(arguments: SmallModel.all) func modelsRunAtOtherSizesAndChannels(_ small: SmallModel) throws {
        let configuration = try small.configuration
        let model = configuration.makeModel()
        model.initialize(seed: 2)
        let size = configuration.imageSize
        #expect(configuration.channels == 1)
        for (down, across) in small.knowsOneSize ? [(0, 0)] : [(0, 0), (small.step, small.step), (0, small.step)] {
            let image = Tensor(repeating: 0.5, [2, size.height + down, size.width + across, configuration.channels])
            let logits = model(image)
            #expect(logits.shape == [2, 3])
            #expect(logits.scalars.allSatisfy { $0.isFinite })
        }
    }

    /// A checkpoint has a shared block once for every place; training sees it once.
    @Test func sharedBlocksAreStoredTwiceAndCountedOnce() throws {
        var configuration = try Registry.entry("SReT_T").configuration
        try configuration.apply(
            Arguments(parsing: #"{"image_size": 64, "base_dims": [4, 4, 4], "num_classes": 3}"#, section: "model"))
        let (model, copy) = (configuration.makeModel(), configuration.makeModel())
        model.initialize(seed: 5)
        let all = Dictionary(uniqueKeysWithValues: model.stateDictionary.map { ($0.key, $0.tensor) })
        let (first, second) = ("transformers.0.blocks.0.attn.qkv.weight", "transformers.0.blocks.2.attn.qkv.weight")
        #expect(all[first]?.scalars == all[second]?.scalars && all[first] != nil)
        #expect(model.parameters.contains { $0.key == first } && !model.parameters.contains { $0.key == second })
        #expect(model.parameterCount < all.values.reduce(0) { $0 + $1.count })
        try copy.load(all.filter { $0.key != first })
        #expect(copy.stateDictionary.first { $0.key == first }?.tensor.scalars == all[first]?.scalars)
        #expect(throws: StateDictionaryError(missing: [first, second])) {
            try copy.load(all.filter { $0.key != first && $0.key != second })
        }
    }

    @Test func initialValuesFollowTheSeedOnly() throws {
        let entry = try Registry.entry("cct_2_3x2_32")
        let (a, b) = (entry.configuration.makeModel(), entry.configuration.makeModel())
        a.initialize(seed: 7)
        b.initialize(seed: 7)
        #expect(a.stateDictionary.map(\.tensor.scalars) == b.stateDictionary.map(\.tensor.scalars))
        b.initialize(seed: 8)
        #expect(a.stateDictionary.map(\.tensor.scalars) != b.stateDictionary.map(\.tensor.scalars))
        let convolution = try #require(a.stateDictionary.first { $0.key == "tokenizer.conv_layers.0.0.weight" }).tensor
        let deviation = (convolution.scalars.map { $0 * $0 }.reduce(0, +) / Float(convolution.count)).squareRoot()
        #expect(abs(deviation - 0.272) < 0.02)
    }
}
