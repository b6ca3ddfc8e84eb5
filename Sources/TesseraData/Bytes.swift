/// A view of borrowed memory whose every access is checked: the base of all parsers of outside data.
struct Bytes {
    let base: UnsafeRawBufferPointer

    init(_ base: UnsafeRawBufferPointer) { self.base = base }

    var count: Int { base.count }

    func byte(at place: Int) -> UInt8? { place >= 0 && place < count ? base[place] : nil }

    /// The view of `count` bytes from `place`, when they are all there.
    func range(_ place: Int, count length: Int) -> Bytes? {
        guard place >= 0, length >= 0, place <= count, length <= count - place else { return nil }
        return Bytes(UnsafeRawBufferPointer(rebasing: base[place..<place + length]))
    }

    /// An unsigned integer of 1 to 4 bytes.
    func integer(at place: Int, bytes: Int, littleEndian: Bool) -> Int? {
        guard let field = range(place, count: bytes) else { return nil }
        var value = 0
        for i in 0..<bytes { value = value << 8 | Int(field.base[littleEndian ? bytes - 1 - i : i]) }
        return value
    }

    func starts(with prefix: [UInt8]) -> Bool { base.starts(with: prefix) }
}
