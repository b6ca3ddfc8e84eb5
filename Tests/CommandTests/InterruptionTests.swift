import Foundation
import Tessera
import TesseraIO
import Testing

/// A run that is stopped at any moment and resumed ends with the same bits as one that was not.
@Suite(.serialized) struct InterruptionTests {
    let scratch: Scratch
    let data: String
    let whole: [UInt32]

    init() throws {
        scratch = try Scratch()
        data = try scratch.writeBars(count: 512)
        let path = scratch.file("whole")
        let result = try Command.run(Self.arguments(scratch, data, path))
        #expect(result.status == 0, "\(result.errors)")
        whole = try Self.weights(path)
    }

    static func arguments(_ scratch: Scratch, _ data: String, _ out: String) -> [String] {
        scratch.training(data, out: out, epochs: 4) + ["--model-ema-decay", "0.95", "--checkpoint-seconds", "0.05"]
    }

    static func weights(_ run: String) throws -> [UInt32] {
        try ["last", "model", "optimizer"].flatMap { name in
            try Safetensors("\(run)/\(name).safetensors").tensors().flatMap { $0.1.scalars.map(\.bitPattern) }
        }
    }

    /// Starts a run, sends it a signal after a while, and says whether it was still running.
    private func interrupted(_ arguments: [String], after seconds: Double, _ signal: Int32) throws -> Int32 {
        let process = try Command.start(
            arguments, output: scratch.url("output"), errors: scratch.url("errors"))
        Thread.sleep(forTimeInterval: seconds)
        kill(process.processIdentifier, signal)
        process.waitUntilExit()
        return process.terminationStatus
    }

    @Test func killAndResume() throws {
        var generator = RandomGenerator(seed: 11)
        for attempt in 0..<4 {
            let path = scratch.file("killed\(attempt)")
            _ = try interrupted(
                Self.arguments(scratch, data, path), after: Double(generator.uniform(0.2, 1.5)), SIGKILL)
            guard FileManager.default.fileExists(atPath: path + "/config.json") else { continue }
            // Killed once more while it resumes.
            _ = try interrupted(
                ["train", "--resume", path, "--quiet"], after: Double(generator.uniform(0.2, 1.0)), SIGKILL)
            let result = try Command.run("train", "--resume", path, "--quiet")
            #expect(result.status == 0, "\(result.errors)")
            #expect(try Self.weights(path) == whole)
            let rows = try String(contentsOfFile: path + "/metrics.csv", encoding: .utf8)
                .split(whereSeparator: \.isNewline)
            #expect(rows.count == 5)
        }
    }

    @Test func interruptWritesACheckpoint() throws {
        let path = scratch.file("interrupted")
        let status = try interrupted(Self.arguments(scratch, data, path), after: 0.6, SIGINT)
        guard status != 0 else { return }  // it was faster than the signal
        #expect(status == 130)
        #expect(FileManager.default.fileExists(atPath: path + "/state.json"))
        #expect(try Command.run("train", "--resume", path, "--quiet", "--threads", "1").status == 0)
        #expect(try Self.weights(path) == whole)
    }
}
