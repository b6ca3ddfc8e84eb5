/// Protocol-buffer messages in their binary form: `(number << 3 | kind)`, then the value.
struct ProtobufWriter {
    private(set) var bytes: [UInt8] = []

    mutating func add(_ number: Int, _ value: UInt64) {
        key(number, kind: 0)
        integer(value)
    }

    mutating func add(_ number: Int, _ value: Double) {
        key(number, kind: 1)
        bytes += littleEndian(value.bitPattern)
    }

    mutating func add(_ number: Int, _ value: Float) {
        key(number, kind: 5)
        bytes += littleEndian(value.bitPattern)
    }

    /// Bytes, or a message in a message.
    mutating func add(_ number: Int, _ value: [UInt8]) {
        begin(number, length: value.count)
        bytes += value
    }

    mutating func add(_ number: Int, _ value: String) { add(number, Array(value.utf8)) }

    /// The key and length of bytes that the caller writes behind what is here.
    mutating func begin(_ number: Int, length: Int) {
        key(number, kind: 2)
        integer(UInt64(length))
    }

    private mutating func key(_ number: Int, kind: Int) { integer(UInt64(number << 3 | kind)) }

    /// Seven bits a byte, the lowest first; the top bit says that more follow.
    private mutating func integer(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }
}

/// Reads the fields of a message; ends early at damage.
struct ProtobufReader {
    enum Value: Equatable {
        case integer(UInt64)
        case bits64(UInt64)
        case bytes([UInt8])
        case bits32(UInt32)
    }

    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    mutating func next() -> (number: Int, value: Value)? {
        guard let key = integer() else { return nil }
        let value: Value? =
            switch key & 7 {
            case 0: integer().map { .integer($0) }
            case 1: fixed(8).map { .bits64($0) }
            case 2: integer().flatMap { take($0) }.map { .bytes(Array($0)) }
            case 5: fixed(4).map { .bits32(UInt32($0)) }
            default: nil
            }
        return value.map { (Int(truncatingIfNeeded: key >> 3), $0) }
    }

    private mutating func integer() -> UInt64? {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 7) {
            guard let byte = rest.popFirst() else { return nil }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
        }
        return nil
    }

    private mutating func take(_ count: UInt64) -> ArraySlice<UInt8>? {
        guard count <= UInt64(rest.count) else { return nil }
        defer { rest = rest.dropFirst(Int(count)) }
        return rest.prefix(Int(count))
    }

    private mutating func fixed(_ count: UInt64) -> UInt64? {
        take(count)?.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
}

/// The bytes of a number, the lowest first.
func littleEndian(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.littleEndian) { Array($0) } }
