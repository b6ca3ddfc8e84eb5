import Tessera

/// Weights in several safetensors files, and the index that tells which array is where:
/// `{"weight_map": {NAME: FILE, …}}`, as Hugging Face writes it.
public struct ShardedSafetensors: WeightSource {
    public let path: String
    public let shapes: [String: Shape]
    private let shards: [String: Safetensors]
    private let places: [String: String]

    private static let maximumIndex = 64 << 20

    /// Opens the index and every file it names, which lie beside it.
    /// - Throws: ``SystemError``; ``FormatError`` if the index is none, or names what is not there.
    public init(index path: String) throws {
        self.path = path
        func refuse(_ subject: String, _ found: String, _ expected: String) -> FormatError {
            FormatError(file: path, subject: subject, found: found, expected: expected)
        }
        let bytes = try MappedFile.contents(of: path)
        guard bytes.count <= Self.maximumIndex else {
            throw refuse("", "\(bytes.count) bytes", "at most \(Self.maximumIndex)")
        }
        let json: JSON
        do { json = try JSON(parsing: bytes) } catch { throw refuse("", "\(error)", "an index of weights") }
        guard let members = json["weight_map"]?.members else {
            throw refuse("weight_map", json["weight_map"]?.summary ?? "nothing", "an object")
        }
        var shards: [String: Safetensors] = [:]
        var places: [String: String] = [:]
        var shapes: [String: Shape] = [:]
        for member in members {
            // A name with a folder could lead anywhere.
            guard let name = member.value.string, !name.contains("/") else {
                throw refuse("weight_map.\(member.key)", member.value.summary, "the name of a file beside the index")
            }
            let shard = try shards[name] ?? Safetensors("\(parent(of: path))/\(name)")
            shards[name] = shard
            guard let entry = shard[member.key] else {
                throw refuse("weight_map.\(member.key)", "no such tensor in \(name)", "one")
            }
            (places[member.key], shapes[member.key]) = (name, entry.shape)
        }
        (self.shards, self.places, self.shapes) = (shards, places, shapes)
    }

    public func tensor(_ name: String) throws -> Tensor {
        guard let shard = places[name].flatMap({ shards[$0] }) else {
            throw FormatError(
                file: path, subject: "weight_map", found: "no \(name)", expected: "a tensor of this name")
        }
        return try shard.tensor(name)
    }
}
