import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraModels
import TesseraNN
import TesseraRuntime
import TesseraTraining
import Testing

@testable import TesseraQuantization

/// Packed weights and annotated configurations.
@Suite struct QuantizedFileTests {
    @Test func codesSurvivePacking() {
        var generator = RandomGenerator(seed: 1)
        for bits in 2...8 {
            let greatest = Quantizer.greatest(bits: bits)
            for columns in [1, 7, 8, 33] {
                let codes = (0..<5 * columns).map { _ in
                    Int8(Int(generator.uniform() * Float(2 * greatest + 1)).clamped(to: 0...2 * greatest) - greatest)
                }
                let bytes = PackedCodes.pack(codes, columns: columns, bits: bits)
                #expect(bytes.count == 5 * ((columns * bits + 7) / 8))
                #expect(PackedCodes.unpack(bytes, columns: columns, bits: bits) == codes)
            }
        }
    }

    @Test func annotationsSurviveJSON() throws {
        let quantizer = Quantizer(kind: .splitSizes, bits: 5, scale: 0.1234567, shift: 3)
        let annotation = Quantization(
            layers: [
                "a.weight": .init(weightBits: 4, input: Quantizer(kind: .splitSigns, bits: 6, scale: 3e-5, shift: 2))
            ],
            attentions: [3: .init(q: quantizer, k: quantizer, v: quantizer, weights: quantizer)])
        #expect(try Quantization(JSON(parsing: annotation.json.text())) == annotation)
    }

    @Test(arguments: [
        (#"{"layers": {"a": {"weight_bits": 9, "input": {"bits": 8, "scale": 1}}}}"#, "weight_bits"),
        (#"{"layers": {"a": {"weight_bits": 8}}}"#, "layers.a.input"),
        (#"{"layers": {"a": {"weight_bits": 8, "input": {"bits": 8, "scale": 0}}}}"#, "input.scale"),
        (#"{"layers": {"a": {"weight_bits": 8, "input": {"bits": 6, "scale": 1, "shift": 3}}}}"#, "input.shift"),
        (#"{"layers": {"a": {"weight_bits": 8, "input": {"bits": 6, "scale": 1, "kind": "x"}}}}"#, "input.kind"),
        (#"{"attentions": {"-1": {}}}"#, "attentions"), (#"{"attentions": {"0": {}}}"#, "attentions.0.q"),
    ]) func damagedAnnotations(_ json: String, _ field: String) throws {
        let error = #expect(throws: ArgumentError.self) { try Quantization(JSON(parsing: json)) }
        #expect(error?.field.hasSuffix(field) == true, "\(error?.field ?? "")")
    }

    /// A run with convolutions and 4-bit weights: its files, and the same answers to the last bit.
    @Test func aRunComesBack() throws {
        let (model, shape) = try QuantizedCase(name: "cct_2_3x2_32").model()
        let images = randomImages(shape, seed: 2)
        let configuration = TesseraIO.ModelConfiguration(
            architecture: "cct_2_3x2_32", classCount: 10,
            preprocessing: .init(inputSize: [3, 32, 32], mean: [0, 0, 0], deviation: [1, 1, 1]))
        let trained = try TrainedModel(model: model, configuration: configuration)
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString).path
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let run = try QuantizationRun(
            trained, images: [images], recipe: QuantizationRecipe(bits: .uniform(weights: 4, activations: 8)))
        try run.write(RunFolder.create(at: folder))
        let expected = run.compiled()(images)
        let loaded = try TrainedModel(folder)
        #expect(
            loaded.quantization?.layers.count == run.quantizer.groups.filter { !$0.name.hasPrefix("attention.") }.count)
        #expect(loaded.compiled(images).scalars == expected.scalars)
        #expect(loaded.compiled.features(images).logits.scalars == expected.scalars)
        let size = try FileManager.default.attributesOfItem(atPath: folder + "/model.safetensors")[.size] as! Int
        #expect(size < model.parameterCount)

        let file = folder + "/config.json"
        let text = try String(contentsOfFile: file, encoding: .utf8)
        func damage(_ old: String, _ new: String, _ expected: String...) throws {
            #expect(text.contains(old))
            try text.replacingOccurrences(of: old, with: new).write(
                to: URL(fileURLWithPath: file), atomically: true, encoding: .utf8)
            let error = #expect(throws: FormatError.self) { try TrainedModel(folder) }
            for part in expected { #expect(error?.description.contains(part) == true, "\(error?.description ?? "")") }
        }
        try damage("blocks.0.linear1.weight", "blocks.0.linear9.weight", "linear9", "tessera.quantization.layers")
        try damage("\"weight_bits\": 4", "\"weight_bits\": 5", "rows of", "5 bits")
        try damage("\"weight_bits\": 4", "\"weight_bits\": 40", "config.json", "weight_bits", "40")
    }
}

/// What calibration refuses.
@Suite struct RefusalTests {
    private func refusal(_ key: String, _ value: Float) throws -> String {
        let (model, shape) = try QuantizedCase(name: "cct_2_3x2_32").model()
        for (name, parameter) in model.parameters where name == key {
            parameter.value = Tensor(repeating: value, parameter.shape)
        }
        let error = #expect(throws: QuantizationError.self) {
            try ModelQuantizer(
                model, images: [randomImages(shape, seed: 1)], recipe: QuantizationRecipe(method: .minmax))
        }
        return error?.description ?? ""
    }

    @Test func valuesThatHaveNoRange() throws {
        let layer = "classifier.blocks.0.linear1"
        #expect(try refusal("classifier.blocks.0.norm1.weight", .nan).contains("\(layer), input: expected finite"))
        #expect(try refusal("classifier.blocks.0.norm1.weight", 1e12).contains("range explodes"))
        let dead = try refusal("classifier.blocks.0.linear1.weight", 0)
        #expect(
            dead.contains("classifier.blocks.0.linear2, input: expected numbers to take a range from, found 0 alone"))
    }

    /// A model of one layer has nothing between its first and its last product.
    final class Flat: Module, ImageClassifier {
        let head = Linear(12, 3)
        let headPrefixes = ["head."]

        func features(_ image: Tensor) -> Features {
            let x = image.reshaped([image.shape[0], 12])
            return Features(logits: head(x), pooled: x, tokens: image)
        }
    }

    @Test func aModelWithoutLayersInside() {
        let model = Flat()
        model.initialize(seed: 1)
        let error = #expect(throws: QuantizationError.self) {
            try ModelQuantizer(model, images: [randomImages([1, 2, 2, 3], seed: 1)], recipe: QuantizationRecipe())
        }
        #expect(error?.description.contains("layers that can be quantized") == true)
    }
}

extension Comparable {
    fileprivate func clamped(to range: ClosedRange<Self>) -> Self { min(max(self, range.lowerBound), range.upperBound) }
}
