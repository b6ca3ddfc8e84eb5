import Foundation

/// What a command takes as `RUN`: a run folder, or a weight file beside its `config.json`.
public struct ModelFile: Sendable {
    /// The safetensors file.
    public let weights: String
    public let configuration: ModelConfiguration

    /// - Throws: ``SystemError`` if a file is missing, ``FormatError`` if the configuration is not one.
    public static func locate(_ path: String) throws -> ModelFile {
        var isFolder: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
            throw SystemError("open", path, code: ENOENT)
        }
        let folder = isFolder.boolValue ? path : parent(of: path)
        let weights = isFolder.boolValue ? "\(folder)/\(RunFolder.modelName)" : path
        guard FileManager.default.fileExists(atPath: weights) else { throw SystemError("open", weights, code: ENOENT) }
        return ModelFile(
            weights: weights, configuration: try ModelConfiguration("\(folder)/\(RunFolder.configurationName)"))
    }
}
