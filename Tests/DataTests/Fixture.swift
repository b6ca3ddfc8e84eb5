import Foundation
import Testing

@testable import TesseraData

/// The tensors of a safetensors file, read with as little as a test needs.
struct Fixture {
    private let header: [String: Any]
    private let body: Data

    /// The case `name` of the system `training_recipe`; `TESSERA_FIXTURES` may name another folder of systems.
    init(_ name: String) throws {
        let data = try Data(contentsOf: Self.folder.appendingPathComponent("training_recipe/\(name).safetensors"))
        let length = data.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
        header = try #require(try JSONSerialization.jsonObject(with: data[8..<8 + length]) as? [String: Any])
        body = data.dropFirst(8 + length)
    }

    static var folder: URL {
        ProcessInfo.processInfo.environment["TESSERA_FIXTURES"].map { URL(fileURLWithPath: $0) } ?? bundled
    }

    static let bundled = Bundle.module.resourceURL!.appendingPathComponent("Fixtures")

    var names: [String] { header.keys.filter { $0 != "__metadata__" }.sorted() }

    func config() throws -> [String: Any] {
        let text = try #require((header["__metadata__"] as? [String: String])?["config"])
        return try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
    }

    func shape(_ name: String) throws -> [Int] {
        try #require((header[name] as? [String: Any])?["shape"] as? [Int], "\(name)")
    }

    private func bytes(_ name: String) throws -> Data {
        let offsets = try #require((header[name] as? [String: Any])?["data_offsets"] as? [Int], "\(name)")
        return Data(body.dropFirst(offsets[0]).prefix(offsets[1] - offsets[0]))
    }

    /// Of eight bytes each, or of one.
    func integers(_ name: String) throws -> [Int] {
        let isByte = (header[name] as? [String: Any])?["dtype"] as? String == "U8"
        return try bytes(name).withUnsafeBytes { raw in
            if isByte { return raw.map { Int($0) } }
            return (0..<raw.count / 8).map { Int(raw.loadUnaligned(fromByteOffset: 8 * $0, as: Int64.self)) }
        }
    }

    func floats(_ name: String) throws -> [Float] {
        try bytes(name).withUnsafeBytes { raw in
            (0..<raw.count / 4).map { raw.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
        }
    }

    /// An image stored as height, width, channels.
    func image(_ name: String) throws -> Image {
        let shape = try shape(name)
        return Image(
            height: shape[0], width: shape[1], channels: shape[2], pixels: try integers(name).map { UInt8($0) })
    }
}

/// Channels first to channels last, for one image.
func channelsLast(_ values: ArraySlice<Float>, channels: Int, plane: Int) -> [Float] {
    (0..<plane).flatMap { i in (0..<channels).map { values[values.startIndex + $0 * plane + i] } }
}

/// A folder that is removed when the test ends.
final class TemporaryFolder {
    let path = NSTemporaryDirectory() + "tessera-data-" + UUID().uuidString

    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    @discardableResult
    func write(_ name: String, _ bytes: [UInt8]) throws -> String {
        let file = URL(fileURLWithPath: path + "/" + name)
        try FileManager.default.createDirectory(
            at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(bytes).write(to: file)
        return file.path
    }
}
