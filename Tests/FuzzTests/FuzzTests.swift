import Foundation
import Testing

@testable import TesseraIO
@testable import tessera_command

/// Damaged files in every format that is read: each is understood or refused by an error of one line, and nothing stops
/// the process. A few hundred of each kind in the test suite; `make fuzz` goes on for a given time, with sanitizers.
@Suite(.serialized) struct FuzzTests {
    @Test(arguments: FuzzTarget.all + [.recipe]) func everyDamagedFileIsAnAnswerOrAnError(_ target: FuzzTarget) throws {
        let environment = ProcessInfo.processInfo.environment
        let seconds = environment["TESSERA_FUZZ_SECONDS"].flatMap(Double.init)
        let seed = environment["TESSERA_FUZZ_SEED"].flatMap(UInt64.init) ?? 1
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("tessera-fuzz-\(target.name)").path
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let corpus = try target.corpus(folder)
        for bytes in corpus { #expect(throws: Never.self) { try target.read(bytes, folder) } }

        var mutator = Mutator(seed: seed, words: target.words)
        let start = Date()
        var (executions, accepted, slowest) = (0, 0, 0.0)
        while seconds.map({ Date().timeIntervalSince(start) < $0 }) ?? (executions < target.defaultExecutions) {
            let bytes = mutator.damaged(corpus)
            // What was read when the process ended is then left behind.
            if seconds != nil {
                try Data(bytes).write(to: URL(fileURLWithPath: "/tmp/tessera-fuzz-\(target.name).input"))
            }
            let began = Date()
            do {
                try target.read(bytes, folder)
                accepted += 1
            } catch let finding as FuzzTarget.Finding {
                Issue.record("\(target.name) seed \(seed): FuzzTarget.swift:\(finding.line) does not hold")
            } catch {
                #expect(!"\(error)".contains("\n") && !"\(error)".isEmpty, "\(target.name) seed \(seed): \(error)")
            }
            slowest = max(slowest, Date().timeIntervalSince(began))
            executions += 1
        }
        #expect(slowest < 5, "\(target.name): an input took \(slowest) s")
        guard seconds != nil else { return }
        print("fuzz \(target.name): \(executions) executions, \(accepted) accepted, slowest \(slowest) s, seed \(seed)")
    }
}

extension FuzzTarget: CustomTestStringConvertible {
    var testDescription: String { name }

    static let recipe = FuzzTarget(
        name: "recipe", defaultExecutions: 500,
        words: [
            "[", "]", "{", "}", ": ", "- ", "? ", "&a ", "*a", "!!int ", "| ", "> ", "'", "\"", "\n", "---\n", "%YAML",
        ],
        corpus: { _ in
            let folder = URL(fileURLWithPath: fixtures("../Recipes"))
            return try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
                .sorted { $0.path < $1.path }.map { Array(try Data(contentsOf: $0)) }
        },
        read: { bytes, _ in _ = try RecipeFile(parsing: Data(bytes), name: "recipe.yaml") })
}
