import Foundation
import Tessera
import TesseraIO

/// A published model as it lies on the disk: its weights, and beside them what its publisher says of it.
struct PublishedFiles {
    let weights: any WeightSource
    /// `config.json`, of timm or of Hugging Face's transformers.
    let configuration: JSON?
    /// `preprocessor_config.json` of transformers.
    let preprocessor: JSON?
    let configurationPath: String
    let preprocessorPath: String

    private static let weightNames = [
        "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
        "model.onnx",
    ]
    private static let maximumSize = 64 << 20

    /// - Parameters:
    ///   - path: a file of weights, or a folder that has one under a usual name
    ///   - section: which part of a PyTorch checkpoint to take; nil: the usual one
    /// - Throws: `SystemError`; `FormatError` with the file and what is wrong with it.
    init(_ path: String, section: String?) throws {
        var isFolder: ObjCBool = false
        let exists = FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
        let folder = exists && isFolder.boolValue ? path : URL(fileURLWithPath: path).deletingLastPathComponent().path
        var file = path
        if exists, isFolder.boolValue {
            let names = PublishedFiles.weightNames.filter { FileManager.default.fileExists(atPath: "\(path)/\($0)") }
            guard let name = names.first else {
                throw FormatError(
                    file: path, found: "a folder without weights",
                    expected: "one of \(PublishedFiles.weightNames.joined(separator: ", "))")
            }
            file = "\(path)/\(name)"
        }
        weights = try WeightFile.open(file, section: section)
        (configurationPath, preprocessorPath) = ("\(folder)/config.json", "\(folder)/preprocessor_config.json")
        configuration = try PublishedFiles.json(configurationPath)
        preprocessor = try PublishedFiles.json(preprocessorPath)
    }

    /// Whether the configuration is one of timm's (or of this package, which writes the same).
    var isTimm: Bool { configuration?["pretrained_cfg"] != nil && configuration?["architecture"] != nil }

    /// What kind of model transformers takes it for.
    var modelType: String? { isTimm ? nil : configuration?["model_type"]?.string }

    private static func json(_ path: String) throws -> JSON? {
        guard FileManager.default.fileExists(atPath: path) else { return nil }
        guard let data = FileManager.default.contents(atPath: path), data.count <= maximumSize else {
            throw FormatError(file: path, found: "a file that is too large", expected: "at most \(maximumSize) bytes")
        }
        do { return try JSON(parsing: data) } catch {
            throw FormatError(file: path, found: "\(error)", expected: "a model's configuration")
        }
    }
}
