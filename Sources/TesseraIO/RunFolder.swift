import Foundation
import Tessera

/// The folder that a training run writes and every other command reads.
///
/// | file | what |
/// | --- | --- |
/// | `config.json` | architecture, arguments, classes, preprocessing |
/// | `model.safetensors` | the best weights |
/// | `last.safetensors`, `optimizer.safetensors`, `state.json` | the last checkpoint, to resume bit for bit |
/// | `metrics.csv` | a row of results an epoch |
/// | `events.out.tfevents.*` | the same for TensorBoard |
/// | `quantization.json` | of a quantized run: what was measured before and after |
/// | `report.html` | curves, confusion matrix, attention maps |
///
/// Every file is replaced atomically; a crash at any instant leaves a folder that resumes.
public struct RunFolder: Sendable {
    public let path: String
    private let files: any FileSystem

    public static let configurationName = "config.json"
    public static let modelName = "model.safetensors"
    /// A model that is an ONNX graph, instead of weights.
    public static let graphName = "model.onnx"

    private static let eventsPrefix = "events.out.tfevents."

    /// A new folder, with the folders above it.
    /// - Parameter overwrite: whether a run that is already there may be deleted. Files of others stay.
    /// - Throws: ``RunFolderError`` if there is a run, ``SystemError`` if the folder cannot be made.
    public static func create(
        at path: String, overwrite: Bool = false, on files: some FileSystem = .system
    ) throws -> RunFolder {
        let run = RunFolder(path: path, files: files)
        if !FileManager.default.fileExists(atPath: path) { try makeFolder(path, on: files) }
        let existing = try run.ownFiles()
        guard existing.isEmpty || overwrite else { throw RunFolderError.exists(path) }
        for name in existing { try files.remove(run.file(name)) }
        return run
    }

    /// A folder that holds a run.
    /// - Throws: ``RunFolderError`` if there is none.
    public static func open(at path: String, on files: some FileSystem = .system) throws -> RunFolder {
        let run = RunFolder(path: path, files: files)
        guard FileManager.default.fileExists(atPath: run.file(configurationName)) else {
            throw RunFolderError.missing(path)
        }
        return run
    }

    /// The path of a file in the folder.
    public func file(_ name: String) -> String { "\(path)/\(name)" }

    public func write(_ configuration: ModelConfiguration) throws {
        try AtomicFile.write(
            configuration.json.text(indented: true) + "\n", to: file(RunFolder.configurationName), on: files)
    }

    public func configuration() throws -> ModelConfiguration {
        try ModelConfiguration(file(RunFolder.configurationName))
    }

    /// Replaces `model.safetensors`.
    /// - Parameter bytes: weights in codes
    public func saveBest(
        _ model: [(String, Tensor)], bytes: [(name: String, shape: Shape, content: [UInt8])] = [],
        metadata: [String: String] = [:]
    ) throws {
        let notes = metadata.merging(["format": "pt"]) { own, _ in own }
        try Safetensors.write(model, bytes: bytes, metadata: notes, to: file(RunFolder.modelName), on: files)
    }

    public func best() throws -> Safetensors { try Safetensors(file(RunFolder.modelName)) }

    /// Replaces the checkpoint. When it throws, the one before is still whole.
    public func save<State>(_ checkpoint: Checkpoint<State>) throws { try checkpoints.save(checkpoint) }

    /// The newest checkpoint of which every file is whole, nil if there was never one.
    ///
    /// The tensors may lie in the mapped files, which are never written.
    /// - Parameter notice: is told when the newest one is damaged and an older one is used.
    /// - Throws: ``FormatError`` or ``SystemError`` if there is only damage.
    public func loadCheckpoint<State>(
        as type: State.Type = State.self, notice: (String) -> Void = { _ in }
    ) throws -> Checkpoint<State>? { try checkpoints.load(as: type, notice: notice) }

    /// The table of results.
    public func metrics(columns: [String]) throws -> MetricsLog {
        try MetricsLog(file("metrics.csv"), columns: columns, on: files)
    }

    /// The event file for TensorBoard: the one there, cut after `step`, or a new one.
    public func events(resumingAfter step: Int? = nil) throws -> TensorBoardWriter {
        if let name = try ownFiles().filter({ $0.hasPrefix(RunFolder.eventsPrefix) }).max(), let step {
            return try TensorBoardWriter(resuming: file(name), after: step, on: files)
        }
        let host = ProcessInfo.processInfo.hostName
        let name = "\(RunFolder.eventsPrefix)\(Int(Date().timeIntervalSince1970)).\(host).\(getpid()).0"
        return try TensorBoardWriter(file(name), on: files)
    }

    /// Replaces `quantization.json`.
    public func writeQuantization(_ results: JSON) throws {
        try AtomicFile.write(results.text(indented: true) + "\n", to: file("quantization.json"), on: files)
    }

    public func write(_ report: Report) throws {
        try AtomicFile.write(report.page, to: file("report.html"), on: files)
    }

    private var checkpoints: CheckpointFiles { CheckpointFiles(folder: path, files: files) }

    /// The names in the folder that this type writes.
    private func ownFiles() throws -> [String] {
        let names: [String]
        do { names = try FileManager.default.contentsOfDirectory(atPath: path) } catch {
            throw RunFolderError.notAFolder(path)
        }
        let own = [
            RunFolder.configurationName, RunFolder.modelName, CheckpointFiles.model, CheckpointFiles.optimizer,
            CheckpointFiles.state, RunFolder.graphName, "metrics.csv", "report.html", "quantization.json",
        ]
        return names.filter { name in
            name.hasPrefix(RunFolder.eventsPrefix)
                || own.contains { name == $0 || name.hasPrefix($0 + ".") }
        }.sorted()
    }

    private static func makeFolder(_ path: String, on files: some FileSystem) throws {
        let above = parent(of: path)
        if !FileManager.default.fileExists(atPath: above) { try makeFolder(above, on: files) }
        try files.createFolder(path)
    }
}

/// The folder is not what was asked for.
public enum RunFolderError: Error, Equatable, CustomStringConvertible {
    case exists(String)
    case missing(String)
    case notAFolder(String)

    public var description: String {
        switch self {
        case .exists(let path): "\(path): already holds a run: go on with --resume, or start anew with --overwrite"
        case .missing(let path): "\(path): expected a run folder, found no \(RunFolder.configurationName) in it"
        case .notAFolder(let path): "\(path): expected a folder, found a file or one that cannot be read"
        }
    }
}
