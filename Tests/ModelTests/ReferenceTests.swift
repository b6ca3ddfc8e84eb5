import Tessera
import TesseraIO
import TesseraModels
import TesseraNN
import Testing

/// Every model against the outputs and gradients of its reference implementation.
@Suite struct ReferenceTests {
    /// Those of whole models: parts of models have other inputs and tests of their own.
    static let cases = Set(Registry.systems.map(\.group)).sorted().flatMap(FixtureFolder.cases)
        .filter { isModel($0) }

    static func isModel(_ path: String) -> Bool {
        guard let file = try? Safetensors(path), file["input"] != nil,
            let system = file.metadata["system"], let reference = file.metadata["reference"]
        else { return false }
        return (try? Registry.configuration(system, reference: reference)) != nil
    }

    /// The map of the pyramid that a feature of a reference is, where its name does not tell.
    static let stages: [String: [String: Int]] = [
        "cmt/base_64": ["blocks_a.0": 0, "blocks_d.0": 3],
        "cmt/qkratio_sr_64": ["blocks_b.0": 1, "blocks_c.0": 2, "blocks_d.0": 3],
        "exmobilevit/baseline_64": ["mv2.3": 0, "mvit.0": 1, "mvit.1": 2, "mvit.2": 3],
        "exmobilevit/ex928_64": ["mv2.3": 0, "mvit.0": 1, "mvit.1": 2, "mvit.2": 3],
        "hatnet/hdim4_deep": ["blocks.1.0": 1, "blocks.2.1": 2],
        "hatnet/square64": ["blocks.0.0": 0, "blocks.3.0": 3],
        "mobilevit/base_64": ["stages.1": 0, "stages.2.1": 1, "stages.3": 2, "stages.4": 3],
        "internimage/model_t_prenorm": ["level3": 3],
        "internimage/model_sbl_postnorm_layerscale": ["level3": 3],
        "internimage/model_h_clip_projector": ["level3": 3],
        "revcol/plain_3col": ["col2.c0": 0, "col2.c1": 1, "col2.c2": 2, "col2.c3": 3],
        "revcol/intersup_4col": ["col3.c0": 0, "col3.c1": 1, "col3.c2": 2, "col3.c3": 3],
        "revcol/huge_3col": ["col2.c0": 0, "col2.c1": 1, "col2.c2": 2, "col2.c3": 3],
        "vision_mlp/asmlp": ["layer3": 3],
        // What it tells are branches without their residual.
        "vision_mlp/smlpnet": [:],
        "mobilevit/odd_40x56": ["stages.1": 0, "stages.2.1": 1, "stages.3": 2, "stages.4": 3],
        "revit/remvit_pooled": ["block0": 0, "block2": 1, "block3": 2],
        "revit/reswin": ["layer0_block1": 0, "layer1_block1": 1],
        "vitae/v1_embedding_cls_64": ["layers.2": 0],
    ]

    static func name(_ metadata: [String: String]) -> String {
        "\(metadata["system"] ?? "")/\(metadata["case"] ?? "")"
    }

    static func stage(_ feature: String, of metadata: [String: String]) -> Int? {
        if let stages = stages[name(metadata)] { return stages[feature] }
        guard let match = feature.wholeMatch(of: /(stage|layers\.|transformers\.|layer|block|s)(\d)/),
            let number = Int(match.2)
        else { return nil }
        return match.1 == "stage" || match.1.hasSuffix(".") ? number : number > 0 ? number - 1 : nil
    }

