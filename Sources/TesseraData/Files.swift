import CCodecs
import Foundation

/// Reading from the file system with errors of one line.
enum Files {
    /// The whole content of a regular file.
    static func read(_ path: String) throws -> [UInt8] {
        let handle = try open(path)
        defer { fclose(handle) }
        let size = try size(of: path)
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            count = fread(buffer.baseAddress, 1, size, handle)
        }
        guard bytes.count == size else { throw DataError(path, "only \(bytes.count) of \(size) bytes could be read") }
        return bytes
    }

    /// `count` bytes from `offset`.
    static func read(_ path: String, at offset: Int, count: Int) throws -> [UInt8] {
        let handle = try open(path)
        defer { fclose(handle) }
        return try read(handle, name: path, at: offset, count: count)
    }

    /// `count` bytes from `offset` of an open file; `name` is for errors.
    static func read(_ handle: Handle, name: String, at offset: Int, count: Int) throws -> [UInt8] {
        guard count >= 0, fseek(handle, offset, SEEK_SET) == 0 else {
            throw DataError(name, "no byte \(offset) in the file")
        }
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, read in
            read = fread(buffer.baseAddress, 1, count, handle)
        }
        guard bytes.count == count else {
            throw DataError(name, "truncated: \(bytes.count) of \(count) bytes at \(offset)")
        }
        return bytes
    }

    typealias Handle = UnsafeMutablePointer<FILE>

    static func close(_ handle: Handle) { fclose(handle) }

    static func open(_ path: String) throws -> Handle {
        guard let handle = fopen(path, "rbe") else { throw DataError(path, String(cString: strerror(errno))) }
        return handle
    }

    /// The size of a regular file: devices, pipes and folders are refused, they have no end to wait for.
    static func size(of path: String) throws -> Int {
        var info = stat()
        guard stat(path, &info) == 0 else { throw DataError(path, String(cString: strerror(errno))) }
        guard info.st_mode & S_IFMT == S_IFREG else { throw DataError(path, "not a regular file") }
        return Int(info.st_size)
    }

    static func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }

    static func isFolder(_ path: String) -> Bool {
        var folder: ObjCBool = false
        return FileManager.default.fileExists(atPath: path, isDirectory: &folder) && folder.boolValue
    }

    /// The names in a folder, hidden ones left out, sorted by Unicode scalars as Python sorts them.
    static func list(_ folder: String) throws -> [String] {
        do {
            return try FileManager.default.contentsOfDirectory(atPath: folder)
                .filter { !$0.hasPrefix(".") }
                .sorted { $0.unicodeScalars.lexicographicallyPrecedes($1.unicodeScalars) }
        } catch {
            throw DataError(folder, "cannot be listed: \(reason(error))")
        }
    }

    static func join(_ folder: String, _ name: String) -> String {
        folder.hasSuffix("/") ? folder + name : folder + "/" + name
    }

    static func base(_ path: String) -> String { URL(fileURLWithPath: path).lastPathComponent }

    static func folder(_ path: String) -> String { URL(fileURLWithPath: path).deletingLastPathComponent().path }

    static func fileExtension(_ name: String) -> String {
        name.lastIndex(of: ".").map { name[name.index(after: $0)...].lowercased() } ?? ""
    }

    /// The cause that Foundation wraps, in the system's words.
    static func reason(_ error: any Error) -> String {
        let cocoa = error as NSError
        if let cause = cocoa.userInfo[NSUnderlyingErrorKey] as? NSError, cause.domain == NSPOSIXErrorDomain {
            return String(cString: strerror(Int32(cause.code)))
        }
        return cocoa.localizedDescription
    }
}
