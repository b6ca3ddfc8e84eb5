import Foundation
import Tessera

/// Everything that a training run needs to go on as if it had never stopped.
public struct Checkpoint<State: Codable & Sendable>: Sendable {
    /// The optimizer steps done.
    public var step: Int
    /// The weights, in the order of the state dictionary.
    public var model: [(String, Tensor)]
    /// The optimizer's moments, averaged weights and the like.
    public var optimizer: [(String, Tensor)]
    /// Counters, random state, best result so far.
    public var state: State

    public init(step: Int, model: [(String, Tensor)], optimizer: [(String, Tensor)], state: State) {
        self.step = step
        self.model = model
        self.optimizer = optimizer
        self.state = state
    }
}

/// The three files of a checkpoint, kept consistent through a crash at any instant.
///
/// `state.json` names the two weight files by size and checksum, so a checkpoint is complete when all that its
/// `state.json` names is there, under whichever *generation* of the name: `.next`, none or `.previous`. A new checkpoint
/// is written with the suffix `.next`, `state.json.next` last: its rename into place is the instant from which the new
/// checkpoint counts. Then each file moves on, the current one to `.previous` and the next one to its place; a crash in
/// between is finished by the next ``settle()``.
struct CheckpointFiles {
    let folder: String
    let files: any FileSystem

    static let model = "last.safetensors"
    static let optimizer = "optimizer.safetensors"
    static let state = "state.json"

    private static let next = ".next"
    private static let generations = [next, "", ".previous"]

    func save<State>(_ checkpoint: Checkpoint<State>) throws {
        // What a crash left half moved is still needed: the new files would take its names.
        try settle()
        let metadata = ["format": "pt", "step": String(checkpoint.step)]
        func write(_ name: String, _ tensors: [(String, Tensor)]) throws -> StateFile.Part {
            let digest = try Safetensors.write(
                tensors, metadata: metadata, to: path(name, CheckpointFiles.next), on: files)
            return StateFile.Part(name: name, digest: digest)
        }
        let parts = [
            try write(CheckpointFiles.model, checkpoint.model),
            try write(CheckpointFiles.optimizer, checkpoint.optimizer),
        ]
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        let state = StateFile(
            step: checkpoint.step, parts: parts, state: try JSON(parsing: try encoder.encode(checkpoint.state)))
        try AtomicFile.write(state.text, to: path(CheckpointFiles.state, CheckpointFiles.next), on: files)
        try settle()
    }

    /// Finishes what a crash interrupted between the completion of a checkpoint and the last of its renames.
    func settle() throws {
        let path = path(CheckpointFiles.state, CheckpointFiles.next)
        guard exists(path), let next = try? StateFile(path), (try? locate(next)) != nil else { return }
        for name in next.parts.map(\.name) + [CheckpointFiles.state] {
            let waiting = self.path(name, CheckpointFiles.next)
            let current = self.path(name, "")
            // Only if a crash did not come between the two renames of this file.
            guard exists(waiting) else { continue }
            if exists(current) { try files.rename(current, to: self.path(name, ".previous")) }
            try files.rename(waiting, to: current)
        }
        try AtomicFile.synchronizeFolder(of: path, on: files)
    }

