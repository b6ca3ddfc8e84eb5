/// A JSON document (RFC 8259), read within bounds and written deterministically.
///
/// The parser is for files that strangers wrote: nesting is limited, a key that occurs twice in an object is refused,
/// text must be UTF-8, and nothing stops the program. Objects keep the order of their members and numbers keep their
/// spelling, so that reading and writing a document loses nothing, 64-bit integers included.
public enum JSON: Equatable, Sendable {
    case null
    case bool(Bool)
    /// The digits as they stand in the text.
    case number(String)
    case string(String)
    case array([JSON])
    case object([Member])

    /// One `key: value` of an object.
    public struct Member: Equatable, Sendable {
        public let key: String
        public let value: JSON

        public init(_ key: String, _ value: JSON) {
            self.key = key
            self.value = value
        }
    }

    /// Where and why a text is not JSON.
    public struct SyntaxError: Error, Equatable, CustomStringConvertible {
        /// Counted from 0.
        public let byte: Int
        public let reason: String
        public var description: String { "not valid JSON at byte \(byte): \(reason)" }
    }

    /// How deep arrays and objects may nest.
    public static let maximumDepth = 64

    public init(parsing bytes: some Sequence<UInt8>) throws(SyntaxError) {
        var parser = Parser(bytes: Array(bytes))
        self = try parser.document()
    }

    public init(parsing text: String) throws(SyntaxError) { try self.init(parsing: text.utf8) }

    public init(_ value: Int) { self = .number(String(value)) }

    /// JSON has no infinities and no NaN: they become null.
    public init(_ value: Double) { self = value.isFinite ? .number("\(value)") : .null }

    /// The value of the number, if it is one and a whole one.
    public var int: Int? {
        guard case .number(let digits) = self else { return nil }
        return Int(digits) ?? Double(digits).flatMap { Int(exactly: $0) }
    }

    public var double: Double? {
        guard case .number(let digits) = self else { return nil }
        return Double(digits)
    }

    public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
    public var string: String? { if case .string(let value) = self { value } else { nil } }
    public var array: [JSON]? { if case .array(let value) = self { value } else { nil } }
    public var members: [Member]? { if case .object(let value) = self { value } else { nil } }

    /// The value of an object's member, nil when there is none.
    public subscript(key: String) -> JSON? { members?.first { $0.key == key }?.value }

    /// What a message calls the value: its kind, and the value itself when it is short.
    public var summary: String {
        switch self {
        case .null, .bool, .number: text()
        case .string(let value): value.count <= 40 ? text() : "a string of \(value.count) characters"
        case .array(let elements): elements.count <= 4 && text().count <= 40 ? text() : "a list of \(elements.count)"
        case .object: "an object"
        }
    }
}

extension JSON {
    /// The document on one line, or indented by two spaces a level.
    public func text(indented: Bool = false) -> String {
        var text = ""
        write(into: &text, level: indented ? 0 : nil)
        return text
    }

    private func write(into text: inout String, level: Int?) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .number(let digits): text += digits
        case .string(let value): JSON.write(value, into: &text)
        case .array(let elements):
            // Lists of plain values, such as sizes and means, read better on one line.
            let isPlain = elements.allSatisfy { $0.array == nil && $0.members == nil }
            JSON.write(elements, between: "[", "]", into: &text, level: isPlain ? nil : level) {
                $0.write(into: &$1, level: $2)
            }
        case .object(let members):
            JSON.write(members, between: "{", "}", into: &text, level: level) { member, text, level in
                JSON.write(member.key, into: &text)
                text += level == nil ? ":" : ": "
                member.value.write(into: &text, level: level)
            }
        }
    }

    private static func write<Element>(
        _ elements: [Element], between open: String, _ close: String, into text: inout String, level: Int?,
        _ body: (Element, inout String, Int?) -> Void
    ) {
        text += open
        let inner = level.map { $0 + 1 }
        for (index, element) in elements.enumerated() {
            if index > 0 { text += "," }
            if let inner { text += "\n" + String(repeating: "  ", count: inner) }
            body(element, &text, inner)
        }
        if let level, !elements.isEmpty { text += "\n" + String(repeating: "  ", count: level) }
        text += close
    }

    private static func write(_ string: String, into text: inout String) {
        text += "\""
        for scalar in string.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\t": text += "\\t"
            case "\r": text += "\\r"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }
}

/// Recursive descent over bytes; the depth is bounded, so the stack is too.
private struct Parser {
    let bytes: [UInt8]
    var position = 0

    mutating func document() throws(JSON.SyntaxError) -> JSON {
        let value = try value(depth: 0)
        skipSpace()
        guard position == bytes.count else { throw error("expected the end of the text, found \(here)") }
        return value
    }

    private mutating func value(depth: Int) throws(JSON.SyntaxError) -> JSON {
        guard depth <= JSON.maximumDepth else { throw error("nested more than \(JSON.maximumDepth) levels deep") }
        skipSpace()
        switch peek {
        case UInt8(ascii: "{"): return try object(depth: depth)
        case UInt8(ascii: "["): return try array(depth: depth)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try keyword("true", .bool(true))
        case UInt8(ascii: "f"): return try keyword("false", .bool(false))
        case UInt8(ascii: "n"): return try keyword("null", .null)
        default: return .number(try number())
        }
    }

