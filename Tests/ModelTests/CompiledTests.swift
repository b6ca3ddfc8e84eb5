import Tessera
import TesseraModels
import TesseraRuntime
import Testing

/// Every model of the reference cases, compiled, against the same model run operation by operation.
@Suite struct CompiledTests {
    @Test(arguments: ReferenceTests.cases) func compiledAgreesWithEager(_ path: String) throws {
        let (metadata, tensors) = try FixtureFolder.tensors(path)
        let model = try ReferenceCase(metadata: metadata, tensors: tensors).model
        let images = try #require(tensors["input"]).transposed([0, 2, 3, 1])
        let batch = concatenate([images, images * 0.5, images * -1], axis: 0)
        let compiled = CompiledModel { image in
            let features = model.features(image)
            return [features.logits, features.pooled, features.tokens]
        }
        for images in [images, batch] {
            let expected = model.features(images)
            for (found, expected) in zip(compiled(images), [expected.logits, expected.pooled, expected.tokens]) {
                #expect(found.shape == expected.shape)
                #expect(relativeError(found, expected) <= 2e-5, "\(path)")
            }
        }
    }
}
