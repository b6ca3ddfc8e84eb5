import Tessera

/// Damages a good file the way that breaks parsers: wrong bits, extreme lengths, missing, repeated and foreign parts.
struct Mutator {
    private var random: RandomGenerator
    private let words: [[UInt8]]

    /// - Parameter words: pieces of the format's own language
    init(seed: UInt64, words: [String]) {
        random = RandomGenerator(seed: seed)
        self.words = words.map { Array($0.utf8) }
    }

    mutating func damaged(_ corpus: [[UInt8]]) -> [UInt8] {
        var bytes = corpus[random.integer(below: corpus.count)]
        for _ in 0...random.integer(below: 6) { change(&bytes, corpus) }
        return bytes
    }

    private mutating func change(_ bytes: inout [UInt8], _ corpus: [[UInt8]]) {
        guard !bytes.isEmpty else { return bytes = [UInt8(random.integer(below: 256))] }
        let place = random.integer(below: bytes.count)
        let length = 1 + random.integer(below: random.uniform() < 0.8 ? 8 : bytes.count)
        let range = place..<min(bytes.count, place + length)
        switch random.integer(below: 9) {
        case 0: bytes[place] ^= 1 << UInt8(random.integer(below: 8))
        case 1: bytes[place] = UInt8(random.integer(below: 256))
        case 2: writeExtreme(&bytes, at: place)
        case 3: bytes.removeSubrange(range)
        case 4: bytes.insert(contentsOf: bytes[range], at: place)
        case 5: bytes.removeSubrange(place...)
        case 6:
            let other = corpus[random.integer(below: corpus.count)]
            let start = random.integer(below: other.count)
            bytes.replaceSubrange(range, with: other[start..<min(other.count, start + length)])
        case 7 where !words.isEmpty: bytes.insert(contentsOf: words[random.integer(below: words.count)], at: place)
        default: writeNumber(&bytes, near: place)
        }
    }

    /// A length or an offset that overflows, or just does not fit.
    private mutating func writeExtreme(_ bytes: inout [UInt8], at place: Int) {
        let values: [UInt64] = [
            0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 62, .max,
        ]
        let value = values[random.integer(below: values.count)]
        let width = 1 << random.integer(below: 4)
        let isLittleEndian = random.uniform() < 0.5
        for i in 0..<width where place + i < bytes.count {
            bytes[place + i] = UInt8(truncatingIfNeeded: value >> UInt64(8 * (isLittleEndian ? i : width - 1 - i)))
        }
    }

    /// Another number where text has one.
    private mutating func writeNumber(_ bytes: inout [UInt8], near place: Int) {
        let digits = UInt8(ascii: "0")...UInt8(ascii: "9")
        guard let start = bytes[place...].firstIndex(where: digits.contains) else { return }
        let end = bytes[start...].firstIndex { !digits.contains($0) } ?? bytes.count
        let numbers = ["0", "-1", "1e308", "9223372036854775807", "-9223372036854775808", "4294967296", "1e-320", "00"]
        bytes.replaceSubrange(start..<end, with: numbers[random.integer(below: numbers.count)].utf8)
    }
}
