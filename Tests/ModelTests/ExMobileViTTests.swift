import Tessera
import TesseraModels
import TesseraNN
import Testing

@Suite struct ExMobileViTTests {
    /// The classifier alone at its published geometry, where its means leave out the lower right of two maps.
    @Test func classifierMatchesItsReference() throws {
        let (metadata, tensors) = try FixtureFolder.tensors(
            FixtureFolder.path("exmobilevit", "head576_256.safetensors"))
        var configuration = ExMobileViT.Configuration.ex576
        let arguments = try Arguments(parsing: try #require(metadata["config"]), section: "config")
        #expect(try arguments.string("kind") == "classifier only")
        try configuration.apply(arguments)
        let model = ExMobileViT(configuration)
        model.initialize(seed: 0)
        let parameters = tensors.filter { $0.key.hasPrefix("param.") }.map { (String($0.key.dropFirst(6)), $0.value) }
        try model.load(
            Dictionary(uniqueKeysWithValues: parameters), skipping: { !$0.hasPrefix("conv2") && !$0.hasPrefix("fc.") })
        let maps = try (1...3).map { Tape.leaf(try #require(tensors["input.x\($0)"]).transposed([0, 2, 3, 1])) }

        let tape = Tape()
        let output = tape.record { model.classify(attentionMaps: maps).logits }
        #expect(relativeError(output, try #require(tensors["output"])) <= 2e-5)
        let gradients = tape.gradients(of: output, cotangent: tensors["cotangent"])
        for (index, map) in maps.enumerated() {
            let found = try #require(gradients[map]).transposed([0, 3, 1, 2])
            #expect(relativeError(found, try #require(tensors["grad_input.x\(index + 1)"])) <= 5e-5)
        }
        var compared = 0
        for (key, parameter) in model.parameters {
            guard let expected = tensors["grad.\(key)"] else { continue }
            let found = parameter.exported(try #require(gradients[parameter.tensor], "\(key)"))
            #expect(relativeError(found, expected) <= 5e-5, "\(key)")
            compared += 1
        }
        #expect(compared == 10)
    }

    @Test func meansCoverTheSamePartOfEveryMap() throws {
        var configuration = ExMobileViT.Configuration.ex928
        #expect(configuration.poolingWindow(0, of: 32) == 25)
        #expect(configuration.poolingWindow(0, of: 64) == 50)
        #expect(configuration.poolingWindow(1, of: 8) == 5)
        #expect(configuration.poolingWindow(2, of: 1) == 1)
        try configuration.apply(
            Arguments(parsing: #"{"image_size": 64, "pool_windows": [8, 4, 2]}"#, section: "model"))
        #expect((0..<3).map { configuration.poolingWindow($0, of: 8 >> $0) } == [8, 4, 2])
    }
}
