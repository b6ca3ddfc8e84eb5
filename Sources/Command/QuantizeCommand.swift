import ArgumentParser
import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraQuantization
import TesseraTraining

struct QuantizeCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "quantize", abstract: "Makes a trained model small and fast: whole numbers of few bits.",
        discussion: """
            Writes a run folder like any other, and measures accuracy, time, size and memory before and after. For a
            model without a head, such as DINOv2, the images need no classes, and instead of accuracy it tells how its
            features agree with those before.
            Example: tessera quantize runs/first --data fashion-mnist --out runs/first-int8
            """)

    @Argument(help: ArgumentHelp("A run folder, or a weight file beside its config.json.", valueName: "run"))
    var model: String

    @OptionGroup var source: DataOptions

    @Option(help: "The run folder to write.")
    var out: String

    @Option(
        help: """
            mptq: channels are shifted and scaled, values after GELU and softmax get two regions; smoothquant: channels \
            are scaled; minmax: neither.
            """)
    var method = QuantizationRecipe.Method.mptq

    @Option(help: ArgumentHelp("Bits of weights and activations, 4 to 8.", valueName: "n"))
    var bits: Int?

    @Option(help: ArgumentHelp("Bits of weights (default: 8).", valueName: "n"))
    var weights: Int?

    @Option(help: ArgumentHelp("Bits of activations (default: 8).", valueName: "n"))
    var activations: Int?

    @Option(help: ArgumentHelp("Choose 8, 6, 5 or 4 bits for each layer, this many on average.", valueName: "x"))
    var averageBits: Double?

    @Option(help: ArgumentHelp("Training images to take ranges from.", valueName: "n"))
    var calibration = 32

    @Option(help: ArgumentHelp("Points of accuracy that may be lost: else layers get more bits.", valueName: "x"))
    var maxDrop: Double?

    @Flag(help: "Replace a run that is already in the output folder.")
    var overwrite = false

    @Flag(help: "Print JSON.")
    var json = false

    @Flag(help: "No progress.")
    var quiet = false

    @Option(help: ArgumentHelp("Threads (default: the cores that the process may use).", valueName: "n"))
    var threads: Int?

    func validate() throws {
        let few = GreedyAllocation.ladder.min()!
        for (name, value) in [("bits", bits), ("weights", weights), ("activations", activations)] {
            guard (few...8).contains(value ?? 8) else {
                throw ValidationError("--\(name): found \(value!), expected \(few) to 8")
            }
        }
        guard bits == nil || weights == nil && activations == nil else {
            throw ValidationError("--bits: found beside --weights or --activations, expected one or the other")
        }
        guard averageBits == nil || bits == nil && weights == nil && activations == nil else {
            throw ValidationError("--average-bits: found beside other bits, expected it alone")
        }
        guard (Double(few)...8).contains(averageBits ?? 8) else {
            throw ValidationError(
                "--average-bits: found \(averageBits!), expected \(few) to 8, the ends of the ladder 8, 6, 5, 4")
        }
        guard (QuantizationRun.leastImages...4096).contains(calibration) else {
            throw ValidationError(
                "--calibration: found \(calibration), expected \(QuantizationRun.leastImages) to 4096 images")
        }
        guard (0...100).contains(maxDrop ?? 0) else {
            throw ValidationError("--max-drop: found \(maxDrop!), expected 0 to 100 points")
        }
        guard (1...256).contains(threads ?? 1) else {
            throw ValidationError("--threads: found \(threads!), expected 1 to 256")
        }
    }

    private var recipe: QuantizationRecipe {
        QuantizationRecipe(
            method: method,
            bits: averageBits.map { .average($0) }
                ?? .uniform(weights: weights ?? bits ?? 8, activations: activations ?? bits ?? 8))
    }

    func perform() throws {
        if let threads { Processor.threads = threads }
        let trained = try TrainedModel(model)
        guard trained.quantization == nil else {
            throw QuantizationError(model, found: "a quantized run", expected: "a run in floats")
        }
        guard overwrite || !FileManager.default.fileExists(atPath: out + "/" + RunFolder.configurationName) else {
            throw RunFolderError.exists(out)
        }
        let isHeadless = trained.configuration.classCount == 0
        guard !isHeadless || maxDrop == nil else {
            throw QuantizationError(model, found: "no head, with --max-drop", expected: "a classifier")
        }
        let data = try source.open(labelled: !isHeadless)
        let dataset = data.evaluation
        if !isHeadless { try trained.require(dataset.classNames, from: source.data) }
        let line = ProgressLine(quiet: quiet)
        line.update("calibrating on \(calibration) images")
        let images = try QuantizationRun.calibrationImages(
            data.train ?? dataset, trained.preprocessing, count: calibration, data: source.data)
        let loader = Loader(
            dataset, transform: trained.preprocessing, batchSize: 128, workers: 2,
            unreadable: source.strict ? .fail : .skip)
        // Calibration folds smoothing into the weights: what they were answers first.
        let answers = isHeadless ? nil : try evaluate(trained.compiled, loader)
        let features = isHeadless ? try FeatureSet(trained.compiled, loader) : nil
        let run = try QuantizationRun(trained, images: images, recipe: recipe) { done, count in
            line.update("sensitivity of \(done) of \(count) operands")
        }
        line.update("evaluating in codes")
        let (before, after): (ModelQuality, ModelQuality)
        if let answers {
            before = .evaluation(answers)
            after = .evaluation(
                try run.settle(before: answers, drop: maxDrop.map { $0 / 100 }) { try evaluate($0, loader) })
        } else {
            let cosine = try FeatureSet(run.compiled(), loader).meanCosine(with: features!)
            before = .agreement(1, images: features!.labels.count)
            after = .agreement(cosine, images: features!.labels.count)
        }
        let folder = try RunFolder.create(at: out, overwrite: overwrite)
        try run.write(folder)
        let report = QuantizationReport(
            run, title: "\(model) in codes", before: try measure(model, before), after: try measure(out, after))
        try folder.writeQuantization(report.json)
        try folder.write(report.page)
        line.finish("")
        if json { return printJSON(report.json, indented: true) }
        for fact in report.page.highlights { print("\(fact.name): \(fact.value)") }
        if !run.raised.isEmpty { print("more bits to hold the accuracy: \(run.raised.joined(separator: ", "))") }
        print("\(report.verdict); \(folder.file("report.html"))")
    }

    /// Times a model in a process of its own, whose memory is the model's alone.
    private func measure(_ path: String, _ quality: ModelQuality) throws -> QuantizationMeasure {
        var (latency, memory) = ([Int: Double](), 0.0)
        for batch in [1, 16] {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
            process.arguments =
                ["bench", path, "--batch", "\(batch)", "--runs", "10", "--json", "--threads", "\(Processor.threads)"]
            let output = Pipe()
            process.standardOutput = output
            try process.run()
            let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
            process.waitUntilExit()
            let result = try JSON(parsing: text)
            guard let median = result["median_ms"]?.double, let peak = result["peak_memory_mb"]?.double else {
                throw QuantizationError(path, found: "no time from `tessera bench`", expected: "its JSON")
            }
            latency[batch] = median
            memory = max(memory, peak)
        }
        let weights = try ModelFile.locate(path).weights
        let size = try FileManager.default.attributesOfItem(atPath: weights)[.size] as? Int ?? 0
        return QuantizationMeasure(quality: quality, latency: latency, fileBytes: size, peakMemory: memory)
    }
}

extension QuantizationRecipe.Method: ExpressibleByArgument {}
