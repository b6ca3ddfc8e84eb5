/// The files in a zip archive that are stored as they are, which is how PyTorch writes its checkpoints.
///
/// PKWARE's APPNOTE 6.3, with the 64-bit extension. The central directory at the end of the archive decides: what local
/// headers and data descriptors say of sizes is not needed.
struct ZipArchive {
    /// The place of each file's content, by name.
    let files: [String: Range<Int>]

    private static let endSignature: UInt32 = 0x0605_4B50
    private static let wideEndSignature: UInt32 = 0x0606_4B50
    private static let wideLocatorSignature: UInt32 = 0x0706_4B50
    private static let entrySignature: UInt32 = 0x0201_4B50
    private static let localSignature: UInt32 = 0x0403_4B50

    /// Whether the bytes begin like an archive.
    static func begins(_ bytes: UnsafeRawBufferPointer) -> Bool {
        bytes.count >= 4 && UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)) == localSignature
    }

    /// - Throws: ``FormatError`` if a structure is damaged, a file is compressed, or two have one name.
    init(path: String, bytes: UnsafeRawBufferPointer) throws {
        let directory = try ZipArchive.directory(path, bytes)
        var cursor = ByteCursor(file: path, bytes: bytes, in: directory)
        var files: [String: Range<Int>] = [:]
        while cursor.count > 0 {
            let entry = try Entry(&cursor)
            // A name that ends so is a folder.
            if entry.name.hasSuffix("/") { continue }
            guard entry.method == 0, entry.flags & 1 == 0 else {
                throw FormatError(
                    file: path, subject: entry.name, found: entry.flags & 1 == 0 ? "compression" : "encryption",
                    expected: "a file that is stored as it is")
            }
            guard files.updateValue(try entry.content(path, bytes), forKey: entry.name) == nil else {
                throw FormatError(file: path, subject: entry.name, found: "a second file", expected: "one of a name")
            }
        }
        self.files = files
    }

    /// Finds the central directory from the record at the archive's end.
    private static func directory(_ path: String, _ bytes: UnsafeRawBufferPointer) throws -> Range<Int> {
        func refuse(_ found: String) -> FormatError {
            FormatError(file: path, subject: "zip", found: found, expected: "a whole archive")
        }
        // The record has 22 bytes and a comment of at most 65,535.
        let earliest = max(0, bytes.count - 22 - 0xFFFF)
        let end = stride(from: bytes.count - 22, through: earliest, by: -1).first { start in
            UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: start, as: UInt32.self)) == endSignature
        }
        guard let end else { throw refuse("no end of the central directory: the file is cut short or no archive") }
        var record = ByteCursor(file: path, bytes: bytes, in: end + 12..<end + 20)
        var (size, offset) = (UInt64(try record.integer(UInt32.self)), UInt64(try record.integer(UInt32.self)))
        if size == 0xFFFF_FFFF || offset == 0xFFFF_FFFF {
            guard end >= 20 else { throw refuse("no 64-bit end record") }
            var locator = ByteCursor(file: path, bytes: bytes, in: end - 20..<end)
            let signature = try locator.integer(UInt32.self)
            _ = try locator.take(4)
            let start = Int(clamping: try locator.integer(UInt64.self))
            guard signature == wideLocatorSignature, start <= bytes.count - 56 else {
                throw refuse("no 64-bit end record")
            }
            var wide = ByteCursor(file: path, bytes: bytes, in: start..<start + 56)
            guard try wide.integer(UInt32.self) == wideEndSignature else { throw refuse("no 64-bit end record") }
            _ = try wide.take(36)
            (size, offset) = (try wide.integer(), try wide.integer())
        }
        guard offset <= UInt64(end), size <= UInt64(end) - offset else {
            throw refuse("a central directory of \(size) bytes at \(offset)")
        }
        return Int(offset)..<Int(offset + size)
    }

    /// What the central directory says of one file.
    private struct Entry {
        let name: String
        let flags: UInt16
        let method: UInt16
        private let size: UInt64
        private let localHeader: UInt64

        init(_ cursor: inout ByteCursor) throws {
            guard try cursor.integer(UInt32.self) == entrySignature else {
                throw FormatError(
                    file: cursor.file, subject: "zip", found: "damage at byte \(cursor.position - 4)",
                    expected: "an entry of the central directory")
            }
            _ = try cursor.take(4)
            (flags, method) = (try cursor.integer(), try cursor.integer())
            _ = try cursor.take(12)
            var size = UInt64(try cursor.integer(UInt32.self))
            let lengths = try (0..<3).map { _ in Int(try cursor.integer(UInt16.self)) }
            _ = try cursor.take(8)
            var localHeader = UInt64(try cursor.integer(UInt32.self))
            name = String(decoding: cursor.bytes[try cursor.take(lengths[0])], as: UTF8.self)
            var extra = ByteCursor(file: cursor.file, bytes: cursor.bytes, in: try cursor.take(lengths[1]))
            _ = try cursor.take(lengths[2])
            while extra.count >= 4 {
                let (tag, length) = (try extra.integer(UInt16.self), Int(try extra.integer(UInt16.self)))
                var field = ByteCursor(file: cursor.file, bytes: cursor.bytes, in: try extra.take(length))
                guard tag == 1 else { continue }
                // The 64-bit values are there for the fields that are full, in this order: size, compressed size, place.
                if size == 0xFFFF_FFFF {
                    size = try field.integer()
                    if field.count >= 8 { _ = try field.take(8) }
                }
                if localHeader == 0xFFFF_FFFF { localHeader = try field.integer() }
            }
            (self.size, self.localHeader) = (size, localHeader)
        }

        /// The content follows the local header, whose name and extra field have lengths of their own.
        func content(_ path: String, _ bytes: UnsafeRawBufferPointer) throws -> Range<Int> {
            let start = Int(clamping: localHeader)
            guard start <= bytes.count else {
                throw FormatError(file: path, subject: name, found: "a place outside", expected: "a place in the file")
            }
            var header = ByteCursor(file: path, bytes: bytes, in: start..<bytes.count)
            guard try header.integer(UInt32.self) == localSignature else {
                throw FormatError(file: path, subject: name, found: "no local header", expected: "one at byte \(start)")
            }
            _ = try header.take(22)
            let (name, extra) = (Int(try header.integer(UInt16.self)), Int(try header.integer(UInt16.self)))
            _ = try header.take(name + extra)
            return try header.take(size)
        }
    }
}
