import Foundation
import Tessera
import TesseraModels
import TesseraNN
import Testing

@testable import TesseraIO
@testable import TesseraInterchange

/// Folders as publishers write them, from models made here, read back.
@Suite final class PublishedModelTests {
    private let folder: String

    init() throws {
        folder = NSTemporaryDirectory() + "tessera-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    private static let tiny = #"{"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8}"#

    private func model(
        _ name: String, _ arguments: String = tiny, size: Int = 32, classes: Int = 5
    ) throws -> any ImageClassifier {
        var configuration = try Registry.entry(name).configuration
        try configuration.update(Arguments(parsing: arguments, section: "arguments"))
        (configuration.imageSize, configuration.classes) = (Size(size), classes)
        let model = configuration.makeModel()
        model.initialize(seed: 7)
        return model
    }

    private func configuration(_ name: String, _ arguments: String = tiny, labels: [String]) throws
        -> ModelConfiguration
    {
        ModelConfiguration(
            architecture: name, classCount: labels.count, modelArguments: try JSON(parsing: arguments),
            preprocessing: .init(
                inputSize: [3, 32, 32], interpolation: .bilinear, cropFraction: 0.9, cropMode: .squash,
                mean: [0.1, 0.2, 0.3], deviation: [0.4, 0.5, 0.6]), labels: labels)
    }

    private func write(_ text: String, _ name: String) throws {
        try text.write(toFile: "\(folder)/\(name)", atomically: true, encoding: .utf8)
    }

    private func values(_ model: any ImageClassifier) -> [String: [Float]] {
        Dictionary(uniqueKeysWithValues: model.stateDictionary.map { ($0.key, $0.tensor.scalars) })
    }

    private func refusal(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "accepted"
        } catch { return "\(error)" }
    }

    @Test func whatTimmExportsComesBack() throws {
        let labels = ["ant", "bee", "cat", "dog", "elk"]
        let model = try model("vit_tiny_patch16_224")
        let own = try configuration("vit_tiny_patch16_224", labels: labels)
        try TimmExport(model, own).write(to: folder)
        let back = try PublishedModel(folder)
        #expect(values(back.model) == values(model))
        #expect(back.configuration.preprocessing == own.preprocessing)
        #expect(back.configuration.labels == labels && back.configuration.classifier == "head")
        let text = try String(contentsOfFile: folder + "/config.json", encoding: .utf8)
        let json = try JSON(parsing: text)
        #expect(json["pretrained_cfg"]?["first_conv"]?.string == "patch_embed.proj")
        #expect(json["pretrained_cfg"]?["fixed_input_size"]?.bool == true && json["num_features"]?.int == 16)
    }

    @Test func timmWantsTheCountOfBatches() throws {
        let model = try model("resnet18", #"{"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}"#)
        let own = try configuration("resnet18", "{}", labels: ["a", "b", "c", "d", "e"])
        let names = Set(try TimmExport(model, own).tensors.map(\.0))
        #expect(
            names.contains("bn1.num_batches_tracked") && names.contains("layer2.0.downsample.1.num_batches_tracked"))
        let other = try configuration("cct_2_3x2_32", "{}", labels: ["a"])
        #expect(refusal { _ = try TimmExport(model, other) }.contains("cct_2_3x2_32: timm has no model"))
    }

    /// Under the names of transformers, with queries, keys and values apart and behind the name of the model.
    private func published(_ model: any ImageClassifier, system: String, prefix: String) throws -> [(String, Tensor)] {
        let table = try #require(KeyTable.tables(of: system).dropFirst().first)
        return model.stateDictionary.flatMap { key, tensor -> [(String, Tensor)] in
            let names = table.sources(of: key)[0]
            let step = tensor.shape[0] / names.count
            return names.enumerated().map { index, name in
                let isHead = name.contains("classifier")
                let part = tensor.sliced(axis: 0, from: index * step, to: (index + 1) * step)
                return ((isHead ? "" : prefix) + name, names.count == 1 ? tensor : part)
            }
        }
    }

    @Test func transformersModelsAreJoinedAndPrepared() throws {
        let model = try model("vit_tiny_patch16_224")
        try Safetensors.write(
            published(model, system: "vit", prefix: "vit."), as: .float32, to: folder + "/model.safetensors")
        try write(
            """
            {"model_type": "vit", "image_size": 32, "architectures": ["ViTForImageClassification"],
             "id2label": {"0": "ant", "1": "bee", "2": "cat", "3": "dog", "4": "elk"}}
            """, "config.json")
        try write(
            """
            {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": true,
             "resample": 2, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
            """, "preprocessor_config.json")
        let options = PublishedModel.Options(name: "vit_tiny_patch16_224", arguments: try JSON(parsing: Self.tiny))
        let back = try PublishedModel(folder, options)
        #expect(values(back.model) == values(model))
        #expect(back.notes[0].contains("Hugging Face") && back.notes[0].contains("vit."))
        #expect(back.configuration.labels == ["ant", "bee", "cat", "dog", "elk"])
        let preprocessing = back.configuration.preprocessing
        #expect(preprocessing.inputSize == [3, 32, 32] && preprocessing.interpolation == .bilinear)
        #expect(preprocessing.cropMode == .center && Int(32 / preprocessing.cropFraction) == 37)
        #expect(preprocessing.mean == [0.5, 0.4, 0.3] && preprocessing.deviation == [0.2, 0.3, 0.4])
    }

    @Test func tablesAreResampledForAnotherImageSize() throws {
        let model = try model("vit_small_patch14_dinov2", classes: 0)
        try Safetensors.write(
            published(model, system: "dinov2", prefix: "backbone."), to: folder + "/model.safetensors")
        var options = PublishedModel.Options(
            name: "vit_small_patch14_dinov2", arguments: try JSON(parsing: Self.tiny), imageSize: 48)
        let back = try PublishedModel(folder, options)
        let table = try #require(values(back.model)["pos_embed"])
        let own = try #require(model.stateDictionary.first { $0.key == "pos_embed" }?.tensor)
        let expected = PositionTable.resampled(own, prefix: 1, from: (4, 4), to: (6, 6), .bicubic)
        #expect(table == expected.scalars)
        #expect(back.configuration.classCount == 0 && back.configuration.labels.isEmpty)
        // With classes it gets a head, which nobody has trained.
        options.arguments = try JSON(parsing: Self.tiny.dropLast() + #", "num_classes": 3}"#)
        let headed = try PublishedModel(folder, options)
        #expect(headed.configuration.classCount == 3 && headed.notes.contains { $0.contains("no head") })
        #expect(values(headed.model)["head.weight"]?.contains { $0 != 0 } == true)
    }

    @Test func positionOfTheClassTokenJoinsIt() throws {
        let arguments = Self.tiny
        let model = try model("vit_small_patch14_reg4_dinov2", arguments, classes: 0)
        var tensors = try published(model, system: "dinov2", prefix: "")
        let table = try #require(tensors.firstIndex { $0.0 == "embeddings.position_embeddings" })
        let row = Tensor((0..<16).map { Float($0) }, [1, 1, 16])
        tensors[table].1 = concatenate([row, tensors[table].1], axis: 1)
        try Safetensors.write(tensors, to: folder + "/model.safetensors")
        let options = PublishedModel.Options(
            name: "vit_small_patch14_reg4_dinov2", arguments: try JSON(parsing: arguments), imageSize: 32)
        let back = values(try PublishedModel(folder, options).model)
        let own = values(model)
        #expect(back["pos_embed"] == own["pos_embed"])
        #expect(back["cls_token"] == zip(own["cls_token"]!, row.scalars).map(+))
    }

    @Test func whatDoesNotFitIsNamed() throws {
        let model = try model("vit_tiny_patch16_224")
        let path = folder + "/model.safetensors"
        let tensors = model.stateDictionary.map { ($0.key, $0.tensor) }
        try Safetensors.write(tensors, to: path)
        #expect(refusal { _ = try PublishedModel(path) }.contains("the model's name with --model"))
        func message(_ name: String, _ arguments: String = Self.tiny) throws -> String {
            let options = PublishedModel.Options(name: name, arguments: try JSON(parsing: arguments), imageSize: 32)
            return refusal { _ = try PublishedModel(path, options) }
        }
        #expect(try message("vit_tiny_patch61_224").contains("did you mean"))
        #expect(try message("vit_tiny_patch16_224", "{}").contains("of another shape"))
        #expect(
            try message("vit_tiny_patch16_224", #"{"embed_dim": 16, "num_heads": 2, "patch_size": 8}"#).contains(
                "missing"))
        let deeper = [("blocks.2.norm1.weight", Tensor(zeros: [16]))]
        try Safetensors.write(tensors + deeper, to: path)
        let unexpected = try message("vit_tiny_patch16_224")
        #expect(unexpected.contains("1 unexpected (first: blocks.2.norm1.weight)"), "\(unexpected)")
        #expect(try message("vit_tiny_patch16_224", #"{"embed_dim": 16, "num_heads": 3}"#).contains("num_heads (3)"))
        try FileManager.default.removeItem(atPath: path)
        #expect(refusal { _ = try PublishedModel(folder) }.contains("a folder without weights"))
        try write("{", "config.json")
        try Safetensors.write(tensors, to: path)
        #expect(refusal { _ = try PublishedModel(folder) }.contains("config.json: expected a model's configuration"))
    }

    @Test func imageProcessorsAreUnderstood() throws {
        func result(_ text: String) throws -> ModelConfiguration.Preprocessing {
            let plain = #""image_mean": [0, 0, 0], "image_std": [1, 1, 1], "#
            return try TransformersConfiguration.preprocessing(JSON(parsing: "{" + plain + text + "}"), channels: 3)
        }
        let squashed = try result(#""size": {"height": 224, "width": 192}, "resample": 3"#)
        #expect(squashed.inputSize == [3, 224, 192] && squashed.cropMode == .squash && squashed.cropFraction == 1)
        let old = try result(#""size": 256, "crop_size": 224, "do_center_crop": true, "resample": 2"#)
        #expect(old.inputSize == [3, 224, 224] && old.cropMode == .center && Int(224 / old.cropFraction) == 256)
        let small = try result(#""size": {"shortest_edge": 224}, "crop_pct": 0.875"#)
        #expect(small.inputSize == [3, 224, 224] && small.cropMode == .center && small.cropFraction == 0.875)
        let large = try result(#""size": {"shortest_edge": 384}, "crop_pct": 0.875"#)
        #expect(large.cropMode == .squash && large.cropFraction == 1)
        let raw = try TransformersConfiguration.preprocessing(
            JSON(parsing: #"{"do_normalize": false, "size": 64, "do_flip_channel_order": true}"#), channels: 3)
        #expect(raw.mean == [0, 0, 0] && raw.deviation == [1, 1, 1] && raw.inputSize == [3, 64, 64])
        #expect(refusal { _ = try result(#""size": 64, "resample": 1"#) }.contains("resample: expected 0"))
        #expect(refusal { _ = try result(#""size": {"height": -1, "width": 3}"#) }.contains("size.height"))
        for crop in 1...300 {
            let found = try result(
                #""size": {"shortest_edge": 301}, "crop_size": {"height": \#(crop), "width": \#(crop)}"#)
            #expect(Int(Double(crop) / found.cropFraction) == 301, "\(crop)")
        }
    }
}
