import Tessera

/// The checked header of a safetensors file.
struct SafetensorsHeader {
    let metadata: [String: String]
    /// In the order of their data.
    let entries: [Safetensors.Entry]
    /// Where the data begins in the file.
    let dataStart: Int

    private static let metadataKey = "__metadata__"

    init(path: String, bytes: UnsafeRawBufferPointer) throws {
        func refuse(_ subject: String = "header", found: String, expected: String) -> FormatError {
            FormatError(file: path, subject: subject, found: found, expected: expected)
        }
        guard bytes.count >= 8 else {
            throw refuse("", found: "\(bytes.count) bytes", expected: "a safetensors file of at least 8 bytes")
        }
        let length = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        guard length <= UInt64(Safetensors.maximumHeaderLength) else {
            throw refuse(found: "a length of \(length)", expected: "at most \(Safetensors.maximumHeaderLength) bytes")
        }
        guard Int(length) <= bytes.count - 8 else {
            throw refuse(
                found: "a length of \(length)", expected: "at most the \(bytes.count - 8) bytes that follow it")
        }
        dataStart = 8 + Int(length)
        let text = UnsafeRawBufferPointer(rebasing: bytes[8..<dataStart])
        guard text.first == UInt8(ascii: "{") else {
            throw refuse(
                found: text.first.map { "byte \($0)" } ?? "nothing", expected: "a JSON object that starts with {")
        }
        let json: JSON
        do { json = try JSON(parsing: text) } catch { throw refuse(found: "\(error)", expected: "a JSON object") }
        var metadata: [String: String] = [:]
        var entries: [Safetensors.Entry] = []
        for member in json.members ?? [] {
            guard member.key != SafetensorsHeader.metadataKey else {
                guard let members = member.value.members else {
                    throw refuse(member.key, found: member.value.summary, expected: "an object")
                }
                for note in members {
                    guard let value = note.value.string else {
                        throw refuse("\(member.key).\(note.key)", found: note.value.summary, expected: "a string")
                    }
                    metadata[note.key] = value
                }
                continue
            }
            do { entries.append(try SafetensorsHeader.entry(member.key, member.value)) } catch let error
                as ArgumentError
            {
                throw refuse(error.field, found: error.found, expected: error.expected)
            }
        }
        entries.sort { ($0.range.lowerBound, $0.range.upperBound) < ($1.range.lowerBound, $1.range.upperBound) }
        var end = 0
        for entry in entries {
            guard entry.range.lowerBound == end else {
                throw refuse(
                    "tensor \(entry.name)", found: "data from byte \(entry.range.lowerBound)",
                    expected: "from byte \(end), where the tensor before it ends")
            }
            end = entry.range.upperBound
        }
        guard end == bytes.count - dataStart else {
            throw refuse("data", found: "\(bytes.count - dataStart) bytes", expected: "\(end) bytes as the header says")
        }
        self.metadata = metadata
        self.entries = entries
    }

    private static func entry(_ name: String, _ json: JSON) throws -> Safetensors.Entry {
        let section = "tensor \(name)"
        let arguments = try Arguments(json, section: section)
        let typeName = try arguments.string("dtype")
        guard let type = Safetensors.ElementType(rawValue: typeName) else {
            throw ArgumentError(
                field: "\(section).dtype", found: "\(JSON.string(typeName).summary)",
                expected: "one of \(Safetensors.ElementType.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        let extents = try arguments.ints("shape", in: 0...Int.max)
        let offsets = try arguments.ints("data_offsets", count: 2, in: 0...Int.max)
        try arguments.finish()
        guard offsets[0] <= offsets[1] else {
            throw ArgumentError(
                field: "\(section).data_offsets", found: "\(offsets)", expected: "the first not greater than the second"
            )
        }
        var size = type.size
        // Every partial product must fit, zero extents or not: Shape multiplies without a check.
        var nonzero = type.size
        for extent in extents {
            let (product, overflow) = nonzero.multipliedReportingOverflow(by: max(extent, 1))
            guard !overflow else {
                throw ArgumentError(
                    field: "\(section).shape", found: JSON.array(extents.map { JSON($0) }).text(),
                    expected: "a size that 64 bits can hold")
            }
            nonzero = product
            size *= extent
        }
        guard offsets[1] - offsets[0] == size else {
            throw ArgumentError(
                field: "\(section).data_offsets", found: "\(offsets[1] - offsets[0]) bytes",
                expected: "\(size) bytes for \(typeName) \(Shape(extents))")
        }
        return Safetensors.Entry(name: name, type: type, shape: Shape(extents), range: offsets[0]..<offsets[1])
    }

    /// The bytes before the data of a new file: the length, and the header padded with spaces so that the data is
    /// aligned to 8 bytes.
    static func encode(
        _ arrays: [(name: String, type: Safetensors.ElementType, shape: Shape)], metadata: [String: String],
        path: String
    ) throws -> [UInt8] {
        var members: [JSON.Member] = []
        if !metadata.isEmpty {
            let notes = metadata.sorted { $0.key < $1.key }.map { JSON.Member($0.key, .string($0.value)) }
            members.append(JSON.Member(metadataKey, .object(notes)))
        }
        var names: Set<String> = [metadataKey]
        var offset = 0
        for (name, type, shape) in arrays {
            guard names.insert(name).inserted else {
                throw FormatError(
                    file: path, subject: "tensor \(name)", found: "the name taken", expected: "a name of its own")
            }
            let end = offset + shape.count * type.size
            let fields = [
                JSON.Member("dtype", .string(type.rawValue)),
                JSON.Member("shape", .array(shape.dimensions.map { JSON($0) })),
                JSON.Member("data_offsets", .array([JSON(offset), JSON(end)])),
            ]
            members.append(JSON.Member(name, .object(fields)))
            offset = end
        }
        var text = Array(JSON.object(members).text().utf8)
        text += [UInt8](repeating: UInt8(ascii: " "), count: (8 - text.count % 8) % 8)
        return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) } + text
    }
}
