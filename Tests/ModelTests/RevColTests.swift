import Foundation
@testable import Tessera
import TesseraIO
import TesseraNN
import Testing

@testable import TesseraModels

/// What RevCol has besides an answer: columns computed backwards, and supervision between them.
@Suite struct RevColTests {
    static let cases = FixtureFolder.cases("revcol").filter { $0.hasSuffix("_3col.safetensors") }

    /// The gradients of a training pass that keeps no maps are those of one that does. Each map is divided by its scale
    /// on the way back, so that rounding grows with the inverse of the smallest: 0.13 in one file, 0.007 in the other.
    @Test(arguments: cases) func reversibleGradientsMatch(_ path: String) throws {
        let (metadata, tensors) = try FixtureFolder.tensors(path)
        let saved = metadata.merging(["config": metadata["config"]!.replacing("false}", with: "true}")]) { $1 }
        let model = try #require(try ReferenceCase(metadata: saved, tensors: tensors).model as? RevCol)
        #expect(model.configuration.savesMemory)
        let scales = model.columns.dropFirst().flatMap { $0.scales!.flatMap { $0.value.scalars.map(abs) } }
        let tolerance = max(5e-5, 1.5e-5 / (try #require(scales.min())))
        let image = Tape.leaf(try #require(tensors["input"]).transposed([0, 2, 3, 1]))
        let tape = Tape()
        let output = TrainingPass(RandomGenerator(seed: 1)).run { tape.record { model(image) } }
        #expect(relativeError(output, try #require(tensors["output"])) <= 5e-5)
        let gradients = tape.gradients(of: output, cotangent: tensors["cotangent"])
        let found = try #require(gradients[image]).transposed([0, 3, 1, 2])
        #expect(relativeError(found, try #require(tensors["grad_input"])) <= tolerance)
        for (key, parameter) in model.parameters {
            let expected = try #require(tensors["grad.\(key)"])
            let gradient = parameter.exported(gradients[parameter.tensor] ?? Tensor(zeros: parameter.shape))
            #expect(relativeError(gradient, expected, floor: 1e-6) <= tolerance, "\(key)")
        }
    }

    /// Bytes of activations that wait for the backward pass.
    private func keptBytes(columns: Int, savesMemory: Bool) -> Int {
        var configuration = RevCol.Configuration([8, 8, 8, 8], [1, 1, 1, 1], columns: columns, dropPath: 0.5)
        configuration.savesMemory = savesMemory
        let model = RevCol(configuration)
        model.initialize(seed: 1)
        let tape = Tape()
        let image = Tape.leaf(Tensor(repeating: 0.5, [1, 64, 64, 3]))
        _ = TrainingPass(RandomGenerator(seed: 1)).run { tape.record { model(image) } }
        return tape.savedBytes(besides: model.parameters.map(\.parameter.value))
    }

    @Test func memoryDoesNotGrowWithTheColumns() {
        let (two, sixteen) = (keptBytes(columns: 2, savesMemory: true), keptBytes(columns: 16, savesMemory: true))
        #expect(two == sixteen)
        #expect(keptBytes(columns: 16, savesMemory: false) > 10 * sixteen)
    }

    /// Blocks that were dropped in the forward pass are dropped again in the backward pass.
    @Test func droppedBlocksAreDroppedAgain() throws {
        func gradients(savesMemory: Bool) -> [Tensor] {
            var configuration = RevCol.Configuration([8, 8, 8, 8], [2, 2, 2, 2], columns: 3, dropPath: 0.6)
            (configuration.savesMemory, configuration.classes) = (savesMemory, 3)
            let model = RevCol(configuration)
            model.initialize(seed: 2)
            for (key, parameter) in model.parameters where key.hasSuffix("gamma") {
                parameter.value = Tensor(repeating: 0.5, parameter.shape)
            }
            let image = Tensor((0..<4 * 32 * 32 * 3).map { Float($0 % 251) / 251 }, [4, 32, 32, 3])
            let tape = Tape()
            let output = TrainingPass(RandomGenerator(seed: 3)).run { tape.record { model(image) } }
            let found = tape.gradients(of: output)
            return model.parameters.map { found[$0.parameter.tensor] ?? Tensor(zeros: $0.parameter.shape) }
        }
        for (a, b) in zip(gradients(savesMemory: true), gradients(savesMemory: false)) {
            #expect(relativeError(a, b, floor: 1e-4) <= 5e-5)
        }
    }

    @Test func scalesStayAwayFromZero() throws {
        let model = RevCol(RevCol.Configuration([4, 4, 4, 4], [1, 1, 1, 1], columns: 2, dropPath: 0))
        model.initialize(seed: 1)
        let alpha = model.columns[1].alpha2
        alpha.value = Tensor([-1e-5, 1e-6, 0, -0.2], alpha.shape)
        _ = model(Tensor(repeating: 0.5, [1, 32, 32, 3]))
        #expect(alpha.value.scalars == [-1e-3, 1e-3, 0, -0.2])
    }

    @Test func lossMatchesItsReference() throws {
        let (_, tensors) = try FixtureFolder.tensors(FixtureFolder.path("revcol", "loss_compound.safetensors"))
        func map(_ key: String) throws -> Tensor { try #require(tensors[key]).transposed([0, 2, 3, 1]) }
        let keys = ["input", "input.cls1", "input.cls2", "input.cls3"]
        let logits = try keys.map { Tape.leaf(try #require(tensors[$0])) }
        let images = try (0..<3).map { Tape.leaf(try map("input.img\($0)")) }
        let tape = Tape()
        let (parts, total) = try tape.record {
            let parts = RevCol.losses(
                .init(logits: logits, images: images), targets: try #require(tensors["input.targets"]),
                image: try map("input.image"))
            let loss = parts.dropFirst().reduce(parts[0]) { $0 + $1 }
            var total = loss * (try #require(tensors["cotangent"]).scalars[0])
            for (index, part) in parts.enumerated() {
                total = total + part * (try #require(tensors["cotangent.part\(index)"]).scalars[0])
            }
            #expect(relativeError(loss.reshaped([1]), try #require(tensors["output"])) <= 2e-6)
            return (parts, total)
        }
        for (index, part) in parts.enumerated() {
            #expect(relativeError(part.reshaped([1]), try #require(tensors["output.part\(index)"])) <= 2e-6)
        }
        let gradients = tape.gradients(of: total)
        for (key, leaf) in zip(keys, logits) {
            let expected = try #require(tensors[key.replacing("input", with: "grad_input")])
            #expect(relativeError(try #require(gradients[leaf]), expected) <= 2e-5, "\(key)")
        }
        for (index, leaf) in images.enumerated() {
            let found = try #require(gradients[leaf]).transposed([0, 3, 1, 2])
            #expect(relativeError(found, try #require(tensors["grad_input.img\(index)"])) <= 2e-5)
        }
    }

    @Test func directDecoderMatchesItsReference() throws {
        let (_, tensors) = try FixtureFolder.tensors(FixtureFolder.path("revcol", "module_simdecoder.safetensors"))
        let decoder = RevCol.DirectDecoder(10, stride: 8)
        let parameters = tensors.filter { $0.key.hasPrefix("param.") }.map { (String($0.key.dropFirst(6)), $0.value) }
        try decoder.load(Dictionary(uniqueKeysWithValues: parameters))
        let map = Tape.leaf(try #require(tensors["input"]).transposed([0, 2, 3, 1]))
        let tape = Tape()
        let output = tape.record { decoder(map) }
        #expect(relativeError(output.transposed([0, 3, 1, 2]), try #require(tensors["output"])) <= 2e-5)
        let cotangent = try #require(tensors["cotangent"]).transposed([0, 2, 3, 1])
        let gradients = tape.gradients(of: output, cotangent: cotangent)
        let found = try #require(gradients[map]).transposed([0, 3, 1, 2])
        #expect(relativeError(found, try #require(tensors["grad_input"])) <= 2e-5)
    }
}
