import Foundation
import Tessera
import Testing

@testable import TesseraData

@Suite struct DatasetTests {
    /// A gzip member of one stored block; zlib checks its sum.
    static func gzip(_ bytes: [UInt8]) -> [UInt8] {
        var sum: UInt32 = .max
        for byte in bytes {
            sum ^= UInt32(byte)
            for _ in 0..<8 { sum = sum & 1 == 1 ? sum >> 1 ^ 0xEDB8_8320 : sum >> 1 }
        }
        func little(_ value: UInt32, _ count: Int) -> [UInt8] {
            (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
        }
        let count = UInt32(bytes.count)
        return [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3, 1] + little(count, 2) + little(~count, 2) + bytes
            + little(~sum, 4) + little(count, 4)
    }

    static let images: [UInt8] = [0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 3] + (0..<24).map { UInt8($0) }
    static let labels: [UInt8] = [0, 0, 8, 1, 0, 0, 0, 4, 2, 0, 1, 2]

    @Test func idxPlainAndPacked() throws {
        for packed in [false, true] {
            let folder = try TemporaryFolder()
            func wrap(_ bytes: [UInt8]) -> [UInt8] { packed ? Self.gzip(bytes) : bytes }
            let suffix = packed ? ".gz" : ""
            try folder.write("train-images-idx3-ubyte\(suffix)", wrap(Self.images))
            try folder.write("train-labels-idx1-ubyte\(suffix)", wrap(Self.labels))
            let source = try DataSource.open(folder.path)
            #expect(source.format == .idx && source.validation == nil)
            let train = try #require(source.train)
            #expect(train.count == 4 && train.classCounts == [1, 1, 2])
            #expect(try train.image(at: 2) == Image(height: 2, width: 3, channels: 1, pixels: Array(12..<18)))
            let (kept, held) = try source.splits(validationFraction: 0.25, seed: 3)
            #expect(kept.count + held.count == 4 && held.count > 0 && kept.count > 0)
        }
    }

    @Test func idxFilesThatLie() throws {
        let packed = Self.gzip(Self.images)
        for length in 0..<Self.images.count {
            #expect(throws: DataError.self) { try IDXFile(decoding: Array(Self.images[..<length]), name: "a") }
        }
        for length in 0..<packed.count {
            #expect(throws: DataError.self) { try IDXFile(decoding: Array(packed[..<length]), name: "a.gz") }
        }
        let bad: [[UInt8]] = [
            Self.images + [0], Self.gzip(Self.images + [0]), [1] + Self.images, [0, 0, 13, 1, 0, 0, 0, 0],
            [0, 0, 8, 3] + [UInt8](repeating: 0xFF, count: 12), [0, 0, 8, 0], [0, 0, 8, 9, 0, 0, 0, 1, 7],
            Self.gzip([0, 0, 8, 3] + [UInt8](repeating: 0x7F, count: 12)),
        ]
        for bytes in bad { #expect(throws: DataError.self) { try IDXFile(decoding: bytes, name: "a") } }
        var random = RandomGenerator(seed: 5)
        for _ in 0..<3000 {
            var damaged = random.uniform() < 0.5 ? Self.images : packed
            damaged[random.integer(below: damaged.count)] = UInt8(random.integer(below: 256))
            if let file = try? IDXFile(decoding: damaged, name: "a") {
                #expect(file.values.count == file.dimensions.reduce(1, *))
            }
        }
    }

    @Test func cifar() throws {
        let folder = try TemporaryFolder()
        let planes =
            [UInt8](repeating: 1, count: 1024) + [UInt8](repeating: 2, count: 1024)
            + [UInt8](repeating: 3, count: 1024)
        try folder.write("data_batch_1.bin", [7] + planes + [9] + planes)
        try folder.write("test_batch.bin", [4] + planes)
        let source = try DataSource.open(folder.path)
        #expect(source.format == .cifar10 && source.train?.count == 2 && source.validation?.label(at: 0) == 4)
        #expect(try source.train?.image(at: 1) == Image(height: 32, width: 32, colour: [1, 2, 3]))
        let hundred = try CIFAR.hundred.read([folder.write("x/train.bin", [3, 99] + planes)])
        #expect(hundred.label(at: 0) == 99 && hundred.classNames.count == 100)
        let bad: [[UInt8]] = [[], [1] + Array(planes.dropLast()), [10] + planes]
        for bytes in bad {
            let path = try folder.write("bad.bin", bytes)
            #expect(throws: DataError.self) { try CIFAR.ten.read([path]) }
        }
    }

    static func png(_ colour: [UInt8]) throws -> [UInt8] {
        Array(try Image(height: 4, width: 5, colour: colour).pngData())
    }

    @Test func classFolders() throws {
        let folder = try TemporaryFolder()
        for name in ["class10/a", "class2/b", "class2/deep/c"] {
            try folder.write("train/\(name).png", Self.png([1, 2, 3]))
        }
        try folder.write("train/class2/notes.txt", [1])
        try folder.write("val/class2/d.png", Self.png([9]))
        let source = try DataSource.open(folder.path)
        let train = try #require(source.train)
        #expect(train.classNames == ["class10", "class2"] && train.classCounts == [1, 2])
        #expect(source.validation?.label(at: 0) == 1)

        try FileManager.default.createDirectory(atPath: folder.path + "/train/empty", withIntermediateDirectories: true)
        #expect(throws: DataError(folder.path + "/train/empty", "class folder without images (JPEG, PNG or WebP)")) {
            try DataSource.open(folder.path)
        }
        #expect(throws: DataError.self) { try DataSource.open(folder.path + "/nothing") }
    }

    static func tar(_ files: [(name: String, bytes: [UInt8])]) -> [UInt8] {
        var archive: [UInt8] = []
        for (name, bytes) in files {
            var header = [UInt8](repeating: 0, count: 512)
            func put(_ text: String, _ place: Int) {
                header.replaceSubrange(place..<place + text.utf8.count, with: text.utf8)
            }
            put(name, 0)
            put(String(format: "%011o", bytes.count), 124)
            put("        ", 148)
            put("0ustar", 156)
            put(String(format: "%06o", header.reduce(0) { $0 + Int($1) }), 148)
            header[154] = 0
            archive += header + bytes + [UInt8](repeating: 0, count: (512 - bytes.count % 512) % 512)
        }
        return archive + [UInt8](repeating: 0, count: 1024)
    }

    @Test func webDataset() throws {
        let folder = try TemporaryFolder()
        let archive = try Self.tar([
            ("d/0.seg.png", Self.png([1, 2, 3])), ("d/0.cls", Array("2\n".utf8)),
            ("d/1.png", Self.png([4])), ("d/1.cls", Array("0".utf8)),
        ])
        let path = try folder.write("a.tar", archive)
        let source = try DataSource.open(path)
        let train = try #require(source.train)
        #expect(source.format == .webdataset && train.count == 2 && train.classCounts == [1, 0, 1])
        #expect(try train.image(at: 1) == Image(height: 4, width: 5, colour: [4]))
        let bad: [[(name: String, bytes: [UInt8])]] = [
            [("x.png", [1])], [("x.cls", [0x31])], [("x.png", [1]), ("x.cls", [0x61])],
        ]
        for files in bad {
            let path = try folder.write("bad.tar", Self.tar(files))
            #expect(throws: DataError.self) { try DataSource.open(path) }
        }
        // What the file says stays on one line and moves no cursor.
        let odd = try folder.write("odd.tar", Self.tar([("\u{1B}[2Ja.cls", Array("0\n\u{2028}x\u{202E}".utf8))]))
        #expect(throws: DataError(odd + "/ [2Ja.cls", "\"0  x \" is not a class number")) { try DataSource.open(odd) }
        var random = RandomGenerator(seed: 11)
        for _ in 0..<300 {
            var damaged = archive
            damaged[random.integer(below: damaged.count)] = UInt8(random.integer(below: 256))
            let length = random.uniform() < 0.5 ? damaged.count : random.integer(below: damaged.count)
            let path = try folder.write("damaged.tar", Array(damaged[..<length]))
            guard let data = try? WebDataset([path], pixelLimit: 1 << 20) else { continue }
            for index in 0..<data.count { _ = try? data.image(at: index) }
        }
    }

    @Test func shards() throws {
        let folder = try TemporaryFolder()
        for shard in 8...10 {
            let files = try (0..<2).flatMap { index in
                let key = "\(shard)-\(index)"
                return [
                    (name: "\(key).png", bytes: try Self.png([UInt8(10 * shard + index)])),
                    (name: "\(key).cls", bytes: Array("\(shard - 8)".utf8)),
                ]
            }
            try folder.write(String(format: "train/shard-%03d.tar", shard), Self.tar(files))
        }
        try folder.write("val/a.tar", Self.tar([("v.png", Self.png([7])), ("v.cls", [0x31])]))
        for (path, held) in [("", true), ("/train", false), ("/train/shard-{008..010}.tar", false)] {
            let source = try DataSource.open(folder.path + path)
            let train = try #require(source.train)
            #expect(source.format == .webdataset && train.classNames == ["0", "1", "2"])
            // In the order of the shards, which is not that of their numbers as text without the zeros.
            #expect(try (0..<6).map { try train.image(at: $0).pixels[0] } == [80, 81, 90, 91, 100, 101])
            #expect(train.name(at: 4) == folder.path + "/train/shard-010.tar/10-0")
            #expect(source.validation?.count == (held ? 1 : nil))
            if held { #expect(source.validation?.classNames == train.classNames) }
        }
        #expect(try WebDataset.expanded("a{1..2}/b{09..10}") == ["a1/b09", "a1/b10", "a2/b09", "a2/b10"])
        #expect(try WebDataset.expanded("a{b}") == nil)
        for bad in ["{2..1}", "{0..999999999}", "{0..999}{0..999}"] {
            #expect(throws: DataError.self) { try WebDataset.expanded(bad) }
        }
        #expect {
            try DataSource.open(folder.path + "/train/shard-{008..011}.tar")
        } throws: {
            "\($0)".contains("shard-011.tar")
        }
        try folder.write("val/b.tar", Self.tar([("w.png", Self.png([7])), ("w.cls", [0x33])]))
        #expect {
            try DataSource.open(folder.path)
        } throws: {
            "\($0)".contains("class 3")
        }
    }

