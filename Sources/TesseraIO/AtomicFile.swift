/// What was written to a file: enough to tell later whether it is still the same.
public struct FileDigest: Equatable, Sendable {
    public let bytes: Int
    public let crc32c: UInt32
}

/// Files that are either there as a whole or not at all.
///
/// The content goes into a file beside the final name, is flushed to the disk, and takes the final name by a rename; at
/// last the folder is flushed. A crash at any instant leaves the old file or the new one. All methods throw
/// ``SystemError`` and what `body` throws; then the old file stays.
public enum AtomicFile {
    /// Replaces the file at `path` by what `body` writes.
    @discardableResult
    public static func write(
        to path: String, on files: some FileSystem = .system, _ body: (inout FileWriter) throws -> Void
    ) throws -> FileDigest {
        // One fixed name: what a killed process left behind is overwritten by the next one, not collected.
        let partial = path + ".partial"
        let digest: FileDigest
        do {
            digest = try FileWriter.write(to: partial, .create, on: files, body)
            try files.rename(partial, to: path)
        } catch {
            try? files.remove(partial)
            throw error
        }
        try synchronizeFolder(of: path, on: files)
        return digest
    }

    @discardableResult
    public static func write(_ bytes: [UInt8], to path: String, on files: some FileSystem = .system) throws
        -> FileDigest
    {
        try write(to: path, on: files) { try $0.write(bytes) }
    }

    @discardableResult
    public static func write(_ text: String, to path: String, on files: some FileSystem = .system) throws -> FileDigest
    {
        try write(Array(text.utf8), to: path, on: files)
    }

    /// Adds to the end of a file, which is created if need be, and flushes it. A crash can tear the last addition.
    public static func append(_ bytes: [UInt8], to path: String, on files: some FileSystem = .system) throws {
        _ = try FileWriter.write(to: path, .append, on: files) { try $0.write(bytes) }
    }

    /// Makes renames and new names inside the folder of `path` durable.
    static func synchronizeFolder(of path: String, on files: some FileSystem) throws {
        let folder = try files.open(parent(of: path), .folder)
        do { try files.synchronize(folder) } catch {
            try? files.close(folder)
            throw error
        }
        try files.close(folder)
    }
}

/// Collects small writes and keeps the digest of all of them.
public struct FileWriter {
    private let file: OpenFile
    private let files: any FileSystem
    private var buffer: [UInt8] = []
    private var crc = CRC32C()
    private var count = 0

    private static let bufferSize = 1 << 18

    public mutating func write(_ bytes: UnsafeRawBufferPointer) throws {
        count += bytes.count
        crc.update(bytes)
        if buffer.count + bytes.count > FileWriter.bufferSize { try flush() }
        if bytes.count > FileWriter.bufferSize { try writeAll(bytes) } else { buffer.append(contentsOf: bytes) }
    }

    public mutating func write(_ bytes: [UInt8]) throws { try bytes.withUnsafeBytes { try write($0) } }

    private mutating func flush() throws {
        try buffer.withUnsafeBytes { try writeAll($0) }
        buffer.removeAll(keepingCapacity: true)
    }

    private func writeAll(_ bytes: UnsafeRawBufferPointer) throws {
        var rest = bytes[...]
        while !rest.isEmpty { rest = rest.dropFirst(try files.write(UnsafeRawBufferPointer(rebasing: rest), to: file)) }
    }

    static func write(
        to path: String, _ mode: OpenMode, on files: some FileSystem, _ body: (inout FileWriter) throws -> Void
    ) throws -> FileDigest {
        let file = try files.open(path, mode)
        var writer = FileWriter(file: file, files: files)
        do {
            try body(&writer)
            try writer.flush()
            try files.synchronize(file)
        } catch {
            try? files.close(file)
            throw error
        }
        try files.close(file)
        return FileDigest(bytes: writer.count, crc32c: writer.crc.value)
    }

    private init(file: OpenFile, files: any FileSystem) {
        self.file = file
        self.files = files
    }
}

/// The folder that holds `path`.
func parent(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
}