    /// The newest checkpoint of which every file is whole.
    /// - Throws: the reason why the newest one is not usable, if no older one is.
    func load<State>(
        as type: State.Type, notice: (String) -> Void
    ) throws -> Checkpoint<State>? {
        // A run that is at its end saves nothing more, which would do it.
        try settle()
        var failure: (any Error)?
        for generation in CheckpointFiles.generations {
            let path = path(CheckpointFiles.state, generation)
            guard exists(path) else { continue }
            do {
                let state = try StateFile(path)
                let parts = try locate(state)
                let decoder = JSONDecoder()
                decoder.nonConformingFloatDecodingStrategy = .convertFromString(
                    positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
                let value: State
                do {
                    value = try decoder.decode(type, from: Data(state.state.text().utf8))
                } catch {
                    throw FormatError(
                        file: path, subject: "state", found: "\(error)",
                        expected: "what this version of the program wrote")
                }
                if let failure { notice("\(failure); going on from the checkpoint of step \(state.step)") }
                return Checkpoint(
                    step: state.step, model: try parts[0].tensors(), optimizer: try parts[1].tensors(), state: value)
            } catch {
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
        return nil
    }

    /// Opens the weight files that `state` names, wherever a crash left them.
    private func locate(_ state: StateFile) throws -> [Safetensors] {
        try state.parts.map { part in
            var failure: (any Error)?
            for generation in CheckpointFiles.generations {
                let path = path(part.name, generation)
                guard exists(path) else { continue }
                do {
                    let file = try Safetensors(path)
                    if file.digest == part.digest { return file }
                    failure =
                        failure
                        ?? FormatError(
                            file: path, found: "\(file.digest)",
                            expected: "\(part.digest) as \(CheckpointFiles.state) says")
                } catch {
                    failure = failure ?? error
                }
            }
            throw failure ?? SystemError("open", path(part.name, ""), code: ENOENT)
        }
    }

    private func path(_ name: String, _ generation: String) -> String { "\(folder)/\(name)\(generation)" }

    private func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }
}

extension FileDigest: CustomStringConvertible {
    public var description: String {
        let digits = String(crc32c, radix: 16)
        return "\(bytes) bytes with checksum \(String(repeating: "0", count: 8 - digits.count))\(digits)"
    }
}

/// The content of `state.json`. It carries a checksum of itself: a damaged number in it would otherwise go unnoticed.
private struct StateFile {
    struct Part {
        let name: String
        let digest: FileDigest
    }

    let step: Int
    let parts: [Part]
    let state: JSON

    init(step: Int, parts: [Part], state: JSON) {
        self.step = step
        self.parts = parts
        self.state = state
    }

    var text: String {
        let files = parts.map { part in
            JSON.Member(
                part.name,
                .object([
                    JSON.Member("bytes", JSON(part.digest.bytes)),
                    JSON.Member("crc32c", JSON(Int(part.digest.crc32c))),
                ]))
        }
        let members = [
            JSON.Member("step", JSON(step)), JSON.Member("files", .object(files)), JSON.Member("state", state),
        ]
        let checksum = JSON.Member("crc32c", JSON(Int(StateFile.checksum(members))))
        return JSON.object(members + [checksum]).text(indented: true) + "\n"
    }

    init(_ path: String) throws {
        do {
            let json = try JSON(parsing: MappedFile.contents(of: path))
            let arguments = try Arguments(json, section: "")
            step = try arguments.int("step", in: 0...Int.max)
            state = json["state"] ?? .null
            let files = json["files"] ?? .null
            parts = try [CheckpointFiles.model, CheckpointFiles.optimizer].map { name in
                let part = try Arguments(files[name] ?? .null, section: "files.\(name)")
                return Part(
                    name: name,
                    digest: FileDigest(
                        bytes: try part.int("bytes", in: 0...Int.max),
                        crc32c: UInt32(try part.int("crc32c", in: 0...Int(UInt32.max)))))
            }
            let checksum = try arguments.int("crc32c")
            let members = (json.members ?? []).filter { $0.key != "crc32c" }
            guard checksum == Int(StateFile.checksum(members)) else {
                throw ArgumentError(
                    field: "crc32c", found: "\(checksum)",
                    expected: "\(StateFile.checksum(members)), the checksum of the rest")
            }
        } catch let error as ArgumentError {
            throw FormatError(file: path, subject: error.field, found: error.found, expected: error.expected)
        } catch let error as JSON.SyntaxError {
            throw FormatError(file: path, found: "\(error)", expected: "the state of a checkpoint")
        }
    }

    private static func checksum(_ members: [JSON.Member]) -> UInt32 {
        CRC32C.of(Array(JSON.object(members).text().utf8))
    }
}
