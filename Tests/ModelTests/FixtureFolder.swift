import Foundation
import Tessera
import TesseraIO

/// Golden results of the reference implementations: those in the repository, or, for the systems that it has,
/// all below the folder that the environment variable TESSERA_FIXTURES names.
enum FixtureFolder {
    private static let own = Bundle.module.resourceURL!.appendingPathComponent("Fixtures")

    private static func folder(_ system: String) -> URL {
        guard let path = ProcessInfo.processInfo.environment["TESSERA_FIXTURES"], !path.isEmpty,
            FileManager.default.fileExists(atPath: "\(path)/\(system)")
        else { return own.appendingPathComponent(system) }
        return URL(fileURLWithPath: path).appendingPathComponent(system)
    }

    /// The cases of a system, by path.
    static func cases(_ system: String) -> [String] {
        let folder = folder(system)
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        return names.filter { $0.hasSuffix(".safetensors") }.sorted().map { folder.appendingPathComponent($0).path }
    }

    static func path(_ system: String, _ name: String) -> String {
        folder(system).appendingPathComponent(name).path
    }

    static func tensors(_ path: String) throws -> (metadata: [String: String], tensors: [String: Tensor]) {
        let file = try Safetensors(path)
        return (file.metadata, Dictionary(uniqueKeysWithValues: try file.tensors()))
    }
}

/// The greatest difference between two tensors, relative to the greatest value of the expected one.
func relativeError(_ found: Tensor, _ expected: Tensor, floor: Float = 0) -> Float {
    let largest = max(expected.scalars.map(abs).max() ?? 0, floor)
    let difference = zip(found.scalars, expected.scalars).map { abs($0 - $1) }.max() ?? 0
    return difference == 0 ? 0 : difference / max(largest, .leastNormalMagnitude)
}
