import Foundation
import Testing

/// What a finished command left behind.
struct CommandResult {
    let status: Int32
    let output: String
    let errors: String
}

/// The command, built beside the tests, run as a user runs it.
enum Command {
    static let executable: URL = {
        var folder = Bundle.module.bundleURL
        while folder.path != "/" {
            let candidate = folder.appendingPathComponent("tessera")
            var isFolder: ObjCBool = false
            if FileManager.default.fileExists(atPath: candidate.path, isDirectory: &isFolder), !isFolder.boolValue {
                return candidate
            }
            folder.deleteLastPathComponent()
        }
        fatalError("the command is not built")
    }()

    /// - Parameter prefix: another program and its arguments, which is to start the command
    static func start(
        _ arguments: [String], under prefix: [String] = [], output: URL, errors: URL,
        environment: [String: String] = [:]
    ) throws -> Process {
        let process = Process()
        let whole = prefix + [executable.path] + arguments
        process.executableURL = URL(fileURLWithPath: whole[0])
        process.arguments = Array(whole.dropFirst())
        process.environment = ProcessInfo.processInfo.environment
            .merging(["COLUMNS": "100", "NO_COLOR": "1"]) { $1 }.merging(environment) { $1 }
        for file in [output, errors] { try Data().write(to: file) }
        process.standardOutput = try FileHandle(forWritingTo: output)
        process.standardError = try FileHandle(forWritingTo: errors)
        process.standardInput = FileHandle.nullDevice
        try process.run()
        return process
    }

    static func run(_ arguments: String..., environment: [String: String] = [:]) throws -> CommandResult {
        try run(arguments, environment: environment)
    }

    static func run(
        _ arguments: [String], under prefix: [String] = [], environment: [String: String] = [:]
    ) throws -> CommandResult {
        let folder = try Scratch()
        let (output, errors) = (folder.url("output"), folder.url("errors"))
        let process = try start(arguments, under: prefix, output: output, errors: errors, environment: environment)
        process.waitUntilExit()
        return CommandResult(
            status: process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus,
            output: try String(contentsOf: output, encoding: .utf8),
            errors: try String(contentsOf: errors, encoding: .utf8))
    }
}

/// A folder that goes with the value.
final class Scratch: Sendable {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("tessera-" + UUID().uuidString).path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func url(_ name: String) -> URL { URL(fileURLWithPath: path).appendingPathComponent(name) }
    func file(_ name: String) -> String { url(name).path }

    /// A data set of `count` small grey pictures in the idx format: a bright bar whose row is the class.
    @discardableResult
    func writeBars(_ name: String = "bars", count: Int = 192) throws -> String {
        let side = 12
        let folder = file(name)
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        for (prefix, count, salt) in [("train", count, 0), ("t10k", 48, 7)] {
            var images: [UInt8] = [0, 0, 8, 3, 0, 0, UInt8(count >> 8), UInt8(count & 255), 0, 0, 0, 12, 0, 0, 0, 12]
            var labels: [UInt8] = [0, 0, 8, 1, 0, 0, UInt8(count >> 8), UInt8(count & 255)]
            for index in 0..<count {
                let label = (index * 7 + salt) % 3
                labels.append(UInt8(label))
                for pixel in 0..<(side * side) {
                    let noise = (index * 31 + pixel * 17 + salt) % 60
                    images.append(UInt8(noise + (pixel / side / 4 == label ? 180 : 0)))
                }
            }
            try Data(images).write(to: URL(fileURLWithPath: folder + "/\(prefix)-images-idx3-ubyte"))
            try Data(labels).write(to: URL(fileURLWithPath: folder + "/\(prefix)-labels-idx1-ubyte"))
        }
        return folder
    }

    /// Arguments of a training run that takes about a second.
    func training(_ data: String, out: String, epochs: Int = 3) -> [String] {
        [
            "train", "cct_2_3x2_32", "--data", data, "--out", out, "--epochs", "\(epochs)", "--batch", "32", "--lr",
            "3e-3", "--warmup-epochs", "0.5", "--crop-padding", "1", "--hflip", "0.5", "--seed", "5", "--quiet",
            "--precision", "float32",
        ]
    }

    /// Starts a run and returns when its first checkpoint is there; what it says goes to `output` and `errors`.
    func startTraining(_ arguments: [String], in run: String) throws -> Process {
        let process = try Command.start(arguments, output: url("output"), errors: url("errors"))
        while process.isRunning, !FileManager.default.fileExists(atPath: run + "/state.json") {
            Thread.sleep(forTimeInterval: 0.002)
        }
        return process
    }
}
