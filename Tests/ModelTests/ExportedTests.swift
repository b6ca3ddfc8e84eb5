import Foundation
import Tessera
import TesseraModels
import TesseraNN
import TesseraONNX
import TesseraRuntime
import Testing

/// Every model of the reference cases, written as ONNX and read back as a graph, against the model itself.
@Suite struct ExportedTests {
    @Test(arguments: ReferenceTests.cases) func exportedModelRunsTheSame(_ path: String) throws {
        let (metadata, tensors) = try FixtureFolder.tensors(path)
        let model = try ReferenceCase(metadata: metadata, tensors: tensors).model
        let images = try #require(tensors["input"]).transposed([0, 2, 3, 1])
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("tessera-\(UUID().uuidString).onnx")
            .path
        defer { for path in [file, file + ".data"] { try? FileManager.default.removeItem(atPath: path) } }
        let names = ["logits", "pooled", "tokens"]
        let exported = try ONNXExporter.export(
            image: images.shape.replacing(0, with: 1), outputs: names, parameters: model.parameters
        ) { image in
            let features = model.features(image)
            return [features.logits, features.pooled, features.tokens]
        }
        // Half of the cases with their weights beside the graph.
        try exported.write(to: file, externalData: path.utf8.count % 2 == 0)
        let imported = try ONNXFunction(file)
        #expect(imported.outputs == names)
        #expect(imported.imageExtents == [images.shape[3], images.shape[1], images.shape[2]])
        let batch = concatenate([images, images * 0.5, images * -1], axis: 0)
        let plan = Plan(try Graph(input: images.shape.replacing(0, with: 1)) { try imported($0) })
        for images in [images, batch] {
            let features = model.features(images)
            let expected = [features.logits, features.pooled, features.tokens.transposed([0, 3, 1, 2])]
            for (found, expected) in zip(try imported(images), expected) {
                #expect(found.shape == expected.shape)
                #expect(relativeError(found, expected) <= 2e-5, "\(path)")
            }
            for (found, expected) in zip(plan(images), expected) {
                #expect(relativeError(found.reshaped(expected.shape), expected) <= 2e-5, "\(path) compiled")
            }
        }
    }
}
