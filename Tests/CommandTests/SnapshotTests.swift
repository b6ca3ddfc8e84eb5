import Foundation
import Testing

/// Help texts, word for word. `TESSERA_RECORD=1 swift test` writes them anew into the source folder.
@Suite struct SnapshotTests {
    @Test(arguments: [
        "", "models", "methods", "train", "evaluate", "predict", "features", "explain", "data", "study", "quantize",
        "probe",
        "init", "import", "export", "bench", "forward",
    ]) func help(_ verb: String) throws {
        let result = try Command.run((verb.isEmpty ? [] : [verb]) + ["--help"])
        #expect(result.status == 0 && result.errors.isEmpty)
        let name = "help\(verb.isEmpty ? "" : "-" + verb).txt"
        if ProcessInfo.processInfo.environment["TESSERA_RECORD"] == "1" {
            let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Snapshots")
            try result.output.write(to: folder.appendingPathComponent(name), atomically: true, encoding: .utf8)
        }
        let file = Bundle.module.resourceURL!.appendingPathComponent("Snapshots/\(name)")
        #expect(result.output == (try? String(contentsOf: file, encoding: .utf8)))
    }

    @Test func everyVerbShowsAnExample() throws {
        for verb in [
            "models", "train", "evaluate", "predict", "features", "explain", "data", "study", "probe", "quantize",
            "init",
            "import", "export", "bench", "forward",
        ] {
            #expect(try Command.run(verb, "--help").output.contains("tessera \(verb) "), "\(verb)")
        }
    }
}
