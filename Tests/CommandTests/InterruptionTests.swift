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

    /// Starts a run and kills it after a while.
    private func killed(_ arguments: [String], after seconds: Double) throws {
        let process = try Command.start(arguments, output: scratch.url("output"), errors: scratch.url("errors"))
        Thread.sleep(forTimeInterval: seconds)
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    @Test func killAndResume() throws {
        var generator = RandomGenerator(seed: 11)
        for attempt in 0..<4 {
            let path = scratch.file("killed\(attempt)")
            try killed(Self.arguments(scratch, data, path), after: Double(generator.uniform(0.2, 1.5)))
            guard FileManager.default.fileExists(atPath: path + "/config.json") else { continue }
            // Killed once more while it resumes.
            try killed(["train", "--resume", path, "--quiet"], after: Double(generator.uniform(0.2, 1.0)))
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
        let process = try scratch.startTraining(Self.arguments(scratch, data, path), in: path)
        process.interrupt()
        process.waitUntilExit()
        #expect(process.terminationReason == .exit)
        guard process.terminationStatus != 0 else { return }  // it was faster than the signal
        #expect(process.terminationStatus == 130)
        #expect(try Command.run("train", "--resume", path, "--quiet", "--threads", "1").status == 0)
        #expect(try Self.weights(path) == whole)
    }
}
