import Foundation
import Tessera
import Testing

@testable import TesseraIO

@Suite struct SafetensorsTests {
    private let folder: String

    init() throws { folder = try temporaryFolder() }

    private func file(_ header: String, data: [UInt8] = [], length: UInt64? = nil) -> [UInt8] {
        littleEndian(length ?? UInt64(header.utf8.count)) + Array(header.utf8) + data
    }

    private func refusal(_ bytes: [UInt8]) throws -> String {
        let path = folder + "/bad.safetensors"
        try write(bytes, to: path)
        do {
            _ = try Safetensors(path)
            return "accepted"
        } catch let error as FormatError {
            #expect(error.file == path)
            return error.description
        }
    }

    private static func tensor(
        _ name: String = "w", dtype: String = "\"F32\"", shape: String = "[2]", offsets: String = "[0,8]"
    ) -> String { "\"\(name)\":{\"dtype\":\(dtype),\"shape\":\(shape),\"data_offsets\":\(offsets)}" }

    static let malformed: [(name: String, header: String, data: Int, expected: [String])] = [
        ("not an object", "[1]", 0, ["header", "starts with {"]),
        ("space before the object", " {}", 0, ["header", "starts with {", "byte 32"]),
        ("empty header", "", 0, ["header", "starts with {", "nothing"]),
        ("cut JSON", "{\"w\":", 0, ["header", "end of the text"]),
        ("text after the object", "{} x", 0, ["header", "end of the text", "'x'"]),
        ("key twice", "{\(tensor()),\(tensor())}", 8, ["header", "\"w\" occurs twice"]),
        ("deep nesting", "{\"w\":" + String(repeating: "[", count: 100_000), 0, ["nested more than 64"]),
        ("huge number", "{\(tensor(shape: "[1e999]"))}", 8, ["out of range"]),
        ("entry not an object", "{\"w\":3}", 0, ["tensor w", "an object", "3"]),
        ("no dtype", "{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, ["tensor w.dtype", "nothing"]),
        ("no shape", "{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, ["tensor w.shape", "nothing"]),
        ("no offsets", "{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, ["tensor w.data_offsets", "nothing"]),
        ("dtype not a string", "{\(tensor(dtype: "32"))}", 8, ["tensor w.dtype", "a string", "32"]),
        ("unknown dtype", "{\(tensor(dtype: "\"F31\""))}", 8, ["tensor w.dtype", "F31", "BF16"]),
        ("sub-byte dtype", "{\(tensor(dtype: "\"F4\""))}", 8, ["tensor w.dtype", "F4", "one of"]),
        ("shape not a list", "{\(tensor(shape: "2"))}", 8, ["tensor w.shape", "a list of whole numbers"]),
        ("negative extent", "{\(tensor(shape: "[-2]"))}", 8, ["tensor w.shape[0]", "-2"]),
        ("fractional extent", "{\(tensor(shape: "[2.5]"))}", 8, ["tensor w.shape[0]", "2.5", "a whole number"]),
        ("overflowing shape", "{\(tensor(shape: "[4294967296,4294967296]"))}", 8, ["tensor w.shape", "64 bits"]),
        (
            "overflow hidden by a zero", "{\(tensor(shape: "[4294967296,4294967296,0]", offsets: "[0,0]"))}", 0,
            ["tensor w.shape", "64 bits"]
        ),
        ("a name of two lines", #"{"a\nb":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4, ["tensor a b.data"]),
        ("one offset", "{\(tensor(offsets: "[0]"))}", 8, ["tensor w.data_offsets", "a list of 2"]),
        ("three offsets", "{\(tensor(offsets: "[0,8,8]"))}", 8, ["tensor w.data_offsets", "a list of 2"]),
        ("negative offset", "{\(tensor(offsets: "[-8,0]"))}", 8, ["tensor w.data_offsets[0]", "-8"]),
        ("offsets backwards", "{\(tensor(offsets: "[8,0]"))}", 8, ["tensor w.data_offsets", "not greater"]),
        ("too few bytes for the shape", "{\(tensor(offsets: "[0,4]"))}", 4, ["tensor w", "4 bytes", "8 bytes"]),
        ("too many bytes for the shape", "{\(tensor(offsets: "[0,12]"))}", 12, ["tensor w", "12 bytes", "8 bytes"]),
        ("unknown field", "{\"w\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0],\"x\":1}}", 0, ["w.x"]),
        ("hole at the start", "{\(tensor(offsets: "[4,12]"))}", 12, ["tensor w", "byte 4", "byte 0"]),
        (
            "hole in the middle", "{\(tensor("a")),\(tensor("b", offsets: "[12,20]"))}", 20,
            ["tensor b", "byte 12", "byte 8"]
        ),
        ("overlap", "{\(tensor("a")),\(tensor("b", offsets: "[4,12]"))}", 12, ["tensor b", "byte 4", "byte 8"]),
        ("same bytes twice", "{\(tensor("a")),\(tensor("b"))}", 8, ["tensor b", "byte 0", "byte 8"]),
        ("data missing", "{\(tensor())}", 7, ["data", "7 bytes", "8 bytes"]),
        ("data left over", "{\(tensor())}", 9, ["data", "9 bytes", "8 bytes"]),
        ("metadata not an object", "{\"__metadata__\":[]}", 0, ["__metadata__", "an object"]),
        ("metadata not strings", "{\"__metadata__\":{\"step\":7}}", 0, ["__metadata__.step", "a string", "7"]),
    ]

