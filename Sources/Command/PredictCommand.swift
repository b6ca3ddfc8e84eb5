import ArgumentParser
import Foundation
import Tessera
import TesseraData
import TesseraTraining

/// Image files from arguments, folders and standard input.
struct ImageArguments: ParsableArguments {
    @Argument(help: "Image files (JPEG, PNG, WebP) or folders; - reads file names from standard input.")
    var images: [String]

    @Option(help: ArgumentHelp("Refuse images with more pixels.", valueName: "n"))
    var pixelLimit = Image.defaultPixelLimit

    /// The files, folders opened (sorted by name, not entered further).
    func files() throws -> [String] {
        try images.flatMap { path -> [String] in
            if path == "-" { return Array(AnySequence { AnyIterator { readLine() } }).filter { !$0.isEmpty } }
            var isFolder: ObjCBool = false
            guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), isFolder.boolValue else {
                return [path]
            }
            let names = try FileManager.default.contentsOfDirectory(atPath: path).filter { name in
                ImageFormat.fileExtensions.contains(URL(fileURLWithPath: name).pathExtension.lowercased())
            }
            guard !names.isEmpty else { throw DataError(path, "no images (JPEG, PNG, WebP) in this folder") }
            return names.sorted().map { path + "/" + $0 }
        }
    }
}

struct PredictCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "predict", abstract: "Names what is in images.",
        discussion: "Example: tessera predict runs/first shirt.png photos/ --top 3")

    @Argument(help: ArgumentHelp("A run folder, or a weight file beside its config.json.", valueName: "run"))
    var model: String

    @OptionGroup var input: ImageArguments

    @Option(help: ArgumentHelp("How many classes to name.", valueName: "k"))
    var top = 5

    @Flag(help: "Print a JSON object a line.")
    var json = false

    @OptionGroup var compute: ComputeOptions

    func validate() throws {
        guard top > 0 else { throw ValidationError("--top: found \(top), expected 1 or more") }
    }

    /// Images that cannot be read are reported in their place; the exit status is then 1.
    func perform() throws {
        compute.apply()
        let model = try TrainedModel(model)
        let precision = compute.precision ?? .float32
        precision.use { model.compiled.prepare(for: model.inputShape) }
        var failures = 0
        for file in try input.files() {
            let start = Date()
            let image: Image
            do { image = try Image(contentsOf: file, pixelLimit: input.pixelLimit) } catch {
                failures += 1
                if json { printJSON(JSON(["file": .string(file), "error": .string("\(error)")])) }
                standardError("tessera: \(error)")
                continue
            }
            let guesses = precision.use { model.classify(image, top: top) }
            let milliseconds = 1000 * Date().timeIntervalSince(start)
            if json {
                let predictions = guesses.map { guess in
                    JSON([
                        "label": .string(guess.label), "index": JSON(guess.index),
                        "probability": JSON(Double(guess.probability)),
                    ])
                }
                printJSON(
                    JSON([
                        "file": .string(file), "predictions": .array(predictions), "milliseconds": JSON(milliseconds),
                    ]))
            } else {
                print(
                    "\(file): "
                        + guesses.map { "\($0.label) \(percent(Double($0.probability)))" }.joined(separator: ", "))
            }
        }
        if failures > 0 { throw ExitCode(1) }
    }
}
