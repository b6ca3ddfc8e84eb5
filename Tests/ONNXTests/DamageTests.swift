import Foundation
import Tessera
import TesseraIO
import Testing

@testable import TesseraONNX

/// Files that are not what they should be: refused in one line, never a crash.
@Suite struct DamageTests {
    private static let folder = OperatorTests.folder

    /// A model of some nodes from `input` to `y`.
    private func model(_ nodes: [ONNXNode], constants: [String: ONNXTensor] = [:]) -> ONNXModel {
        ONNXModel(
            operatorVersion: 17, nodes: nodes,
            constants: constants.map { ONNXConstant(name: $0.key, tensor: $0.value) },
            inputs: [ONNXValueInfo(name: "input", shape: [.named("n"), .fixed(3), .fixed(4), .fixed(5)])],
            outputs: [ONNXValueInfo(name: "y", shape: [])])
    }

    private func message(_ body: () throws -> Void) -> String {
        do { try body() } catch { return "\(error)" }
        return ""
    }

    private func run(_ model: ONNXModel) throws {
        _ = try ONNXFunction(model, file: "model.onnx")(Tensor(abstract: [1, 4, 5, 3]))
    }

    @Test func unknownOperatorIsRefusedWithItsNode() {
        let node = ONNXNode(operation: "FancyThing", name: "/blocks.0/fancy", inputs: ["input"], outputs: ["y"])
        let message = message { try run(model([node])) }
        #expect(
            message == "model.onnx: node /blocks.0/fancy: expected one that can be run here, found operator FancyThing")
    }

    /// Operands that do not fit are found before they are computed with.
    @Test(arguments: [
        ONNXNode(operation: "MatMul", inputs: ["input", "vector"], outputs: ["y"]),
        ONNXNode(operation: "Add", inputs: ["input", "vector"], outputs: ["y"]),
        ONNXNode(operation: "Add", inputs: ["input", "absent"], outputs: ["y"]),
        ONNXNode(operation: "Add", inputs: [], outputs: ["y"]),
        ONNXNode(operation: "Conv", inputs: ["input", "vector"], outputs: ["y"]),
        ONNXNode(operation: "Reshape", inputs: ["input", "huge"], outputs: ["y"]),
        ONNXNode(operation: "Expand", inputs: ["input", "huge"], outputs: ["y"]),
        ONNXNode(operation: "Tile", inputs: ["input", "huge"], outputs: ["y"]),
        ONNXNode(operation: "ConstantOfShape", inputs: ["huge"], outputs: ["y"]),
        ONNXNode(operation: "Reshape", inputs: ["input", "input"], outputs: ["y"]),
        ONNXNode(operation: "Gather", inputs: ["input", "huge"], outputs: ["y"]),
        ONNXNode(operation: "Slice", inputs: ["input", "huge"], outputs: ["y"]),
        ONNXNode(
            operation: "Transpose", inputs: ["input"], outputs: ["y"], attributes: ["perm": .integers([0, 0, 1, 2])]),
        ONNXNode(operation: "Softmax", inputs: ["input"], outputs: ["y"], attributes: ["axis": .integer(7)]),
        ONNXNode(operation: "Softmax", inputs: ["input"], outputs: ["y"], attributes: ["axis": .text("x")]),
        ONNXNode(
            operation: "MaxPool", inputs: ["input"], outputs: ["y"], attributes: ["kernel_shape": .integers([9, 9])]),
        ONNXNode(operation: "AveragePool", inputs: ["input"], outputs: ["y"]),
        ONNXNode(operation: "Pad", inputs: ["input", "huge"], outputs: ["y"]),
        ONNXNode(operation: "Resize", inputs: ["input", "", "vector"], outputs: ["y"]),
        ONNXNode(operation: "BatchNormalization", inputs: ["input"], outputs: ["y"]),
        ONNXNode(operation: "Split", inputs: ["input"], outputs: ["y", "z"], attributes: ["axis": .integer(9)]),
        ONNXNode(operation: "Erf", inputs: ["input"], outputs: ["y"]),
        ONNXNode(operation: "Relu", inputs: ["input"], outputs: ["z"]),
    ])
    func operandsThatDoNotFitAreRefused(_ node: ONNXNode) {
        let big = 1 << 30
        let message = message {
            try run(
                model(
                    [node],
                    constants: [
                        "vector": .floats(Tensor(repeating: 1, [7])), "huge": .integers([big, big, big, big], [4]),
                    ]))
        }
        #expect(message.hasPrefix("model.onnx: ") && !message.contains("\n"), "\(node.operation): \(message)")
    }

    /// A file of a few bytes may not ask for much time or memory: repeats are one step however many they are, and what is
    /// computed from constants is in proportion to them.
    @Test func constantsDoNotGrowOutOfProportion() throws {
        func tiled(_ repeats: [Int]) -> ONNXModel {
            model(
                [
                    ONNXNode(operation: "Tile", inputs: ["vector", "repeats"], outputs: ["tiled"]),
                    ONNXNode(operation: "ReduceMean", inputs: ["tiled"], outputs: ["mean"]),
                    ONNXNode(operation: "Add", inputs: ["input", "mean"], outputs: ["y"]),
                ],
                constants: [
                    "vector": .floats(Tensor([1, 2, 3], [1, 3])), "repeats": .integers(repeats, [2]),
                ])
        }
        #expect(message { try run(tiled([1 << 22, 1])) } == "")
        let refused = message { try run(tiled([1 << 23, 1])) }
        #expect(refused.contains("(Tile)") && refused.contains("up to 16777236 elements"), "\(refused)")
        let squared = model(
            [
                ONNXNode(operation: "Expand", inputs: ["one", "long"], outputs: ["row"]),
                ONNXNode(operation: "Transpose", inputs: ["row"], outputs: ["column"]),
                ONNXNode(operation: "MatMul", inputs: ["column", "row"], outputs: ["z"]),
                ONNXNode(operation: "Relu", inputs: ["input"], outputs: ["y"]),
            ],
            constants: ["one": .floats(Tensor([1], [1, 1])), "long": .integers([1, 1 << 22], [2])])
        #expect(message { try run(squared) }.contains("(MatMul)"))
        let enlarged = model(
            [ONNXNode(operation: "Resize", inputs: ["input", "", "", "size"], outputs: ["y"])],
            constants: ["size": .integers([1, 3, 1 << 24, 1], [4])])
        #expect(message { try run(enlarged) }.contains("sides of at most 16384"))
    }

    @Test func externalDataStayBesideTheModel() throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("tessera-\(UUID().uuidString).onnx")
            .path
        defer { for path in [path, path + ".data"] { try? FileManager.default.removeItem(atPath: path) } }
        let weight = Tensor((0..<3000).map(Float.init), [3000])
        let original = model(
            [ONNXNode(operation: "Relu", inputs: ["input"], outputs: ["y"])], constants: ["weight": .floats(weight)])
        try original.write(to: path, externalData: true)
        guard case .floats(let read)? = try ONNXModel(path).constants.first?.tensor else {
            Issue.record("no constant")
            return
        }
        #expect(read.scalars == weight.scalars)
        // The name of the data file, of the same length, somewhere else.
        let name = path.split(separator: "/").last! + ".data"
        let other = "../" + String(repeating: "a", count: name.utf8.count - 3)
        let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        let place = try #require(bytes.range(of: Data(name.utf8)))
        try bytes.replacing(place, with: Data(other.utf8)).write(to: URL(fileURLWithPath: path))
        #expect(message { _ = try ONNXModel(path) }.contains("expected data in a file beside the model"))
        try bytes.write(to: URL(fileURLWithPath: path))
        try Data(count: 100).write(to: URL(fileURLWithPath: path + ".data"))
        #expect(message { _ = try ONNXModel(path) }.contains("of the 100 bytes"))
    }

    /// Truncated and altered files, by fixed rules: read, and run on shapes if they can be read.
    @Test func damagedFilesAreRefusedOrRun() throws {
        let original = try [UInt8](Data(contentsOf: URL(fileURLWithPath: "\(Self.folder)/operators_17.onnx")))
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("tessera-\(UUID().uuidString).onnx")
            .path
        defer { try? FileManager.default.removeItem(atPath: path) }
        var generator = RandomGenerator(seed: 3)
        var refused = 0
        for round in 0..<400 {
            var bytes = original
            if round % 4 == 0 { bytes.removeLast(Int(generator.next() % UInt64(bytes.count))) }
            for _ in 0..<(1 + round % 8) {
                bytes[Int(generator.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: generator.next())
            }
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            let message = message { _ = try ONNXFunction(path)(Tensor(abstract: [2, 6, 8, 4])) }
            #expect(!message.contains("\n"))
            if !message.isEmpty { refused += 1 }
        }
        #expect(refused > 200)
    }
}

extension Data {
    fileprivate func replacing(_ range: Range<Int>, with other: Data) -> Data {
        var copy = self
        copy.replaceSubrange(range, with: other)
        return copy
    }
}
