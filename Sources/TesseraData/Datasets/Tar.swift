/// The regular files of a tar archive (ustar, GNU and pax names), found by one pass over its headers.
struct TarIndex {
    struct Entry: Equatable {
        let name: String
        let offset: Int
        let size: Int
    }

    private(set) var entries: [Entry] = []

    private static let blockSize = 512
    /// Long names and pax records are small; anything larger is an attempt at memory.
    private static let maximumNameBytes = 1 << 16

    /// - Throws: `DataError` for a header whose checksum is wrong, or an entry that reaches beyond the file.
    init(_ path: String) throws {
        let size = try Files.size(of: path)
        guard size > 0 else { throw DataError(path, "the file is empty") }
        let file = try Files.open(path)
        defer { Files.close(file) }
        var place = 0
        var longName: String?
        while place < size {
            let header = try Files.read(file, name: path, at: place, count: Self.blockSize)
            if header.allSatisfy({ $0 == 0 }) { return }  // the end mark
            guard Self.checksumHolds(header), let length = Self.number(header[124..<136]) else {
                throw DataError(path, "not a tar header at byte \(place)")
            }
            let body = place + Self.blockSize
            guard length <= size - body else {
                throw DataError(
                    path, "truncated: the entry at byte \(place) has \(length) bytes, \(size - body) are left")
            }
            switch header[156] {
            case UInt8(ascii: "0"), 0:
                entries.append(Entry(name: longName ?? Self.name(header), offset: body, size: length))
                longName = nil
            case UInt8(ascii: "L"), UInt8(ascii: "x"):
                guard length <= Self.maximumNameBytes else {
                    throw DataError(path, "a name record of \(length) bytes at byte \(place)")
                }
                let record = try Files.read(file, name: path, at: body, count: length)
                longName = header[156] == UInt8(ascii: "L") ? Self.text(record[...]) : Self.paxPath(record) ?? longName
            default: longName = nil
            }
            place = body + (length + Self.blockSize - 1) / Self.blockSize * Self.blockSize
        }
    }

    private static func text(_ field: ArraySlice<UInt8>) -> String {
        String(decoding: field.prefix { $0 != 0 }, as: UTF8.self)
    }

    private static func name(_ header: [UInt8]) -> String {
        let prefix = header[257..<262].elementsEqual("ustar".utf8) && header[262] == 0 ? text(header[345..<500]) : ""
        return prefix.isEmpty ? text(header[0..<100]) : prefix + "/" + text(header[0..<100])
    }

    /// Octal text, or big-endian binary when the first bit is set (GNU).
    private static func number(_ field: ArraySlice<UInt8>) -> Int? {
        if field.first! & 0x80 != 0 {
            guard field.dropLast(7).dropFirst().allSatisfy({ $0 == 0 }), field.first! == 0x80 else { return nil }
            return field.suffix(7).reduce(0) { $0 << 8 | Int($1) }
        }
        let digits = field.drop { $0 == 0x20 }.prefix { $0 != 0 && $0 != 0x20 }
        guard digits.allSatisfy({ (0x30...0x37).contains($0) }) else { return nil }
        return digits.reduce(0) { $0 << 3 | Int($1 - 0x30) }
    }

    private static func checksumHolds(_ header: [UInt8]) -> Bool {
        var sum = 8 * 0x20  // the checksum's own field counts as spaces
        for (i, byte) in header.enumerated() where !(148..<156).contains(i) { sum += Int(byte) }
        return number(header[148..<156]) == sum
    }

    /// The `path` of a pax record list: lines of "length key=value".
    private static func paxPath(_ record: [UInt8]) -> String? {
        var rest = record[...]
        while let space = rest.firstIndex(of: 0x20), let length = Int(String(decoding: rest[..<space], as: UTF8.self)),
            length > space - rest.startIndex + 1, length <= rest.count
        {
            let line = String(decoding: rest[(space + 1)..<(rest.startIndex + length - 1)], as: UTF8.self)
            if line.hasPrefix("path=") { return String(line.dropFirst(5)) }
            rest = rest.dropFirst(length)
        }
        return nil
    }
}
