/// The fields of a message of protocol buffers in a file, in place: bytes and messages inside are told by where they are.
struct ProtobufFields {
    enum Value {
        case integer(UInt64)
        /// Text, a packed list, or a message.
        case bytes(Range<Int>)
        case fixed32(UInt32)
        case fixed64(UInt64)
    }

    private var cursor: ByteCursor

    init(_ file: String, _ bytes: UnsafeRawBufferPointer, in range: Range<Int>) {
        cursor = ByteCursor(file: file, bytes: bytes, in: range)
    }

    /// The next field, nil at the end.
    /// - Throws: ``FormatError`` if the message is damaged.
    mutating func next() throws -> (number: Int, value: Value)? {
        guard cursor.count > 0 else { return nil }
        let key = try integer()
        let number = Int(clamping: key >> 3)
        switch key & 7 {
        case 0: return (number, .integer(try integer()))
        case 1: return (number, .fixed64(try cursor.integer()))
        case 2: return (number, .bytes(try cursor.take(try integer())))
        case 5: return (number, .fixed32(try cursor.integer()))
        default:
            throw FormatError(
                file: cursor.file, subject: "byte \(cursor.position)", found: "a field of kind \(key & 7)",
                expected: "a message of protocol buffers")
        }
    }

    /// Every integer of a packed list.
    static func integers(_ file: String, _ bytes: UnsafeRawBufferPointer, in range: Range<Int>) throws -> [UInt64] {
        var fields = ProtobufFields(file, bytes, in: range)
        var integers: [UInt64] = []
        while fields.cursor.count > 0 { integers.append(try fields.integer()) }
        return integers
    }

    /// Seven bits a byte, the lowest first; the top bit says that more follow.
    private mutating func integer() throws -> UInt64 {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 7) {
            let byte = try cursor.integer(UInt8.self)
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
        }
        throw FormatError(
            file: cursor.file, subject: "byte \(cursor.position)", found: "a number of more than 10 bytes",
            expected: "at most 10")
    }
}
