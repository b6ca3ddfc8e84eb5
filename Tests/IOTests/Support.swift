import Foundation
import Tessera

@testable import TesseraIO

/// Where the folders of this process's tests lie; removed when it ends.
private let temporaryFolders: String = {
    atexit { try? FileManager.default.removeItem(atPath: temporaryFolders) }
    return NSTemporaryDirectory() + "tessera-" + UUID().uuidString
}()

/// A new folder for one test.
func temporaryFolder() throws -> String {
    let path = temporaryFolders + "/" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    return path
}

func write(_ bytes: [UInt8], to path: String) throws { try Data(bytes).write(to: URL(fileURLWithPath: path)) }

func read(_ path: String) throws -> [UInt8] { Array(try Data(contentsOf: URL(fileURLWithPath: path))) }

/// A small generator with a fixed seed (Marsaglia's xorshift, 2003).
struct Xorshift {
    var state: UInt64 = 0x9E37_79B9_7F4A_7C15

    mutating func next(_ bound: Int) -> Int {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return Int(state % UInt64(bound))
    }
}

/// Real files of which one call, or every call from one on, fails.
final class FailingFiles: FileSystem, @unchecked Sendable {
    private let failing: Int
    private let code: Int32
    private let isDead: Bool
    private(set) var calls = 0
    private let system = SystemFiles()

    /// - Parameter isDead: whether nothing works any more after the failure, as when the process is killed there.
    init(failing: Int, code: Int32, isDead: Bool = false) {
        self.failing = failing
        self.code = code
        self.isDead = isDead
    }

    private func step(_ path: String) throws {
        calls += 1
        if calls == failing || (isDead && calls > failing) { throw SystemError("touch", path, code: code) }
    }

    func open(_ path: String, _ mode: OpenMode) throws -> OpenFile {
        try step(path)
        return try system.open(path, mode)
    }

    func write(_ bytes: UnsafeRawBufferPointer, to file: OpenFile) throws -> Int {
        do { try step(file.path) } catch {
            // A full disk or a kill often leaves a part of what was to be written.
            _ = try system.write(UnsafeRawBufferPointer(rebasing: bytes.prefix(bytes.count / 2)), to: file)
            throw error
        }
        return try system.write(bytes, to: file)
    }

    func synchronize(_ file: OpenFile) throws {
        try step(file.path)
        try system.synchronize(file)
    }

    func close(_ file: OpenFile) throws {
        try system.close(file)
        try step(file.path)
    }

    func rename(_ path: String, to destination: String) throws {
        try step(path)
        try system.rename(path, to: destination)
    }

    func remove(_ path: String) throws {
        try step(path)
        try system.remove(path)
    }

    func createFolder(_ path: String) throws {
        try step(path)
        try system.createFolder(path)
    }
}
