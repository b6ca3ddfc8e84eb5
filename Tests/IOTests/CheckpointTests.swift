import Foundation
import Tessera
import Testing

@testable import TesseraIO

private struct State: Codable, Sendable, Equatable {
    var key: UInt64
    var rate: Double
    var worst: Double
}

@Suite struct CheckpointTests {
    private let folder: String

    init() throws { folder = try temporaryFolder() + "/run" }

    private func checkpoint(_ step: Int) -> Checkpoint<State> {
        Checkpoint(
            step: step, model: [("w", Tensor(repeating: Float(step), [40]))],
            optimizer: [("m.w", Tensor(repeating: Float(-step), [40]))],
            state: State(key: .max - UInt64(step), rate: 0.1 + Double(step) / 3, worst: .infinity))
    }

    /// All parts belong to one step; returns it.
    private func verified(_ loaded: Checkpoint<State>?) throws -> Int {
        let loaded = try #require(loaded)
        let expected = checkpoint(loaded.step)
        #expect(loaded.model[0].1.scalars == expected.model[0].1.scalars)
        #expect(loaded.optimizer[0].1.scalars == expected.optimizer[0].1.scalars)
        #expect(loaded.state == expected.state)
        return loaded.step
    }

    @Test func keepsTheArchitecturesNames() throws {
        let run = try RunFolder.create(at: folder)
        #expect(try run.loadCheckpoint(as: State.self) == nil)
        for step in 1...3 { try run.save(checkpoint(step)) }
        #expect(try verified(run.loadCheckpoint()) == 3)
        let names = try FileManager.default.contentsOfDirectory(atPath: folder)
        let expected = ["last.safetensors", "optimizer.safetensors", "state.json"]
        #expect(names.sorted() == (expected + expected.map { $0 + ".previous" }).sorted())
        #expect(try Safetensors(folder + "/last.safetensors").tensor("w").scalars[0] == 3)
    }

    /// Whatever call fails, once (a full disk) or for good (a kill), the folder holds the old or the new checkpoint.
    @Test(arguments: [(ENOSPC, false), (EROFS, false), (EIO, false), (EIO, true)])
    func everyFailureLeavesACheckpoint(_ code: Int32, _ isDead: Bool) throws {
        var failures = 0
        for failing in 1... {
            let path = "\(folder)-\(failing)"
            let run = try RunFolder.create(at: path)
            try run.save(checkpoint(1))
            try run.save(checkpoint(2))
            let files = FailingFiles(failing: failing, code: code, isDead: isDead)
            let isSaved: Bool
            do {
                try CheckpointFiles(folder: path, files: files).save(checkpoint(3))
                isSaved = true
            } catch let error as SystemError {
                #expect(error.code == code)
                #expect(error.path.hasPrefix(path))
                isSaved = false
            }
            let step = try verified(run.loadCheckpoint())
            #expect(isSaved ? step == 3 : step == 2 || step == 3, "call \(failing)")
            // Whoever looks into the folder now finds it under its own names.
            for name in [CheckpointFiles.model, CheckpointFiles.optimizer, CheckpointFiles.state] {
                #expect(FileManager.default.fileExists(atPath: "\(path)/\(name)"), "call \(failing): \(name)")
            }
            // And the run goes on from there.
            try run.save(checkpoint(step + 1))
            #expect(try verified(run.loadCheckpoint()) == step + 1)
            if files.calls < failing { break }
            failures += 1
        }
        #expect(failures >= 20)
    }

    /// Killed while the next run finishes what the kill before it interrupted.
    @Test func twoKillsInARowLeaveACheckpoint() throws {
        for first in 1...30 {
            for second in stride(from: 1, to: 30, by: 3) {
                let path = "\(folder)-\(first)-\(second)"
                let run = try RunFolder.create(at: path)
                try run.save(checkpoint(1))
                for (step, failing) in [(2, first), (3, second)] {
                    let files = FailingFiles(failing: failing, code: EIO, isDead: true)
                    try? CheckpointFiles(folder: path, files: files).save(checkpoint(step))
                }
                #expect(try (1...3).contains(verified(run.loadCheckpoint())), "\(first), \(second)")
                try FileManager.default.removeItem(atPath: path)
            }
        }
    }

    @Test(arguments: ["last.safetensors", "optimizer.safetensors", "state.json"])
    func damageFallsBackToThePreviousCheckpoint(_ name: String) throws {
        let run = try RunFolder.create(at: folder)
        try run.save(checkpoint(1))
        try run.save(checkpoint(2))
        var bytes = try read(run.file(name))
        // A digit of the state, or a byte of the weights: both still parse.
        let place = try #require(
            name == "state.json" ? bytes.lastIndex(of: UInt8(ascii: "6")) : bytes.indices.last { _ in true })
        bytes[place] ^= 1
        try write(bytes, to: run.file(name))
        var notices: [String] = []
        #expect(try verified(run.loadCheckpoint { notices.append($0) }) == 1)
        #expect(notices.count == 1)
        #expect(notices[0].contains(name) && notices[0].contains("step 1"), "\(notices)")
        for generation in ["", ".previous"] { try write([], to: run.file(name + generation)) }
        #expect { try run.loadCheckpoint(as: State.self) } throws: { "\($0)".contains(name) }
    }

    @Test func refusesAnExistingRun() throws {
        let run = try RunFolder.create(at: folder + "/deep/er")
        #expect(throws: RunFolderError.missing(run.path)) { try RunFolder.open(at: run.path) }
        _ = try RunFolder.create(at: run.path)
        try run.save(checkpoint(1))
        #expect(throws: RunFolderError.exists(run.path)) { try RunFolder.create(at: run.path) }
        try write([1], to: run.file("notes.txt"))
        _ = try RunFolder.create(at: run.path, overwrite: true)
        #expect(try FileManager.default.contentsOfDirectory(atPath: run.path) == ["notes.txt"])
        #expect(throws: RunFolderError.notAFolder(run.file("notes.txt"))) {
            try RunFolder.create(at: run.file("notes.txt"))
        }
    }

    @Test func failedAtomicWriteKeepsTheOldFile() throws {
        _ = try RunFolder.create(at: folder)
        let path = folder + "/text"
        try AtomicFile.write("old", to: path)
        for failing in 1...4 {
            let files = FailingFiles(failing: failing, code: ENOSPC)
            #expect {
                try AtomicFile.write("new", to: path, on: files)
            } throws: { "\($0)".contains("No space left on device") }
            #expect(try read(path) == Array("old".utf8))
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == ["text"])
        }
    }
}
