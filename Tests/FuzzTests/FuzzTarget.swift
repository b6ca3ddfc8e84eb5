import Foundation
import Tessera
import TesseraONNX

@testable import TesseraData
@testable import TesseraIO
@testable import TesseraInterchange
@testable import TesseraTraining

/// A format: good files, and the code that reads one.
struct FuzzTarget: Sendable {
    let name: String
    var defaultExecutions = 200
    var words: [String] = []
    /// Good files; the folder is empty and stays until the end.
    let corpus: @Sendable (_ folder: String) throws -> [[UInt8]]
    let read: @Sendable (_ bytes: [UInt8], _ folder: String) throws -> Void

    static let all = [
        json, configuration, safetensors, torch, torchOld, onnx, onnxGraph, published, checkpoint, events, metrics, idx,
        cifar, tar, jpeg, png, webp,
    ]

    private static let punctuation = ["{", "}", "[", "]", ":", ",", "\"", "\\u0000", "null", "true", "1e999", "-"]

    /// A folder of `Tests`. (This file is a link in another package.)
    static func fixtures(_ folder: String) -> String {
        URL(fileURLWithPath: #filePath).resolvingSymlinksInPath().deletingLastPathComponent()
            .appendingPathComponent("../\(folder)").standardizedFileURL.path
    }

    /// Throws a ``Finding`` unless what was understood is as it must be.
    private static func demand(_ holds: Bool, line: Int = #line) throws {
        guard holds else { throw Finding(line: line) }
    }

    /// Something wrong that no error told: not a refusal of the file.
    struct Finding: Error { let line: Int }

    /// Reads through a file of its own.
    private static func writing(
        _ name: String, _ body: @escaping @Sendable (String) throws -> Void
    ) -> @Sendable ([UInt8], String) throws -> Void {
        { bytes, folder in
            let path = "\(folder)/\(name)"
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            try body(path)
        }
    }

    // MARK: TesseraIO

    static let json = FuzzTarget(
        name: "json", defaultExecutions: 1000, words: punctuation,
        corpus: { _ in
            [Array(#"{"a": [1, -2.5e3, "b\n\u00e9\ud83d\ude00"], "c": {"d": null, "e": true}, "f": []}"#.utf8)]
        },
        read: { bytes, _ in
            let value = try JSON(parsing: bytes)
            // What was understood can be written and understood again.
            try demand(try JSON(parsing: value.text(indented: true)) == value)
        })

    private static func sampleConfiguration() -> ModelConfiguration {
        ModelConfiguration(
            architecture: "cct_2_3x2_32", classCount: 3, modelArguments: try? JSON(parsing: #"{"num_layers": 1}"#),
            preprocessing: .init(
                inputSize: [1, 12, 12], interpolation: .bicubic, cropFraction: 0.9, mean: [0.5], deviation: [0.25]),
            labels: ["a", "b", "c"])
    }

    static let configuration = FuzzTarget(
        name: "configuration", words: punctuation,
        corpus: { _ in [Array(sampleConfiguration().json.text(indented: true).utf8)] },
        read: writing("config.json") { path in _ = try ModelConfiguration(path).buildModel() })

    static let safetensors = FuzzTarget(
        name: "safetensors", words: punctuation + ["BF16", "F16", "I64", "shape"],
        corpus: { folder in
            let path = "\(folder)/good"
            try Safetensors.write(
                [("a", Tensor([1, 2, 3, 4, 5, 6], [2, 3])), ("b", Tensor([7], []))], metadata: ["k": "v"], to: path)
            return [try MappedFile.contents(of: path)]
        },
        read: writing("file.safetensors") { path in
            for (_, tensor) in try Safetensors(path).tensors() { _ = tensor.scalars.reduce(0, +) }
        })

    /// Checkpoints of PyTorch, read to the last element.
    private static func torch(_ name: String, _ files: [String]) -> FuzzTarget {
        let folder = fixtures("IOTests/Fixtures/pytorch")
        return FuzzTarget(
            name: name, defaultExecutions: 500,
            words: [
                "cos\nsystem\n", "ctorch._utils\n_rebuild_tensor_v2\n", "R", "b", "Q", "(", "t.", "]a", "PK\u{1}\u{2}",
            ],
            corpus: { _ in try files.map { try MappedFile.contents(of: "\(folder)/\($0)") } },
            read: writing("file.pth") { path in
                let file = try WeightFile.open(path)
                for name in file.shapes.keys.sorted() { _ = try file.tensor(name).scalars.reduce(0, +) }
            })
    }

    static let torch = torch("torch", ["all.pth", "all_protocol4.pth", "ema.pth", "teacher_student.pth"])
    static let torchOld = torch("torch-old", ["all_old.pth"])

    static let onnx = FuzzTarget(
        name: "onnx", defaultExecutions: 1000,
        corpus: { _ in
            func message(_ fields: [(Int, [UInt8])]) -> [UInt8] {
                var writer = ProtobufWriter()
                writer.add(1, UInt64(2))
                for (number, bytes) in fields { writer.add(number, bytes) }
                return writer.bytes
            }
            let node = message([(2, Array("y".utf8)), (3, Array("/a/MatMul".utf8)), (4, Array("MatMul".utf8))])
            let tensor = message([(8, Array("w".utf8)), (9, [0, 0, 128, 63, 0, 0, 0, 64])]) + [0x10, 1]
            return [message([(7, message([(1, node), (5, tensor)]))])]
        },
        read: writing("file.onnx") { path in
            let file = try ONNXInitializers(path)
            for name in file.shapes.keys.sorted() { _ = try file.tensor(name).scalars.reduce(0, +) }
        })

    /// A whole graph, which is also run, on shapes.
    static let onnxGraph = FuzzTarget(
        name: "onnx-graph", defaultExecutions: 500, words: ["Reshape", "Slice", "Conv", "MatMul", "Expand", "axis"],
        corpus: { folder in
            let ramp = { (shape: Shape) in Tensor((0..<shape.count).map { Float($0 % 7) - 3 }, shape) }
            let model = try ONNXExporter.export(image: [1, 8, 8, 3], outputs: ["y"]) { image in
                let map = convolution(image, weight: ramp([4, 3, 3, 3]), bias: ramp([4]), padding: Padding(1))
                    .gelu().maxPool(kernel: 3, stride: 2, padding: 1)
                    .resized(height: 8, width: 8, interpolation: .bilinear)
                let tokens = map.averagePool(kernel: 2, stride: 2).reshaped([image.shape[0], 16, 4])
                let all = concatenate([ramp([1, 1, 4]).broadcast(to: [image.shape[0], 1, 4]), tokens], axis: 1)
                let normed = layerNorm(all, weight: ramp([4]), bias: ramp([4]), epsilon: 1e-5)
                let mixed = attention(packed: linear(normed, weight: ramp([12, 4]), bias: nil), heads: 2)
                return [linear(mixed.sliced(axis: 1, from: 0, to: 1).mean(axes: [1]), weight: ramp([5, 4]), bias: nil)]
            }
            let path = folder + "/graph.onnx"
            try model.write(to: path)
            defer { try? FileManager.default.removeItem(atPath: path) }
            return [[UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))]
        },
        read: writing("graph.onnx") { path in _ = try ONNXFunction(path)(Tensor(abstract: [2, 8, 8, 3])) })

    /// `preprocessor_config.json` of transformers.
    static let published = FuzzTarget(
        name: "published", words: punctuation + ["shortest_edge", "crop_pct"],
        corpus: { _ in
            [
                Array(
                    #"{"size": {"shortest_edge": 256}, "crop_size": 224, "resample": 3, "image_mean": [0, 0, 0], "#.utf8
                )
                    + Array(#""image_std": [1, 1, 1], "do_normalize": true, "do_center_crop": true}"#.utf8)
            ]
        },
        read: { bytes, _ in
            _ = try TransformersConfiguration.preprocessing(JSON(parsing: bytes), channels: 3)
        })

    /// `state.json` of a run, in a folder that holds the rest of it.
    static let checkpoint = FuzzTarget(
        name: "checkpoint", words: punctuation,
        corpus: { folder in
            let run = try RunFolder.create(at: folder + "/run")
            try run.write(sampleConfiguration())
            try run.save(
                Checkpoint(
                    step: 3, model: [("w", Tensor([1, 2], [2]))], optimizer: [("m", Tensor([3, 4], [2]))],
                    state: TrainingState()))
            return [try MappedFile.contents(of: folder + "/run/state.json")]
        },
        read: { bytes, folder in
            try Data(bytes).write(to: URL(fileURLWithPath: folder + "/run/state.json"))
            _ = try RunFolder.open(at: folder + "/run").loadCheckpoint(as: TrainingState.self)
        })

    static let events = FuzzTarget(
        name: "events",
        corpus: { folder in
            let writer = try TensorBoardWriter(folder + "/good")
            for step in 0..<4 { try writer.scalars([("loss", 0.5), ("accuracy", 0.25)], step: step) }
            return [try MappedFile.contents(of: folder + "/good")]
        },
        read: writing("events") { path in _ = try TensorBoardWriter(resuming: path, after: 2) })

    static let metrics = FuzzTarget(
        name: "metrics", words: [",", "\n", "\r\n", "\""],
        corpus: { _ in [Array("step,loss\n1,0.5\n2,0.25\n3,0.125\n".utf8)] },
        read: writing("metrics.csv") { path in
            let log = try MetricsLog(path, columns: ["step", "loss"])
            try log.truncate(after: 2)
            _ = try log.rows()
        })

    // MARK: TesseraData

    private static let packed = """
        H4sIAAAAAAACAw3DAQqEIBAAwE0vSpJkQUq2hKMUTswwDKr/f+xiGICWA8DnLd71u2K8bkTXozbz14W9PFyowbrthBZpTVetyGeQxh1M2fh0FG45\
        b4BLEVPiQwD9Ax3YmBpbeg8mS1dRwShWZm9z6oy7Sq8dsz7NbdkqIhaqnMwGfF9sk0YWNPw0hIGnSZQFYZvlHah7olXscEZC9qTqK62Ef+bF6M7EAAAA
        """

    static let idx = FuzzTarget(
        name: "idx", defaultExecutions: 1000,
        corpus: { _ in
            let packed = Array(Data(base64Encoded: packed)!)
            let file = try IDXFile(decoding: packed, name: "good")
            return [packed, [0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 5] + file.values]
        },
        read: { bytes, _ in
            let file = try IDXFile(decoding: bytes, name: "file.idx")
            try demand(file.values.count == file.dimensions.reduce(1, *))
        })

    static let cifar = FuzzTarget(
        name: "cifar",
        corpus: { _ in [(0..<2 * 3073).map { UInt8($0 % 3073 % 10) }] },
        read: writing("data_batch_1.bin") { path in
            let data = try CIFAR.ten.read([path])
            for index in 0..<data.count { _ = data.image(at: index) }
        })

    static let tar = FuzzTarget(
        name: "tar", words: ["ustar", "../", "00000000011", "17 path=0.png\n"],
        corpus: { folder in
            let script = """
                cd '\(folder)' && mkdir -p d && echo 1 > d/0.cls && cp '\(images)/grey1.png' d/0.png
                n=d/$(printf 'x%.0s' $(seq 120)); cp d/0.cls $n.cls; cp d/0.png $n.png
                tar --sort=name --format=gnu -cf gnu.tar d; tar --sort=name --format=pax -cf pax.tar d
                """
            try demand(system(script) == 0)
            return try ["gnu", "pax"].map { try Files.read("\(folder)/\($0).tar") }
        },
        read: writing("file.tar") { path in
            let data = try WebDataset([path], pixelLimit: 1 << 20)
            for index in 0..<min(4, data.count) { _ = try data.image(at: index) }
        })

    private static let images = fixtures("DataTests/Fixtures/images")

    private static func image(_ kind: String) -> FuzzTarget {
        FuzzTarget(
            name: kind,
            corpus: { _ in
                try Files.list(images).filter { $0.hasSuffix(kind) }.map { try Files.read("\(images)/\($0)") }
            },
            read: { bytes, _ in
                let image = try Image(decoding: bytes, name: "file", pixelLimit: 1 << 20)
                try demand(image.height * image.width <= 1 << 20)
                try demand(image.pixels.count == image.height * image.width * image.channels)
            })
    }

    static let jpeg = image("jpg")
    static let png = image("png")
    static let webp = image("webp")
}
