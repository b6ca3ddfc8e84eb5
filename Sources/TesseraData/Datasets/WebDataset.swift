/// A tar archive in the WebDataset layout: the files of a sample share their name up to the first dot and stand next to
/// each other; `.cls` holds the class as decimal text. Images are read from the archive when they are asked for.
struct WebDataset: Dataset {
    private struct Sample {
        let key: String
        let label: Int32
        let offset: Int
        let size: Int
    }

    let classNames: [String]
    private let path: String
    private let samples: [Sample]
    private let pixelLimit: Int

    private static let maximumClasses = 1 << 20

    /// - Throws: `DataError` that names the sample without an image or without a class.
    init(_ path: String, pixelLimit: Int) throws {
        var samples: [Sample] = []
        let entries = try TarIndex(path).entries
        let file = try Files.open(path)
        defer { Files.close(file) }
        var start = 0
        while start < entries.count {
            let key = Self.split(entries[start].name).key
            var end = start
            var image: TarIndex.Entry?
            var label: Int32?
            while end < entries.count, Self.split(entries[end].name).key == key {
                let entry = entries[end]
                let kind = Self.split(entry.name).kind
                if kind == "cls" {
                    label = try Self.label(entry, in: file, of: path)
                } else if ImageFormat.fileExtensions.contains(Files.fileExtension(entry.name)) {
                    image = entry
                }
                end += 1
            }
            start = end
            guard let image else { throw DataError("\(path)/\(key)", "sample without an image (JPEG, PNG or WebP)") }
            guard let label else { throw DataError("\(path)/\(key)", "sample without a class (a .cls file)") }
            samples.append(Sample(key: key, label: label, offset: image.offset, size: image.size))
        }
        guard let last = samples.map(\.label).max() else { throw DataError(path, "no samples in the archive") }
        self.path = path
        self.samples = samples
        self.pixelLimit = pixelLimit
        classNames = (0...last).map { String($0) }
    }

    /// The name up to the first dot after the last slash, and the lower-case rest.
    private static func split(_ name: String) -> (key: String, kind: String) {
        let base = name.lastIndex(of: "/").map(name.index(after:)) ?? name.startIndex
        guard let dot = name[base...].firstIndex(of: ".") else { return (name, "") }
        return (String(name[..<dot]), name[name.index(after: dot)...].lowercased())
    }

    private static func label(_ entry: TarIndex.Entry, in file: Files.Handle, of path: String) throws -> Int32 {
        let bytes = try Files.read(file, name: path, at: entry.offset, count: min(entry.size, 32))
        let text = String(decoding: bytes, as: UTF8.self)
        guard let label = Int32(text.filter { !$0.isWhitespace }), (0..<Int32(maximumClasses)).contains(label) else {
            throw DataError("\(path)/\(entry.name)", "\"\(text.prefix(20))\" is not a class number")
        }
        return label
    }

    var count: Int { samples.count }
    func label(at index: Int) -> Int32 { samples[index].label }
    func name(at index: Int) -> String { "\(path)/\(samples[index].key)" }
    func splitKey(at index: Int) -> String { samples[index].key }

    func image(at index: Int) throws -> Image {
        let sample = samples[index]
        let bytes = try Files.read(path, at: sample.offset, count: sample.size)
        return try Image(decoding: bytes, name: name(at: index), pixelLimit: pixelLimit)
    }
}
