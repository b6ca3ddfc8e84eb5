import Foundation
import Tessera
import Testing

@testable import TesseraIO

@Suite struct ONNXTests {
    private let folder: String

    init() throws { folder = try temporaryFolder() }

    private static func message(_ body: (inout ProtobufWriter) -> Void) -> [UInt8] {
        var writer = ProtobufWriter()
        body(&writer)
        return writer.bytes
    }

    /// `TensorProto` of float32 in raw data.
    private static func tensor(_ name: String, _ shape: [Int], _ values: [Float], packed: Bool = false) -> [UInt8] {
        message {
            for extent in shape { $0.add(1, UInt64(extent)) }
            $0.add(2, UInt64(1))
            $0.add(8, name)
            $0.add(packed ? 4 : 9, values.flatMap { littleEndian($0.bitPattern) })
        }
    }

    private static func node(_ operation: String, _ name: String, _ inputs: [String], _ output: String) -> [UInt8] {
        message {
            for input in inputs { $0.add(1, input) }
            $0.add(2, output)
            $0.add(3, name)
            $0.add(4, operation)
        }
    }

    private static func model(nodes: [[UInt8]], initializers: [[UInt8]]) -> [UInt8] {
        message {
            $0.add(1, UInt64(7))
            $0.add(2, "pytorch")
            $0.add(
                7,
                message { graph in
                    for node in nodes { graph.add(1, node) }
                    for initializer in initializers { graph.add(5, initializer) }
                })
        }
    }

    static let sample = model(
        nodes: [
            node("MatMul", "/a/b.0/fc/MatMul", ["x", "onnx::MatMul_7"], "y"),
            node("Add", "/a/b.0/fc/Add", ["a.b.0.fc.bias", "y"], "z"),
            node("MatMul", "/a/free/MatMul", ["z", "onnx::MatMul_8"], "u"),
            node("Concat", "/a/Concat_3", ["onnx::Concat_9", "u"], "v"),
        ],
        initializers: [
            tensor("a.b.0.fc.bias", [3], [1, 2, 3]), tensor("onnx::MatMul_7", [2, 3], [1, 2, 3, 4, 5, 6]),
            tensor("onnx::MatMul_8", [3, 1], [7, 8, 9], packed: true),
            tensor("onnx::Concat_9", [1, 1, 2], [0.5, 0.25]),
        ])

    @Test func anonymousWeightsGetTheirNamesBack() throws {
        let path = folder + "/model.onnx"
        try write(Self.sample, to: path)
        let file = try WeightFile.open(path)
        #expect(Set(file.shapes.keys) == ["a.b.0.fc.bias", "a.b.0.fc.weight", "a.free.weight", "a.Concat"])
        #expect(file.shapes["a.b.0.fc.weight"] == [3, 2])
        #expect(try file.tensor("a.b.0.fc.weight").scalars == [1, 4, 2, 5, 3, 6])
        #expect(try file.tensor("a.free.weight").scalars == [7, 8, 9])
        #expect(try file.tensor("a.Concat").scalars == [0.5, 0.25])
    }

    @Test func dataBesideTheModelIsFound() throws {
        func external(_ location: String, _ offset: String) -> [UInt8] {
            Self.message {
                $0.add(1, UInt64(2))
                $0.add(2, UInt64(1))
                $0.add(8, "w")
                for (key, value) in [("location", location), ("offset", offset)] {
                    $0.add(
                        13,
                        Self.message {
                            $0.add(1, key)
                            $0.add(2, value)
                        })
                }
            }
        }
        func value(_ location: String, _ offset: String) throws -> [Float] {
            try write(Self.model(nodes: [], initializers: [external(location, offset)]), to: folder + "/m.onnx")
            return try WeightFile.open(folder + "/m.onnx").tensor("w").scalars
        }
        try write(
            [0, 0, 0, 0] + littleEndian(Float(1.5).bitPattern) + littleEndian(Float(2).bitPattern), to: folder + "/d")
        #expect(try value("d", "4") == [1.5, 2])
        for (location, offset) in [("../d", "0"), ("d", "8"), ("d", "-4"), ("d", "9223372036854775807"), ("e", "0")] {
            #expect(throws: (any Error).self, "\(location) \(offset)") { try value(location, offset) }
        }
    }

    @Test func damageIsRefusedInOneLine() throws {
        let path = folder + "/cut.onnx"
        for length in 9..<Self.sample.count {
            try write(Array(Self.sample[..<length]), to: path)
            do {
                let file = try WeightFile.open(path)
                for name in file.shapes.keys { _ = try file.tensor(name) }
                Issue.record("\(length) bytes accepted")
            } catch { #expect("\(error)".hasPrefix(path) && !"\(error)".contains("\n")) }
        }
        let huge = Self.tensor("w", [1 << 40, 1 << 40], [])
        try write(Self.model(nodes: [], initializers: [huge]), to: path)
        #expect(throws: FormatError.self) { try WeightFile.open(path) }
        let large = Self.tensor("w", [1 << 30], [1])
        try write(Self.model(nodes: [], initializers: [large]), to: path)
        #expect(throws: FormatError.self) { try WeightFile.open(path).tensor("w") }
    }
}
