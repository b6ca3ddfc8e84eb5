import Tessera

/// A safetensors file: named arrays behind a JSON header, by Hugging Face (2022).
///
/// The file is `length of header (u64, little-endian) | header | data`. The header is checked completely when the file is
/// opened: sizes against shapes, and that the arrays fill the data without a hole or an overlap. After that no
/// array can lie outside of the file. Aligned float32 arrays are borrowed from the mapped file, not copied.
public struct Safetensors: Sendable {
    /// How the elements of an array are stored.
    public enum ElementType: String, Sendable, CaseIterable {
        case float64 = "F64"
        case float32 = "F32"
        case float16 = "F16"
        case bfloat16 = "BF16"
        case int64 = "I64"
        case int32 = "I32"
        case int16 = "I16"
        case int8 = "I8"
        case uint8 = "U8"
        case bool = "BOOL"

        /// Bytes per element.
        public var size: Int {
            switch self {
            case .float64, .int64: 8
            case .float32, .int32: 4
            case .float16, .bfloat16, .int16: 2
            case .int8, .uint8, .bool: 1
            }
        }
    }

    /// An array of the file.
    public struct Entry: Equatable, Sendable {
        public let name: String
        public let type: ElementType
        public let shape: Shape
        /// Where its bytes are, counted from the end of the header.
        public let range: Range<Int>
    }

    /// The header may not be longer: 100 MB, the limit of the reference implementation.
    public static let maximumHeaderLength = 100_000_000

    public let path: String
    /// What the writer noted, string to string.
    public let metadata: [String: String]
    /// The arrays in the order of their data.
    public let entries: [Entry]
    private let index: [String: Int]
    private let file: MappedFile
    private let dataStart: Int

    /// Opens the file and checks its header.
    /// - Throws: ``SystemError`` if it cannot be read, ``FormatError`` if it is not a valid safetensors file.
    public init(_ path: String) throws {
        self.path = path
        file = try MappedFile(path)
        let header = try SafetensorsHeader(path: path, bytes: file.bytes)
        metadata = header.metadata
        entries = header.entries
        dataStart = header.dataStart
        index = Dictionary(uniqueKeysWithValues: entries.enumerated().map { ($1.name, $0) })
    }

    public subscript(name: String) -> Entry? { index[name].map { entries[$0] } }

    /// The array as floats, converted if it is stored in another type: float64 is rounded.
    /// - Throws: ``FormatError`` if there is no such array, or a whole number in it has no equal float.
    public func tensor(_ name: String) throws -> Tensor {
        let entry = try entry(name)
        return try stored(entry).tensor(entry.shape)
    }

    /// All arrays as floats, in the order of their data.
    public func tensors() throws -> [(String, Tensor)] { try entries.map { ($0.name, try tensor($0.name)) } }

    /// The array as whole numbers, such as labels.
    /// - Throws: ``FormatError`` if there is no such array, it holds floats, or a number does not fit 32 bits.
    public func integers(_ name: String) throws -> [Int32] {
        let entry = try entry(name)
        switch entry.type {
        case .int64: return try stored(entry).elements(Int64.self, fitting)
        case .int32: return try stored(entry).elements(Int32.self, fitting)
        case .int16: return try stored(entry).elements(Int16.self, fitting)
        case .int8: return try stored(entry).elements(Int8.self, fitting)
        case .uint8, .bool: return try stored(entry).elements(UInt8.self, fitting)
        case .float64, .float32, .float16, .bfloat16:
            throw error(entry.name, found: entry.type.rawValue, expected: "whole numbers")
        }
        func fitting(_ value: some BinaryInteger) throws -> Int32 {
            guard let number = Int32(exactly: value) else {
                throw error(entry.name, found: "\(value)", expected: "whole numbers of 32 bits")
            }
            return number
        }
    }

    /// The content of an array of bytes.
    /// - Throws: ``FormatError`` if there is no such array, or it is of another type.
    public func bytes(_ name: String) throws -> [UInt8] {
        let entry = try entry(name)
        guard entry.type == .uint8 else {
            throw error(name, found: entry.type.rawValue, expected: ElementType.uint8.rawValue)
        }
        return Array(stored(entry).bytes)
    }

    /// The size and checksum of the whole file.
    public var digest: FileDigest { FileDigest(bytes: file.bytes.count, crc32c: CRC32C.of(file.bytes)) }

    private func entry(_ name: String) throws -> Entry {
        guard let entry = self[name] else {
            let near = nearestNames(to: name, in: entries.map(\.name))
            let found = near.isEmpty ? "no such tensor" : "only \(near.joined(separator: ", "))"
            throw error(name, found: found, expected: "a tensor of this name")
        }
        return entry
    }

    private func stored(_ entry: Entry) -> StoredArray {
        let range = dataStart + entry.range.lowerBound..<dataStart + entry.range.upperBound
        return StoredArray(file: file, type: entry.type, bytes: UnsafeRawBufferPointer(rebasing: file.bytes[range])) {
            error(entry.name, found: $0, expected: $1)
        }
    }

    private func error(_ name: String, found: String, expected: String) -> FormatError {
        FormatError(file: path, subject: "tensor \(name)", found: found, expected: expected)
    }
}