    @Test(arguments: malformed.indices) func refusesMalformedHeader(_ index: Int) throws {
        let (name, header, data, expected) = SafetensorsTests.malformed[index]
        let text = try refusal(file(header, data: [UInt8](repeating: 0, count: data)))
        for part in expected { #expect(text.contains(part), "\(name): \(text)") }
    }

    @Test func refusesLyingLengths() throws {
        #expect(try refusal([]).contains("0 bytes"))
        #expect(try refusal([1, 2, 3]).contains("3 bytes"))
        #expect(try refusal(file("{}", length: 100_000_001)).contains("at most 100000000"))
        #expect(try refusal(file("{}", length: .max)).contains("18446744073709551615"))
        #expect(try refusal(file("{}", length: 3)).contains("at most the 2 bytes"))
        #expect(try refusal(littleEndian(UInt64(4)) + [0x7B, 0x22, 0xFF, 0x22]).contains("header"))
        #expect(
            try refusal(littleEndian(UInt64(7)) + Array("{\"".utf8) + [0xFF] + Array("\":1}".utf8)).contains("UTF-8"))
        #expect(throws: SystemError("open", folder + "/none", code: ENOENT)) { try Safetensors(folder + "/none") }
    }

    @Test func acceptsWhatTheFormatAllows() throws {
        let path = folder + "/ok.safetensors"
        try write(file("{}   "), to: path)
        #expect(try Safetensors(path).entries.isEmpty)
        try write(
            file("{\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", data: [0, 0, 0x80, 0x3F]), to: path)
        #expect(try Safetensors(path).tensor("s").scalar == 1)
        #expect(try Safetensors(path).tensor("s").shape == [])
    }

    /// The bytes of each type are spelled out, so the conversion is checked against the formats' definitions.
    @Test func readsEveryType() throws {
        let cases: [(type: String, bytes: [UInt8], values: [Float], integers: [Int32]?)] = [
            ("F64", littleEndian((1.5).bitPattern) + littleEndian((-0.1).bitPattern), [1.5, -0.1], nil),
            ("F32", littleEndian(Float(0.1).bitPattern) + littleEndian(Float(-3).bitPattern), [0.1, -3], nil),
            ("F16", [0x00, 0x3E, 0x01, 0x00], [1.5, 0x1p-24], nil),
            ("BF16", [0xC0, 0x3F, 0x80, 0xC0], [1.5, -4], nil),
            ("I64", littleEndian(Int64(16_777_216)) + littleEndian(Int64(-1)), [16_777_216, -1], [16_777_216, -1]),
            ("I32", littleEndian(Int32(7)) + littleEndian(Int32(-9)), [7, -9], [7, -9]),
            ("I16", littleEndian(Int16(-300)) + littleEndian(Int16(5)), [-300, 5], [-300, 5]),
            ("I8", [0xFF, 0x7F], [-1, 127], [-1, 127]),
            ("U8", [0xFF, 0x7F], [255, 127], [255, 127]),
            ("BOOL", [0, 1], [0, 1], [0, 1]),
        ]
        #expect(cases.count == Safetensors.ElementType.allCases.count)
        for (type, bytes, values, integers) in cases {
            let path = folder + "/\(type).safetensors"
            let header = "{\"t\":{\"dtype\":\"\(type)\",\"shape\":[2],\"data_offsets\":[0,\(bytes.count)]}}"
            try write(file(header, data: bytes), to: path)
            let stored = try Safetensors(path)
            #expect(try stored.tensor("t").scalars == values, "\(type)")
            if let integers {
                #expect(try stored.integers("t") == integers, "\(type)")
            } else {
                #expect(throws: FormatError.self) { try stored.integers("t") }
            }
        }
    }