    @Test func reportAndMetrics() throws {
        let folder = try TemporaryFolder()
        try folder.write("a/1.png", Self.png([0, 0, 0]))
        try folder.write("a/2.png", Self.png([255, 255, 255]))
        let broken = try folder.write("b/3.png", Array(Self.png([1]).dropLast(20)))
        let report = DatasetReport(scanning: try #require(try DataSource.open(folder.path).train))
        #expect(report.classCounts == [2, 1] && report.unreadable.map(\.file) == [broken])
        #expect(report.mean == [0.5, 0.5, 0.5] && report.std == [0.5, 0.5, 0.5])

        var metrics = ClassificationMetrics(classes: 3, k: 2)
        metrics.add(logits: [3, 2, 1, 1, 2, 3, 2, 3, 1, .nan, .nan, .nan], labels: [0, 0, 0, 1])
        #expect(metrics.top1 == 0.25 && metrics.topK == 0.5 && metrics.perClass == [1.0 / 3, 0, nil])
    }

    /// Each class keeps its share, the seed decides which images, and a smaller part lies in a larger one.
    @Test func stratifiedParts() throws {
        let labels = (0..<130).map { UInt8($0 < 100 ? 0 : $0 < 129 ? 1 : 2) }
        let data = PackedDataset(
            classNames: ["a", "b", "c"], labels: labels, height: 1, width: 1, channels: 1, pixels: labels, source: "x")
        let part = Subset.stratified(data, fraction: 0.1, seed: 7)
        #expect(part.classCounts == [10, 3, 1])
        #expect(part.indices == part.indices.sorted() && part.indices != Array(0..<10) + [100, 101, 102, 129])
        #expect(part.indices == Subset.stratified(data, fraction: 0.1, seed: 7).indices)
        #expect(part.indices != Subset.stratified(data, fraction: 0.1, seed: 8).indices)
        let larger = Subset.stratified(data, fraction: 0.5, seed: 7)
        #expect(larger.classCounts == [50, 15, 1] && Set(part.indices).isSubset(of: larger.indices))
        #expect(Subset.stratified(data, fraction: 1, seed: 7).indices == Array(0..<130))
    }
}
