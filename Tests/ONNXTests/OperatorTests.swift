import Foundation
import Tessera
import TesseraIO
import TesseraRuntime
import Testing

@testable import TesseraONNX

/// Every operator in many forms, against the results of ONNX Runtime: `Fixtures/make_operators.py` wrote both.
@Suite struct OperatorTests {
    static let folder = Bundle.module.resourceURL!.appendingPathComponent("Fixtures").path

    @Test(arguments: [11, 17, 21]) func resultsAreThoseOfONNXRuntime(version: Int) throws {
        let function = try ONNXFunction("\(Self.folder)/operators_\(version).onnx")
        let file = try Safetensors("\(Self.folder)/operators_\(version).safetensors")
        let image = try file.tensor("x").transposed([0, 2, 3, 1])
        let results = try function(image)
        #expect(results.count == function.outputs.count && results.count > 120)
        // The same through a traced graph, where shapes are known and values are not.
        let graph = try Graph(input: image.shape) { try function($0) }
        for (name, (eager, traced)) in zip(function.outputs, zip(results, graph.evaluate(image))) {
            let expected = try file.tensor(name)
            #expect(eager.shape == expected.shape, "\(name)")
            #expect(traced.scalars == eager.scalars, "\(name)")
            let scale = max(expected.scalars.filter(\.isFinite).map(abs).max() ?? 0, 1e-6)
            let isClose = zip(eager.scalars, expected.scalars).allSatisfy { $0 == $1 || abs($0 - $1) <= 2e-6 * scale }
            #expect(isClose, "\(name) of version \(version)")
        }
    }

    /// GELU and layer normalisation written as many nodes become one operation each.
    @Test func compositesAreRecognised() throws {
        let model = try ONNXModel("\(Self.folder)/operators_17.onnx")
        let constants = Dictionary(uniqueKeysWithValues: model.constants.map { ($0.name, $0.tensor) })
        let nodes = Composites.recognised(
            in: model.nodes, constants: constants, outputs: Set(model.outputs.map(\.name)))
        #expect(nodes.count { $0.operation == "Gelu" } == 3)
        #expect(!nodes.contains { $0.operation == "Erf" })
        let norms = nodes.filter { $0.operation == "LayerNormalization" }
        // The third has no shift.
        #expect(norms.map(\.inputs.count) == [3, 3, 2])
    }
}