    @Test func refusesNumbersThatDoNotFit() throws {
        let path = folder + "/large.safetensors"
        let header = "{\"t\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}"
        try write(file(header, data: littleEndian(Int64(16_777_217))), to: path)
        #expect {
            try Safetensors(path).tensor("t")
        } throws: { "\($0)".contains("tensor t") && "\($0)".contains("16777217") }
        try write(file(header, data: littleEndian(Int64(1) << 40)), to: path)
        #expect(throws: FormatError.self) { try Safetensors(path).integers("t") }
        #expect { try Safetensors(path).tensor("T") } throws: { "\($0)".contains("only t") }
    }

    private static let tensors: [(String, Tensor)] = [
        ("scalar", Tensor(2.5)), ("empty", Tensor(zeros: [0, 3])), ("b.weight", Tensor([1, -2, 3, 4, 5, 6], [2, 3])),
        ("a", Tensor([.infinity, -0.0, 0x1p-149], [3])),
    ]

    @Test func roundTripIsExactAndDeterministic() throws {
        let path = folder + "/a.safetensors"
        let notes = ["note": "quote \" and é\n", "step": "7"]
        try Safetensors.write(SafetensorsTests.tensors, metadata: notes, to: path)
        let stored = try Safetensors(path)
        #expect(stored.metadata == notes)
        #expect(stored.entries.map(\.name).sorted() == SafetensorsTests.tensors.map(\.0).sorted())
        for (name, tensor) in SafetensorsTests.tensors {
            let loaded = try stored.tensor(name)
            #expect(loaded.shape == tensor.shape)
            #expect(loaded.scalars.map(\.bitPattern) == tensor.scalars.map(\.bitPattern))
        }
        let bytes = try read(path)
        #expect(bytes.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) } % 8 == 0)
        try Safetensors.write(SafetensorsTests.tensors, metadata: notes, to: path)
        #expect(try read(path) == bytes)
        #expect(throws: FormatError.self) {
            try Safetensors.write([("a", Tensor(1)), ("a", Tensor(2))], to: path)
        }
        #expect(try read(path) == bytes)
    }

    @Test func mapsLargeFilesAndOutlivesTheirReplacement() throws {
        let path = folder + "/large.safetensors"
        let values = (0..<100_000).map { Float($0) }
        try Safetensors.write([("x", Tensor(values, [100_000]))], to: path)
        let loaded = try Safetensors(path).tensor("x")
        try Safetensors.write([("x", Tensor(zeros: [100_000]))], to: path)
        #expect(loaded.scalars == values)
        // What is discarded is read again from the old content.
        loaded.storage!.discard()
        #expect(loaded.scalars == values)
    }

    @Test func roundsSixteenBitTypesToNearestEven() throws {
        let path = folder + "/half.safetensors"
        let values: [Float] = [1, 1 + 0x1p-8, 1 + 0x3p-8, -2.5, .nan, .infinity]
        try Safetensors.write([("x", Tensor(values, [6]))], as: .bfloat16, to: path)
        let loaded = try Safetensors(path).tensor("x").scalars
        #expect(Array(loaded[0..<4]) == [1, 1, 1 + 0x4p-8, -2.5])
        #expect(loaded[4].isNaN && loaded[5] == .infinity)
        try Safetensors.write([("x", Tensor([1 + 0x1p-11, 0.1], [2]))], as: .float16, to: path)
        #expect(try Safetensors(path).tensor("x").scalars == [1, Float(Float16(0.1))])
    }

    @Test func everyPrefixIsRefused() throws {
        let path = folder + "/whole.safetensors"
        try Safetensors.write(SafetensorsTests.tensors, metadata: ["k": "v"], to: path)
        let bytes = try read(path)
        for count in 0..<bytes.count {
            #expect(try refusal(Array(bytes.prefix(count))) != "accepted", "\(count) bytes")
        }
    }

    @Test func flippedBytesNeverStopTheProgram() throws {
        let path = folder + "/whole.safetensors"
        try Safetensors.write(SafetensorsTests.tensors, metadata: ["k": "v"], to: path)
        let bytes = try read(path)
        var random = Xorshift()
        var refused = 0
        for _ in 0..<20_000 {
            var damaged = bytes
            for _ in 0...random.next(3) { damaged[random.next(damaged.count)] = UInt8(random.next(256)) }
            let header = try? damaged.withUnsafeBytes { try SafetensorsHeader(path: "x", bytes: $0) }
            if header == nil { refused += 1 }
            for entry in header?.entries ?? [] { #expect(entry.range.upperBound <= bytes.count) }
        }
        #expect(refused > 10_000)
    }
}
