#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The system calls that change files: the seam where tests make the disk full or the machine stop.
///
/// All methods throw ``SystemError``.
public protocol FileSystem: Sendable {
    func open(_ path: String, _ mode: OpenMode) throws -> OpenFile
    /// Writes some of the bytes, at least one, and returns how many.
    func write(_ bytes: UnsafeRawBufferPointer, to file: OpenFile) throws -> Int
    /// Returns when what was written, or the entries of a folder, would survive a loss of power.
    func synchronize(_ file: OpenFile) throws
    func close(_ file: OpenFile) throws
    func rename(_ path: String, to destination: String) throws
    func remove(_ path: String) throws
    func createFolder(_ path: String) throws
}

public enum OpenMode: Sendable {
    /// A new or emptied file, for writing.
    case create
    /// Writing at the end of a file, which is created if need be.
    case append
    /// A folder, to be synchronized.
    case folder
}

/// A file descriptor with the path it was opened by.
public struct OpenFile: Sendable {
    public let descriptor: Int32
    public let path: String
}

extension FileSystem where Self == SystemFiles {
    /// The files of this machine.
    public static var system: SystemFiles { SystemFiles() }
}

/// The files of this machine, through POSIX calls.
public struct SystemFiles: FileSystem {
    public init() {}

    public func open(_ path: String, _ mode: OpenMode) throws -> OpenFile {
        let flags =
            switch mode {
            case .create: O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC
            case .append: O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC
            case .folder: O_RDONLY | O_DIRECTORY | O_CLOEXEC
            }
        let descriptor = systemCall("open") { Int(systemOpen(path, flags, 0o644)) }
        return OpenFile(descriptor: Int32(try descriptor.check(path)), path: path)
    }

    public func write(_ bytes: UnsafeRawBufferPointer, to file: OpenFile) throws -> Int {
        try systemCall("write") { systemWrite(file.descriptor, bytes.baseAddress, bytes.count) }.check(file.path)
    }

    public func synchronize(_ file: OpenFile) throws {
        _ = try systemCall("flush") { Int(fsync(file.descriptor)) }.check(file.path)
    }

    public func close(_ file: OpenFile) throws {
        // Not repeated after EINTR: Linux has released the descriptor, which may be another file's by now.
        if systemClose(file.descriptor) != 0, errno != EINTR { throw SystemError("close", file.path, code: errno) }
    }

    public func rename(_ path: String, to destination: String) throws {
        _ = try systemCall("put in place") { Int(systemRename(path, destination)) }.check(destination)
    }

    public func remove(_ path: String) throws {
        _ = try systemCall("remove") { Int(unlink(path)) }.check(path)
    }

    public func createFolder(_ path: String) throws {
        _ = try systemCall("create the folder") { Int(mkdir(path, 0o755)) }.check(path)
    }
}

/// What a system call returned, with the `errno` of a failure.
private struct SystemResult {
    let action: String
    let value: Int
    let code: Int32

    func check(_ path: String) throws(SystemError) -> Int {
        guard value >= 0 else { throw SystemError(action, path, code: code) }
        return value
    }
}

/// Makes the call again while a signal interrupts it.
private func systemCall(_ action: String, _ call: () -> Int) -> SystemResult {
    while true {
        let value = call()
        if value >= 0 || errno != EINTR { return SystemResult(action: action, value: value, code: errno) }
    }
}

// The C functions under names that the methods of `SystemFiles` do not hide.

private func systemOpen(_ path: String, _ flags: Int32, _ mode: mode_t) -> Int32 { open(path, flags, mode) }

private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    write(descriptor, bytes, count)
}

private func systemClose(_ descriptor: Int32) -> Int32 { close(descriptor) }

private func systemRename(_ path: String, _ destination: String) -> Int32 { rename(path, destination) }
