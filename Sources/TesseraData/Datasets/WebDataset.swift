import Foundation

/// Tar archives (shards) in the WebDataset layout: the files of a sample share their name up to the first dot and stand
/// next to each other; `.cls` holds the class as decimal text. Samples are numbered through all shards in order, and
/// images are read from their archive when they are asked for.
struct WebDataset: Dataset {
    private struct Sample {
        let shard: Int32
        let label: Int32
        let key: String
        let offset: Int
        let size: Int
    }

    let classNames: [String]
    private let shards: [String]
    private var samples: [Sample] = []
    private let pixelLimit: Int

    private static let maximumClasses = 1 << 20

    /// - Parameters:
    ///   - shards: the archives' paths, at least one
    ///   - classNames: the classes of the data set that this one is held out from; nil: as many as the labels need
    /// - Throws: `DataError` that names the sample without an image or without a class.
    init(_ shards: [String], classNames: [String]? = nil, pixelLimit: Int) throws {
        self.shards = shards
        self.pixelLimit = pixelLimit
        for (index, path) in shards.enumerated() { samples += try Self.samples(Int32(index), path) }
        guard let last = samples.map(\.label).max() else { throw DataError(shards[0], "no samples in the archive") }
        if let classNames, classNames.count <= last {
            throw DataError(shards[0], "class \(last), but the training data has classes 0 to \(classNames.count - 1)")
        }
        self.classNames = classNames ?? (0...last).map { String($0) }
    }

    private static func samples(_ shard: Int32, _ path: String) throws -> [Sample] {
        var samples: [Sample] = []
        let entries = try TarIndex(path).entries
        let file = try Files.open(path)
        defer { Files.close(file) }
        var start = 0
        while start < entries.count {
            let key = split(entries[start].name).key
            var end = start
            var image: TarIndex.Entry?
            var label: Int32?
            while end < entries.count, split(entries[end].name).key == key {
                let entry = entries[end]
                let kind = split(entry.name).kind
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
            samples.append(Sample(shard: shard, label: label, key: key, offset: image.offset, size: image.size))
        }
        return samples
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
    func name(at index: Int) -> String { "\(shard(of: samples[index]))/\(samples[index].key)" }
    private func shard(of sample: Sample) -> String { shards[Int(sample.shard)] }
    func splitKey(at index: Int) -> String { samples[index].key }

    func image(at index: Int) throws -> Image {
        let sample = samples[index]
        let bytes = try Files.read(shard(of: sample), at: sample.offset, count: sample.size)
        return try Image(decoding: bytes, name: name(at: index), pixelLimit: pixelLimit)
    }
}

extension WebDataset {
    private static let maximumShards = 100_000

    /// The paths that a pattern such as `shard-{000..012}.tar` stands for, in order; nil when it is no pattern. A number
    /// keeps the width of the first one.
    ///
    /// - Throws: `DataError` for a range that runs backwards or names too many files.
    static func expanded(_ pattern: String) throws -> [String]? {
        var paths = [pattern]
        while let range = paths[0].firstMatch(of: /\{([0-9]{1,9})\.\.([0-9]{1,9})\}/) {
            let (first, last) = (Int(range.1)!, Int(range.2)!)
            guard first <= last, last - first < maximumShards, (last - first + 1) * paths.count <= maximumShards else {
                throw DataError(pattern, "does not stand for 1 to \(maximumShards) files")
            }
            let text = "{\(range.1)..\(range.2)}"
            let numbers = (first...last).map { number in
                String(repeating: "0", count: max(0, range.1.count - String(number).count)) + String(number)
            }
            paths = paths.flatMap { path in
                let place = path.firstRange(of: text)!
                return numbers.map { path.replacingCharacters(in: place, with: $0) }
            }
        }
        return paths == [pattern] ? nil : paths
    }
}
