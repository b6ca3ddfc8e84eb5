#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif
import Tessera

/// The bytes of a file, mapped into memory: only what is used is read from the disk.
///
/// The size is taken when the file is opened. Files that this package replaces get a new inode, so a mapping of the old
/// content stays whole; a file that someone cuts short in place while it is mapped stops the program. Small files are
/// copied instead, which also frees them from that.
final class MappedFile: DiscardableMemory, @unchecked Sendable {
    let bytes: UnsafeRawBufferPointer
    private let isMapped: Bool

    private static let smallest = 1 << 16

    /// - Throws: ``SystemError``.
    init(_ path: String) throws {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw SystemError("open", path, code: errno) }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw SystemError("read", path, code: errno) }
        guard status.st_mode & S_IFMT != S_IFDIR else { throw SystemError("read", path, code: EISDIR) }
        let size = Int(status.st_size)
        if status.st_mode & S_IFMT == S_IFREG, size >= MappedFile.smallest {
            guard let address = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0), address != MAP_FAILED else {
                throw SystemError("map", path, code: errno)
            }
            bytes = UnsafeRawBufferPointer(start: address, count: size)
            isMapped = true
            return
        }
        // Aligned like a page would be, so that tensors inside can be borrowed all the same.
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: max(size, 1), alignment: 64)
        var count = 0
        while count < size {
            let step = read(descriptor, copy.baseAddress! + count, size - count)
            if step < 0, errno == EINTR { continue }
            guard step >= 0 else {
                let code = errno
                copy.deallocate()
                throw SystemError("read", path, code: code)
            }
            if step == 0 { break }
            count += step
        }
        bytes = UnsafeRawBufferPointer(start: copy.baseAddress, count: count)
        isMapped = false
    }

    /// A copy of all the bytes of a file.
    static func contents(of path: String) throws -> [UInt8] {
        let file = try MappedFile(path)
        return withExtendedLifetime(file) { Array(file.bytes) }
    }

    /// Gives the whole pages among some bytes back: they stay in the page cache, and are mapped again when they are read.
    func discard(_ bytes: UnsafeRawBufferPointer) {
        guard isMapped, let base = bytes.baseAddress else { return }
        let page = Int(getpagesize())
        let first = (Int(bitPattern: base) + page - 1) / page * page
        let end = (Int(bitPattern: base) + bytes.count) / page * page
        if first < end { madvise(UnsafeMutableRawPointer(bitPattern: first), end - first, Int32(MADV_DONTNEED)) }
    }

    deinit {
        if isMapped {
            munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
        } else {
            bytes.deallocate()
        }
    }
}
