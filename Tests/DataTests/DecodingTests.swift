import Foundation
import Tessera
import Testing

@testable import TesseraData

@Suite struct DecodingTests {
    struct Expected: Decodable {
        let height: Int
        let width: Int
        let channels: Int
        let hex: String
    }

    static let folder = Fixture.bundled.appendingPathComponent("images")

    static func samples() throws -> [(name: String, bytes: [UInt8])] {
        try Files.list(folder.path).filter { !$0.hasSuffix(".json") }
            .map { ($0, try Files.read(Files.join(folder.path, $0))) }
    }

    @Test func everyKindOfFile() throws {
        let json = try Data(contentsOf: Self.folder.appendingPathComponent("expected.json"))
        let expected = try JSONDecoder().decode([String: Expected].self, from: json)
        for (name, bytes) in try Self.samples() {
            let image = try Image(decoding: bytes, name: name)
            let answer = try #require(expected[name])
            #expect(image.height == answer.height && image.width == answer.width, "\(name)")
            #expect(image.channels == answer.channels, "\(name)")
            let hex = Array(answer.hex)
            let pixels = stride(from: 0, to: hex.count, by: 2).map { UInt8(String(hex[$0...$0 + 1]), radix: 16)! }
            // Pillow brings its own build of libjpeg and libwebp: lossy files may differ by a rounding.
            let tolerance = name.hasSuffix(".jpg") || name == "lossy.webp" ? 3 : 0
            let worst = zip(image.pixels, pixels).map { abs(Int($0) - Int($1)) }.max()!
            #expect(worst <= tolerance, "\(name): off by \(worst)")
        }
    }

    @Test func everyPrefixIsAnError() throws {
        for (name, bytes) in try Self.samples() {
            for length in 0..<bytes.count {
                #expect(throws: DataError.self, "\(name) cut to \(length) of \(bytes.count)") {
                    try Image(decoding: Array(bytes[..<length]), name: name)
                }
            }
        }
    }

    @Test func damagedFilesNeverCrash() throws {
        var random = RandomGenerator(seed: 7)
        for (name, bytes) in try Self.samples() {
            for _ in 0..<300 {
                var damaged = bytes
                for _ in 0...random.integer(below: 4) {
                    damaged[random.integer(below: bytes.count)] = UInt8(random.integer(below: 256))
                }
                do {
                    let image = try Image(decoding: damaged, name: name, pixelLimit: 1 << 20)
                    #expect(image.height * image.width <= 1 << 20)
                } catch { #expect(error is DataError) }
            }
        }
    }

    @Test func writtenFilesReadBack() throws {
        let folder = try TemporaryFolder()
        for channels in [1, 3] {
            for (height, width) in [(1, 1), (5, 7)] {
                let image = Image(
                    height: height, width: width, channels: channels,
                    pixels: (0..<height * width * channels).map { UInt8($0 * 2) })
                let path = folder.path + "/\(height)-\(channels).png"
                try image.writePNG(to: path)
                #expect(try Image(contentsOf: path) == image)
            }
        }
        let error = #expect(throws: DataError.self) {
            try Image(height: 1, width: 1, colour: [0]).writePNG(to: folder.path + "/missing/a.png")
        }
        #expect(error?.subject == folder.path + "/missing/a.png")
    }

    @Test func hugeImagesAreRefusedByTheirHeader() throws {
        var header: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A, 0, 0, 0, 13]
        header += Array("IHDR".utf8) + [0, 0, 0xC3, 0x50, 0, 0, 0xC3, 0x50, 8, 2, 0, 0, 0, 0xC4, 0xCD, 0xAA, 0x9D]
        header += [0, 0, 0, 0] + Array("IDAT".utf8) + [0x35, 0xAF, 0x06, 0x1E]
        let small = try Image(height: 2, width: 3, colour: [1, 2, 3]).pngData()
        let error = #expect(throws: DataError.self) {
            try Image(decoding: Array(small), name: "small.png", pixelLimit: 5)
        }
        #expect(error?.reason == "the image has 2x3 pixels; the limit is 5 pixels")
        let huge = #expect(throws: DataError.self) { try Image(decoding: header, name: "huge.png") }
        #expect(huge?.reason == "the image has 50000x50000 pixels; the limit is 100000000 pixels")
    }

    @Test func errorsNameTheFile() {
        let cases: [(bytes: [UInt8], reason: String)] = [
            ([], "the file is empty"),
            ([1, 2, 3], "not an image: the file starts neither as JPEG nor as PNG nor as WebP"),
        ]
        for (bytes, reason) in cases {
            #expect(throws: DataError("a.jpg", reason)) { try Image(decoding: bytes, name: "a.jpg") }
        }
        #expect(throws: DataError("/nowhere/a.jpg", "No such file or directory")) {
            try Image(contentsOf: "/nowhere/a.jpg")
        }
    }
}
