import ArgumentParser
import Foundation
import Tessera
import TesseraData

/// How many cores to compute on: the same flag for every verb.
struct ThreadOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Threads (default: the cores that the process may use).", valueName: "n"))
    var threads: Int?

    func validate() throws {
        guard (1...256).contains(threads ?? 1) else {
            throw ValidationError("--threads: found \(threads!), expected 1 to 256")
        }
    }

    /// Sets the thread count of the process.
    func apply() { if let threads { Processor.threads = threads } }
}

/// How to compute: the same flags for every verb that uses a model.
struct ComputeOptions: ParsableArguments {
    @OptionGroup var cores: ThreadOptions

    @Option(
        help: """
            Arithmetic of matrix products: float32, bfloat16, int16 with errors below bfloat16's, float32x3 with errors \
            of 1e-5 where there are tiles, fastest, the one of the first three that suits the processor, or, for training, \
            switchback, 8-bit codes for linear layers' forward products and the gradients of their inputs (default: the \
            faster of the first two for training, else float32).
            """)
    var precision: Precision?

    /// Sets the thread count of the process.
    func apply() { cores.apply() }
}

extension Precision: ExpressibleByArgument {
    public init?(argument: String) {
        if argument == "fastest" { self = .fastest } else { self.init(rawValue: argument) }
    }

    public static var allValueStrings: [String] { allCases.map(\.rawValue) + ["fastest"] }
}
extension DatasetFormat: ExpressibleByArgument {}

/// Where images come from.
struct DataOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "A data set's name (fashion-mnist), or a path: class folders, idx or CIFAR files, WebDataset tars.",
            valueName: "data"))
    var data: String

    @Option(help: "What the path holds, where its content does not tell.")
    var format: DatasetFormat?

    @Option(help: ArgumentHelp("Refuse images with more pixels.", valueName: "n"))
    var pixelLimit = Image.defaultPixelLimit

    @Flag(help: "Stop at the first image that cannot be read, instead of skipping and naming it.")
    var strict = false

    /// Opens what a model is to be measured on.
    /// - Parameter labelled: whether images must have classes
    /// - Throws: `DataError`, also for images without the classes that are wanted.
    func open(labelled: Bool = true) throws -> DataSource {
        let source = try DataSource.open(data, format: format, pixelLimit: pixelLimit)
        guard source.isLabelled || !labelled else { throw DataError(data, "has no class folders") }
        return source
    }
}

/// A line that is rewritten in place on a terminal, and printed now and then into a log.
final class ProgressLine {
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private let isQuiet: Bool
    private var lastPrint = Date.distantPast
    private var width = 0

    init(quiet: Bool) { isQuiet = quiet }

    /// Shows a passing state.
    func update(_ text: @autoclosure () -> String) {
        guard !isQuiet, Date().timeIntervalSince(lastPrint) > (isTerminal ? 0.1 : 15) else { return }
        lastPrint = Date()
        let text = text()
        guard isTerminal else { return standardError(text) }
        write("\r" + text + String(repeating: " ", count: max(0, width - text.count)))
        width = text.count
    }

    /// Prints a line that stays.
    func finish(_ text: String) {
        guard !isQuiet else { return }
        if isTerminal, width > 0 { write("\r" + String(repeating: " ", count: width) + "\r") }
        width = 0
        standardError(text)
    }

    private func write(_ text: String) { FileHandle.standardError.write(Data(text.utf8)) }
}

/// 1234567 as `1,234,567`.
func grouped(_ number: Int) -> String {
    let digits = String(number)
    return String(
        digits.enumerated().flatMap { index, digit in
            index > 0 && (digits.count - index) % 3 == 0 ? [",", digit] : [digit]
        })
}

/// Seconds as `1:02:03` or `2:03`.
func clock(_ seconds: Double) -> String {
    let total = Int(seconds.rounded())
    let (hours, minutes, rest) = (total / 3600, total / 60 % 60, total % 60)
    return hours > 0 ? String(format: "%d:%02d:%02d", hours, minutes, rest) : String(format: "%d:%02d", minutes, rest)
}

/// The most memory that the process has held, in 2²⁰ bytes. (`getrusage` would count what the parent held when it started
/// this process.)
var peakMemory: Double {
    let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
    let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") } ?? ""
    return (Double(line.filter(\.isNumber)) ?? 0) / 1024
}

/// What a training is given, be it a run of its own or one of a study.
struct TrainingInputs: ParsableArguments {
    @Option(help: ArgumentHelp("A data set's name or path (see `tessera data --help`).", valueName: "data"))
    var data: String?

    @Option(help: "What the path holds, where its content does not tell.")
    var format: DatasetFormat?

    @Option(help: ArgumentHelp("The trained model that methods such as deit and kd learn from.", valueName: "run"))
    var teacher: String?

    @Option(
        help: ArgumentHelp(
            "Height and width of the input (default: small images keep their size, else the model's).", valueName: "n"))
    var imageSize: Int?

    @Flag(help: "No progress, only the result.")
    var quiet = false

    @Flag(help: "Print the result as JSON.")
    var json = false
}
