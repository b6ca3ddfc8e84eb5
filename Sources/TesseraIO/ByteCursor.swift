/// Reads the bytes of a file from front to back, never beyond their end.
struct ByteCursor {
    let file: String
    let bytes: UnsafeRawBufferPointer
    private(set) var position: Int
    private let end: Int

    /// - Precondition: the range lies in the bytes.
    init(file: String, bytes: UnsafeRawBufferPointer, in range: Range<Int>? = nil) {
        let range = range ?? 0..<bytes.count
        precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count, "a range outside of the file")
        (self.file, self.bytes, position, end) = (file, bytes, range.lowerBound, range.upperBound)
    }

    /// How many bytes are left.
    var count: Int { end - position }

    /// The place of the next `count` bytes, which are then read.
    /// - Throws: ``FormatError`` if there are fewer.
    mutating func take(_ count: Int) throws -> Range<Int> {
        guard count >= 0, count <= self.count else {
            throw FormatError(
                file: file, subject: "byte \(position)", found: "\(self.count) bytes until the end",
                expected: "\(count < 0 ? "a length" : "\(count) more")")
        }
        defer { position += count }
        return position..<position + count
    }

    /// The same for a length that comes from the file.
    mutating func take(_ count: UInt64) throws -> Range<Int> { try take(Int(exactly: count) ?? Int.max) }

    /// A number, the lowest byte first.
    mutating func integer<Number: FixedWidthInteger>(_ type: Number.Type = Number.self) throws -> Number {
        let range = try take(MemoryLayout<Number>.size)
        return Number(littleEndian: bytes.loadUnaligned(fromByteOffset: range.lowerBound, as: type))
    }

    /// Text until a line feed, which is read too.
    mutating func line() throws -> String {
        let rest = UnsafeRawBufferPointer(rebasing: bytes[position..<end])
        guard let length = rest.prefix(ByteCursor.longestLine).firstIndex(of: UInt8(ascii: "\n")) else {
            throw FormatError(
                file: file, subject: "byte \(position)", found: "no end of the line",
                expected: "one within \(ByteCursor.longestLine) bytes")
        }
        let text = String(decoding: rest[..<length], as: UTF8.self)
        position += length + 1
        return text
    }

    private static let longestLine = 1024
}
