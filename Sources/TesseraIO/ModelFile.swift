import Foundation

/// What a command takes as `RUN`: a run folder, or a weight file beside its `config.json`.
public struct ModelFile: Sendable {
    /// The safetensors file, or the ONNX graph of a model that is one.
    public let weights: String
    public let configuration: ModelConfiguration

    /// - Throws: ``SystemError`` if a file is missing, ``FormatError`` if the configuration is not one.
    public static func locate(_ path: String) throws -> ModelFile {
        var isFolder: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
            throw SystemError("open", path, code: ENOENT)
        }
        let folder = isFolder.boolValue ? path : parent(of: path)
        var weights = isFolder.boolValue ? "\(folder)/\(RunFolder.modelName)" : path
        let graph = "\(folder)/\(RunFolder.graphName)"
        if isFolder.boolValue, !FileManager.default.fileExists(atPath: weights),
            FileManager.default.fileExists(atPath: graph)
        {
            weights = graph
        }
        guard FileManager.default.fileExists(atPath: weights) else { throw SystemError("open", weights, code: ENOENT) }
        return ModelFile(
            weights: weights, configuration: try ModelConfiguration("\(folder)/\(RunFolder.configurationName)"))
    }
}