    @Test func thereAreCases() { #expect(Self.cases.count >= 6) }

    @Test(arguments: cases) func outputsAndGradients(_ path: String) throws {
        let (metadata, tensors) = try FixtureFolder.tensors(path)
        let results = try ReferenceCase(metadata: metadata, tensors: tensors).run(gradients: true)
        let found = Dictionary(uniqueKeysWithValues: results)
        let expected = tensors.filter { $0.key.hasPrefix("output") || $0.key.hasPrefix("grad") }
        #expect(Set(found.keys) == Set(expected.keys))
        let scale =
            expected.filter { $0.key.hasPrefix("grad.") }.values.map { $0.scalars.map(abs).max() ?? 0 }.max() ?? 1
        for (key, tensor) in expected {
            guard let result = found[key] else { continue }
            #expect(result.shape == tensor.shape, "\(key)")
            if tensor.scalars.allSatisfy({ abs($0) <= 1e-6 * max(1, scale) }) {
                // Zero in exact arithmetic, as a softmax ignores a common shift: both hold rounding noise.
                #expect(result.scalars.allSatisfy { abs($0) <= 1e-6 * max(1, scale) }, "\(key)")
                continue
            }
            // SReT's lone factors: sums over a whole map, whose terms cancel. The reference's own float32 value of one is
            // 9e-5 off the derivative in double precision, this one 2e-6. So they are measured by their greatest peers.
            let error = relativeError(result, tensor, floor: key.contains("coefficient") ? 0.05 * scale : 0)
            let tolerance: Float = ["vit", "deit", "cct"].contains(metadata["system"]) ? 2e-5 : 5e-5
            #expect(error <= tolerance, "\(key) of \(path): relative error \(error)")
        }
    }

    /// The maps after each stage, under the references' names and in their layouts.
    @Test(arguments: cases) func pyramids(_ path: String) throws {
        let (metadata, tensors) = try FixtureFolder.tensors(path)
        let model = try ReferenceCase(metadata: metadata, tensors: tensors).model
        guard let backbone = model as? any FeaturePyramid else { return }
        let image = try #require(tensors["input"]).transposed([0, 2, 3, 1])
        let maps = backbone.pyramid(image)
        #expect(maps.map { $0.shape[3] } == backbone.pyramidChannels)
        for (map, stride) in zip(maps, backbone.pyramidStrides) {
            // What is left over is dropped or padded.
            #expect((image.shape[1] / stride...(image.shape[1] - 1) / stride + 1).contains(map.shape[1]))
        }
        var compared = 0
        for (key, tensor) in tensors {
            guard let prefix = ["feature.", "output."].first(where: key.hasPrefix),
                let stage = Self.stage(String(key.dropFirst(prefix.count)), of: metadata)
            else { continue }
            let map = maps[stage]
            // Tokens may have a class token before them, and maps may have their channels first.
            let places = map.shape[1] * map.shape[2]
            var expected = tensor
            if expected.rank == 3 {
                expected = expected.sliced(axis: 1, from: expected.shape[1] - places, to: expected.shape[1])
                    .reshaped(map.shape)
            } else if ["swin", "CycleMLP", "VisionPermutator", "InternImage"].allSatisfy({
                metadata["reference"]?.contains($0) == false
            }) {
                expected = expected.transposed([0, 2, 3, 1])
            }
            #expect(relativeError(map, expected) <= 5e-5, "\(key) of \(path)")
            compared += 1
        }
        #expect(compared > 0 || Self.stages[Self.name(metadata)]?.isEmpty == true, "\(path)")
    }

    /// A forward pass in training mode, and what it makes of the running statistics.
    @Test(arguments: cases) func trainingMode(_ path: String) throws {
        let (found, tensors) = try FixtureFolder.tensors(path)
        guard tensors.keys.contains(where: { $0.hasPrefix("train.output") }) else { return }
        var metadata = found
        // These were made without dropout, which CMT has before its head.
        metadata["config"]?.replace(/"dp": [0-9.]+/, with: "\"dp\": 0")
        let model = try ReferenceCase(metadata: metadata, tensors: tensors).model
        let image = try #require(tensors["input"]).transposed([0, 2, 3, 1])
        for (key, output) in TrainingPass(RandomGenerator(seed: 0)).run({ model.referenceOutputs(image) }) {
            #expect(relativeError(output, try #require(tensors["train.\(key)"])) <= 5e-5, "\(key)")
        }
        let values = Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.key, $0.parameter.value) })
        for (key, tensor) in tensors where key.hasPrefix("train.buffer.") && !key.hasSuffix("num_batches_tracked") {
            let found = try #require(values[String(key.dropFirst("train.buffer.".count))], "\(key)")
            #expect(relativeError(found, tensor) <= 5e-5, "\(key) of \(path)")
        }
    }

    /// Blocks that compute their activations again give the same gradients and running statistics.
    @Test(arguments: cases) func checkpointingChangesNoBit(_ path: String) throws {
        let (metadata, tensors) = try FixtureFolder.tensors(path)
        let image = try #require(tensors["input"]).transposed([0, 2, 3, 1])
        func step(checkpointing: Bool) throws -> [String: [Float]] {
            let model = try ReferenceCase(metadata: metadata, tensors: tensors).model
            let (tape, pass) = (Tape(), TrainingPass(RandomGenerator(seed: 3), checkpointsActivations: checkpointing))
            let sum = pass.run { tape.record { model(image).squared().sum() } }
            let gradients = tape.gradients(of: sum)
            let values = model.parameters.map { key, parameter in
                (key, parameter.isTrainable ? gradients[parameter.tensor]?.scalars ?? [] : parameter.value.scalars)
            }
            return Dictionary(uniqueKeysWithValues: values)
        }
        #expect(try step(checkpointing: true) == step(checkpointing: false), "\(path)")
    }

    /// Leaving out what only the token grid needs must not change the answer.
    @Test(arguments: cases) func answersAgreeWithFeatures(_ path: String) throws {
        let (metadata, tensors) = try FixtureFolder.tensors(path)
        let model = try ReferenceCase(metadata: metadata, tensors: tensors).model
        let image = try #require(tensors["input"]).transposed([0, 2, 3, 1])
        let (features, answer) = (model.features(image), model.classify(image))
        #expect(relativeError(answer.logits, features.logits) <= 2e-6)
        #expect(relativeError(answer.pooled, features.pooled) <= 2e-6)
    }

    @Test func tableOfSinesMatches() throws {
        for path in Self.cases where path.contains("/cct/") && path.contains("sine") {
            let (metadata, tensors) = try FixtureFolder.tensors(path)
            let model = try ReferenceCase(metadata: metadata, tensors: tensors).model
            model.initialize(seed: 0)
            let table = try #require(model.parameters.first { $0.key == "classifier.positional_emb" }).parameter
            #expect(!table.isTrainable)
            #expect(relativeError(table.value, try #require(tensors["param.classifier.positional_emb"])) <= 2e-6)
        }
    }

    @Test func positionTablesResampleAsTheirPrograms() throws {
        let (_, vit) = try FixtureFolder.tensors(FixtureFolder.path("vit", "pos_embed_resample.safetensors"))
        let table = try #require(vit["param.pos_embed"])
        for (name, flavour) in [
            ("bicubic_antialias", PositionTable.Resampling.bicubicAntialiased), ("bicubic_plain", .bicubic),
            ("zoom_order1", .bilinearAligned),
        ] {
            let resampled = PositionTable.resampled(table, prefix: 1, from: (4, 4), to: (6, 3), flavour)
            #expect(relativeError(resampled, try #require(vit["feature.pos_embed_\(name)"])) <= 2e-6, "\(name)")
        }
        let (_, deit) = try FixtureFolder.tensors(FixtureFolder.path("deit", "losses.safetensors"))
        let resized = PositionTable.resampled(
            try #require(deit["input.pos_embed"]), prefix: 2, from: (4, 4), to: (6, 6), .bicubic)
        #expect(relativeError(resized, try #require(deit["output.pos_embed_resized"])) <= 2e-6)
        let (_, cct) = try FixtureFolder.tensors(FixtureFolder.path("cct", "pos_embed_resize.safetensors"))
        let larger = PositionTable.resampled(
            try #require(cct["input.pos_embed"]), prefix: 0, from: (4, 4), to: (7, 7), .bilinear)
        #expect(relativeError(larger, try #require(cct["output.pos_embed_4to7"])) <= 2e-6)
        let smaller = PositionTable.resampled(
            try #require(cct["input.pos_embed_cls"]), prefix: 1, from: (4, 4), to: (3, 3), .bilinear)
        #expect(relativeError(smaller, try #require(cct["output.pos_embed_cls_4to3"])) <= 2e-6)
    }

    @Test func aTableThatFitsIsUntouched() {
        let table = Tensor([1, 2, 3, 4, 5], [1, 5, 1])
        let same = PositionTable.resampled(table, prefix: 1, from: (2, 2), to: (2, 2), .bicubicAntialiased)
        #expect(same.scalars == table.scalars)
    }
}
