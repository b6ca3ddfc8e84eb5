import CFuzzer
import Foundation

/// One format under libFuzzer: `TESSERA_FUZZ_TARGET=FORMAT Fuzz FOLDER [FLAG...]`, with libFuzzer's own flags.
@main struct Fuzzer {
    private let target: FuzzTarget
    /// Of the process; what is read as a file is written here.
    private let folder: String

    /// libFuzzer's callback has no context.
    private static let current = Fuzzer()

    private init() {
        let name = ProcessInfo.processInfo.environment["TESSERA_FUZZ_TARGET"] ?? ""
        guard let target = FuzzTarget.all.first(where: { $0.name == name }) else {
            let names = FuzzTarget.all.map(\.name).joined(separator: " ")
            fatalError("TESSERA_FUZZ_TARGET: found \"\(name)\", expected one of: \(names)")
        }
        self.target = target
        let memory = "/dev/shm"
        let base = FileManager.default.isWritableFile(atPath: memory) ? memory : NSTemporaryDirectory()
        folder = "\(base)/tessera-fuzz-\(name)-\(getpid())"
        do {
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        } catch { fatalError("\(folder): \(error)") }
    }

    static func main() {
        atexit { try? FileManager.default.removeItem(atPath: Fuzzer.current.folder) }
        var isFolder: ObjCBool = false
        // A file is one input to run again.
        if let corpus = CommandLine.arguments.dropFirst().first(where: { !$0.hasPrefix("-") }),
            FileManager.default.fileExists(atPath: corpus, isDirectory: &isFolder), isFolder.boolValue
        {
            do { try current.writeSeeds(into: corpus) } catch { fatalError("\(corpus): \(error)") }
        }
        var count = CommandLine.argc
        var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
        exit(
            LLVMFuzzerRunDriver(&count, &arguments) { bytes, count in
                Fuzzer.current.run(Array(UnsafeBufferPointer(start: bytes, count: count)))
                return 0
            })
    }

    /// Fills a folder with good files, and writes the format's words beside it, as `FOLDER.dict`.
    private func writeSeeds(into corpus: String) throws {
        for (number, bytes) in try target.corpus(folder).enumerated() {
            try Data(bytes).write(to: URL(fileURLWithPath: "\(corpus)/seed-\(number)"))
        }
        let words = target.words.map { word in
            "\"" + word.utf8.map { String(format: "\\x%02x", $0) }.joined() + "\"\n"
        }
        try Data(("# of \(target.name)\n" + words.joined()).utf8).write(to: URL(fileURLWithPath: corpus + ".dict"))
    }

    private func run(_ bytes: [UInt8]) {
        do { try target.read(bytes, folder) } catch let finding as FuzzTarget.Finding {
            fatalError("\(target.name): FuzzTarget.swift:\(finding.line) does not hold")
        } catch {
            let line = "\(error)"
            guard !line.isEmpty, !line.contains("\n") else { fatalError("\(target.name): not one line: \(line)") }
        }
    }
}
