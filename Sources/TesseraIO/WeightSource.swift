import Foundation
import Tessera

/// Named arrays of weights in a file of any format, read when they are asked for.
public protocol WeightSource: Sendable {
    /// The file, for messages.
    var path: String { get }
    /// The shape of every array, by name.
    var shapes: [String: Shape] { get }

    /// An array as floats.
    /// - Throws: ``FormatError`` if there is none of this name, or float32 cannot hold its values.
    func tensor(_ name: String) throws -> Tensor
}

extension Safetensors: WeightSource {
    public var shapes: [String: Shape] { Dictionary(uniqueKeysWithValues: entries.map { ($0.name, $0.shape) }) }
}

/// Opens files of weights, whatever their format.
public enum WeightFile {
    /// Recognises a file by its content: safetensors, an index of several, a checkpoint of PyTorch (`.pth`, `.pt`,
    /// `.bin`), an ONNX model.
    ///
    /// - Parameter section: which part of a PyTorch checkpoint to take, such as `model_ema`; nil: the usual one
    /// - Throws: ``SystemError``; ``FormatError`` with what is wrong with it.
    public static func open(_ path: String, section: String? = nil) throws -> any WeightSource {
        let file = try MappedFile(path)
        if TorchCheckpoint.begins(file.bytes) { return try TorchCheckpoint(path, file, section: section) }
        if let section {
            throw FormatError(
                file: path, found: "a file without sections", expected: "a PyTorch checkpoint that has \(section)")
        }
        if file.bytes.first == UInt8(ascii: "{") { return try ShardedSafetensors(index: path) }
        if ONNXInitializers.begins(file.bytes) { return try ONNXInitializers(path, file) }
        return try Safetensors(path)
    }
}