    private mutating func object(depth: Int) throws(JSON.SyntaxError) -> JSON {
        var members: [JSON.Member] = []
        var keys: Set<String> = []
        position += 1
        if take("}") { return .object([]) }
        repeat {
            skipSpace()
            let start = position
            guard peek == UInt8(ascii: "\"") else { throw error("expected a key in quotes, found \(here)") }
            let key = try string()
            guard keys.insert(key).inserted else {
                throw JSON.SyntaxError(byte: start, reason: "the key \"\(key.onOneLine(atMost: 200))\" occurs twice")
            }
            guard take(":") else { throw error("expected ':', found \(here)") }
            members.append(JSON.Member(key, try value(depth: depth + 1)))
        } while take(",")
        guard take("}") else { throw error("expected ',' or '}', found \(here)") }
        return .object(members)
    }

    private mutating func array(depth: Int) throws(JSON.SyntaxError) -> JSON {
        var elements: [JSON] = []
        position += 1
        if take("]") { return .array([]) }
        repeat { elements.append(try value(depth: depth + 1)) } while take(",")
        guard take("]") else { throw error("expected ',' or ']', found \(here)") }
        return .array(elements)
    }

    private mutating func keyword(_ word: StaticString, _ value: JSON) throws(JSON.SyntaxError) -> JSON {
        let text = "\(word)".utf8
        guard bytes[position...].starts(with: text) else { throw error("expected \(word), found \(here)") }
        position += text.count
        return value
    }

    private mutating func number() throws(JSON.SyntaxError) -> String {
        let start = position
        if peek == UInt8(ascii: "-") { position += 1 }
        let leading = position
        guard digits() > 0 else {
            position = start
            throw error("expected a value, found \(here)")
        }
        if bytes[leading] == UInt8(ascii: "0"), position > leading + 1 { throw error("a number with a leading zero") }
        if peek == UInt8(ascii: ".") {
            position += 1
            guard digits() > 0 else { throw error("expected a digit after '.', found \(here)") }
        }
        if peek == UInt8(ascii: "e") || peek == UInt8(ascii: "E") {
            position += 1
            if peek == UInt8(ascii: "+") || peek == UInt8(ascii: "-") { position += 1 }
            guard digits() > 0 else { throw error("expected a digit in the exponent, found \(here)") }
        }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        guard let value = Double(text), value.isFinite else {
            throw JSON.SyntaxError(byte: start, reason: "the number \(text.prefix(40)) is out of range")
        }
        return text
    }

    private mutating func digits() -> Int {
        let start = position
        while let byte = peek, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) { position += 1 }
        return position - start
    }

    private mutating func string() throws(JSON.SyntaxError) -> String {
        let start = position
        position += 1
        var text: [UInt8] = []
        while let byte = peek {
            position += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let string = String(validating: text, as: UTF8.self) else {
                    throw JSON.SyntaxError(byte: start, reason: "a string that is not UTF-8")
                }
                return string
            case UInt8(ascii: "\\"): text += Array(String(try escaped()).utf8)
            case 0..<0x20: throw JSON.SyntaxError(byte: position - 1, reason: "a control character in a string")
            default: text.append(byte)
            }
        }
        throw JSON.SyntaxError(byte: start, reason: "a string without an end")
    }

    private mutating func escaped() throws(JSON.SyntaxError) -> Unicode.Scalar {
        let letter = peek
        position += 1
        switch letter {
        case UInt8(ascii: "\""): return "\""
        case UInt8(ascii: "\\"): return "\\"
        case UInt8(ascii: "/"): return "/"
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{c}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"):
            let first = try codeUnit()
            if let scalar = Unicode.Scalar(first) { return scalar }
            // A character outside the basic plane is two escapes: the high surrogate, then the low one.
            guard (0xD800..<0xDC00).contains(first), bytes[position...].starts(with: "\\u".utf8) else {
                throw error("half of a surrogate pair")
            }
            position += 2
            let second = try codeUnit()
            guard (0xDC00..<0xE000).contains(second),
                let scalar = Unicode.Scalar(0x10000 + (first - 0xD800) << 10 + (second - 0xDC00))
            else { throw error("half of a surrogate pair") }
            return scalar
        default:
            position -= 1
            throw error("an unknown escape")
        }
    }

    private mutating func codeUnit() throws(JSON.SyntaxError) -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            guard let byte = peek, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
                throw error("expected four hexadecimal digits after \\u, found \(here)")
            }
            value = value << 4 | UInt32(digit)
            position += 1
        }
        return value
    }

    private var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

    private var here: String {
        guard let byte = peek else { return "the end of the text" }
        return (0x20..<0x7F).contains(byte) ? "'\(Character(Unicode.Scalar(byte)))'" : "byte \(byte)"
    }

    private mutating func skipSpace() {
        while let byte = peek, byte == 0x20 || (0x09...0x0A).contains(byte) || byte == 0x0D { position += 1 }
    }

    private mutating func take(_ character: Unicode.Scalar) -> Bool {
        skipSpace()
        guard peek == UInt8(ascii: character) else { return false }
        position += 1
        return true
    }

    private func error(_ reason: String) -> JSON.SyntaxError { JSON.SyntaxError(byte: position, reason: reason) }
}
