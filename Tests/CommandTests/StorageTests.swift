import Foundation
import Tessera
import TesseraIO
import Testing

/// Disks that are full and folders that are read-only: one line, a non-zero exit, and the last checkpoint goes on to the
/// same bits as a run that nothing disturbed.
@Suite(.serialized) struct StorageTests {
    let scratch: Scratch
    let data: String

    init() throws {
        scratch = try Scratch()
        data = try scratch.writeBars(count: 512)
    }

    private func arguments(_ run: String, checkpointSeconds: String = "0.05") -> [String] {
        scratch.training(data, out: run, epochs: 10) + ["--checkpoint-seconds", checkpointSeconds]
    }

    private func expectFailure(_ result: CommandResult, _ run: String, _ reason: String) {
        #expect(result.status == 1, "\(result.errors)")
        #expect(result.errors.split(separator: "\n").count == 1, "\(result.errors)")
        #expect(result.errors.contains(run) && result.errors.contains(reason), "\(result.errors)")
    }

    /// A run that goes on when nothing is in its way any more, against one that was never stopped.
    private func expectRecovery(_ run: String) throws {
        let whole = scratch.file("whole")
        #expect(try Command.run(arguments(whole, checkpointSeconds: "60")).status == 0)
        let result = try Command.run("train", "--resume", run, "--quiet")
        #expect(result.status == 0, "\(result.errors)")
        #expect(try InterruptionTests.weights(run) == InterruptionTests.weights(whole))
    }

    /// A file that may not grow fails as one on a full disk does, with another error number.
    @Test func filesThatMayNotGrow() throws {
        let run = scratch.file("run")
        let process = try scratch.startTraining(arguments(run), in: run)
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        // 256 KiB: less than the weights.
        let limited = ["/bin/sh", "-c", #"ulimit -f 512; exec "$@""#, "sh"]
        expectFailure(
            try Command.run(["train", "--resume", run, "--quiet"], under: limited), run, "File too large")
        expectFailure(
            try Command.run(arguments(scratch.file("other")), under: limited), scratch.file("other"), "File too large")
        try expectRecovery(run)
    }

    private static let canMount = {
        guard getuid() == 0, let scratch = try? Scratch() else { return false }
        let isMounted = system("mount -t tmpfs -o size=64k tmpfs '\(scratch.path)' 2>/dev/null") == 0
        return isMounted && system("umount '\(scratch.path)'") == 0
    }()

    @Test(.enabled(if: canMount, "a full disk needs the right to mount one")) func fullDisk() throws {
        let disk = scratch.file("disk")
        try FileManager.default.createDirectory(atPath: disk, withIntermediateDirectories: true)
        #expect(system("mount -t tmpfs -o size=16m tmpfs '\(disk)'") == 0)
        defer { #expect(system("umount '\(disk)'") == 0) }
        let run = disk + "/run"
        let process = try scratch.startTraining(arguments(run), in: run)
        // It must not end before the disk is full.
        kill(process.processIdentifier, SIGSTOP)
        _ = system("dd if=/dev/zero of='\(disk)/filler' bs=4k 2>/dev/null")
        kill(process.processIdentifier, SIGCONT)
        process.waitUntilExit()
        expectFailure(
            CommandResult(
                status: process.terminationStatus, output: "",
                errors: try String(contentsOf: scratch.url("errors"), encoding: .utf8)),
            run, "No space left on device")
        try FileManager.default.removeItem(atPath: disk + "/filler")
        try expectRecovery(run)
    }

    /// Starts the command as a user who is not root: root may write everywhere.
    private static let unprivileged: [String]? = {
        guard getuid() == 0 else { return [] }
        let prefix = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        return (try? Command.run(["--version"], under: prefix))?.status == 0 ? prefix : nil
    }()

    @Test(.enabled(if: unprivileged != nil, "nobody may not run the command where it is")) func readOnlyFolders() throws
    {
        let prefix = try #require(Self.unprivileged)
        let run = scratch.file("run")
        let process = try scratch.startTraining(arguments(run), in: run)
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        #expect(system("chmod -R a-w '\(scratch.path)'") == 0)
        let before = try Data(contentsOf: URL(fileURLWithPath: run + "/last.safetensors"))
        expectFailure(try Command.run(["train", "--resume", run, "--quiet"], under: prefix), run, "Permission denied")
        expectFailure(
            try Command.run(arguments(scratch.file("new")), under: prefix), scratch.file("new"), "Permission denied")
        #expect(try Data(contentsOf: URL(fileURLWithPath: run + "/last.safetensors")) == before)
        #expect(system("chmod -R u+w '\(scratch.path)'") == 0)
        try expectRecovery(run)
    }
}
