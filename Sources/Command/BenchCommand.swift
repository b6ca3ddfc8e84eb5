import ArgumentParser
import Foundation
import Tessera
import TesseraIO
import TesseraModels
import TesseraNN
import TesseraQuantization
import TesseraRuntime
import TesseraTraining

struct BenchCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "The median time of a forward pass, or of a training step, on random input.",
        discussion: "Example: tessera bench deit_tiny_patch16_224 --batch 16 --train")

    @Argument(
        help: ArgumentHelp(
            "A model (see `tessera models`), or a run folder, also of an ONNX graph.", valueName: "model"))
    var model: String

    @Option(help: ArgumentHelp("Images a step.", valueName: "n"))
    var batch = 1

    @Option(help: ArgumentHelp("Timed runs, after warming up.", valueName: "k"))
    var runs = 20

    @Option(help: ArgumentHelp("Height and width of the input (default: the model's).", valueName: "n"))
    var imageSize: Int?

    @Option(help: ArgumentHelp("Constructor arguments of the model as JSON.", valueName: "json"))
    var modelArgs: String?

    @Flag(help: "Time forward, backward and AdamW instead of the forward pass.")
    var train = false

    @Flag(help: "Count what a training step keeps for its backward pass, instead of timing anything.")
    var memory = false

    @Flag(help: "Compute activations of blocks twice instead of keeping them.")
    var gradCheckpointing = false

    @Flag(help: "Run the model operation by operation instead of its compiled plan.")
    var eager = false

    @Flag(help: "Also print what each step of the plan costs, beside the machine's limits.")
    var profile = false

    @Option(help: ArgumentHelp("Write when each thread did what, for Perfetto or Chrome.", valueName: "file"))
    var trace: String?

    @Flag(help: "Print JSON.")
    var json = false

    @Option(
        help: """
            Arithmetic of matrix products: float32, bfloat16, int16 with errors below bfloat16's, float32x3 with errors \
            of 1e-5 where there are tiles, fastest, the one of the first three that suits the processor, switchback, a \
            training step whose linear layers multiply 8-bit codes forward and for the gradients of their inputs, or \
            int8, a plan in 8-bit codes with ranges of the random input (default: the faster of the first two for \
            training, else float32).
            """)
    var precision: BenchPrecision?

    @OptionGroup var cores: ThreadOptions

    enum BenchPrecision: ExpressibleByArgument, Equatable {
        case int8
        case products(Precision)

        init?(argument: String) {
            if argument == "int8" {
                self = .int8
            } else {
                guard let precision = Precision(argument: argument) else { return nil }
                self = .products(precision)
            }
        }

        var products: Precision? { if case .products(let precision) = self { precision } else { nil } }
    }

    func validate() throws {
        guard (1...65536).contains(batch) else { throw ValidationError("--batch: found \(batch), expected 1 to 65536") }
        guard (1...100_000).contains(runs) else { throw ValidationError("--runs: found \(runs), expected 1 to 100000") }
        guard !memory || !(train || precision != nil || eager || profile || trace != nil || gradCheckpointing) else {
            throw ValidationError(
                "--memory counts with and without --grad-checkpointing and times nothing: found another mode beside it")
        }
        guard precision != .int8 || !(eager || train) else {
            throw ValidationError("--precision int8 is of the compiled plan: found --eager or --train beside it")
        }
        guard !(eager || train) || !(profile || trace != nil) else {
            throw ValidationError("--profile and --trace show the compiled plan: found --eager or --train beside them")
        }
    }

    /// The model, the shape of one image, and what is quantized already.
    private func build() throws -> (any ImageClassifier, image: Shape, Quantization?) {
        if FileManager.default.fileExists(atPath: model) {
            guard modelArgs == nil, imageSize == nil else {
                throw ValidationError("\(model) is a run: found --model-args or --image-size, which it says itself")
            }
            let run = try TrainedModel(model)
            guard !train || run.model.parameterCount > 0 else {
                throw ValidationError("\(model) is a graph without parameters: found --train")
            }
            return (run.model, run.inputShape, run.quantization)
        }
        var configuration = try Registry.entry(model).configuration
        if let modelArgs {
            try configuration.apply(Arguments(JSON(parsing: modelArgs), section: "model-args"))
        }
        if let imageSize { configuration.imageSize = Size(imageSize) }
        try configuration.validate()
        let network = configuration.makeModel()
        network.initialize(seed: 0)
        let size = configuration.imageSize
        return (network, [1, size.height, size.width, configuration.channels], nil)
    }

    func perform() throws {
        cores.apply()
        let loadStart = Date()
        var (network, image, quantization) = try build()
        let multiplyAdds = network.multiplyAdds(image) * batch
        let load = Date().timeIntervalSince(loadStart)
        var generator = RandomGenerator(seed: 1)
        let images = Tensor(image.replacing(0, with: batch)) {
            for i in $0.indices { $0[i] = generator.normal() }
        }
        if memory { return tellMemory(of: network, images) }
        if precision == .int8, quantization == nil {
            let first = images.sliced(axis: 0, from: 0, to: 1)
            let quantizer = try ModelQuantizer(network, images: [first], recipe: QuantizationRecipe())
            quantization = quantizer.adopt(bits: quantizer.uniformBits!).annotation
        }
        let products = precision?.products ?? (train ? .automatic : .float32)
        var times: [Double] = []
        try products.use {
            let compiled = CompiledModel(
                annotate: { graph in
                    if let quantization { graph.quantize(quantization, names: ParameterNames(network)) }
                },
                { [quantization == nil ? network($0) : network.features($0).logits] })
            let forward = { if eager { _ = network(images) } else { _ = compiled(images) } }
            let step = try train ? trainingStep(network, images) : forward
            for index in 0..<(runs + 2) {
                let start = Date()
                step()
                if index >= 2 { times.append(1000 * Date().timeIntervalSince(start)) }
            }
            if profile || trace != nil {
                let profile = Profile(
                    compiled.plan(for: images.shape), images: images, runs: runs, precision: products)
                if self.profile { print(profile.table) }
                if let trace { try AtomicFile.write(Array(profile.trace.text().utf8), to: trace) }
            }
        }
        times.sort()
        let median = times[times.count / 2]
        let work = train ? 3 * multiplyAdds : multiplyAdds
        let members: KeyValuePairs<String, JSON> = [
            "model": .string(model), "batch": JSON(batch),
            "precision": .string(quantization == nil ? products.rawValue : "int8"), "threads": JSON(Processor.threads),
            "instruction_set": .string(Processor.instructionSet),
            "training": .bool(train), "quantized": .bool(quantization != nil), "median_ms": JSON(median),
            "min_ms": JSON(times[0]),
            "p95_ms": JSON(times[min(times.count - 1, times.count * 95 / 100)]),
            "images_per_second": JSON(1000 * Double(batch) / median), "multiply_adds": JSON(work),
            "gigaflops_per_second": JSON(2e-6 * Double(work) / median), "parameters": JSON(network.parameterCount),
            "peak_memory_mb": JSON(peakMemory), "load_ms": JSON(1000 * load), "runs": JSON(runs),
        ]
        if json { return printJSON(JSON(members)) }
        print(
            String(
                format:
                    "%@  batch %d  %@  %d threads (%@)  %@: median %.2f ms, min %.2f ms, %.1f images/s, %.1f GFLOP/s, %.0f MB",
                model, batch, quantization == nil ? products.rawValue : "codes", Processor.threads,
                Processor.instructionSet,
                train ? "training step" : "forward", median, times[0], 1000 * Double(batch) / median,
                2e-6 * Double(work) / median, peakMemory))
    }

    /// One whole step: forward, backward, AdamW.
    private func trainingStep(_ model: any ImageClassifier, _ images: Tensor) throws -> () -> Void {
        let parameters = OptimizedParameter.all(of: model, weightDecay: 0.05, undecayed: model.undecayedKeys)
        let optimizer = AdamW(parameters)
        let step = TrainingStep(model, images)
        var generator = RandomGenerator(seed: 2)
        return {
            let tape = Tape()
            let loss = step.loss(on: tape, generator.fork(generator.next()), checkpointing: gradCheckpointing)
            optimizer.step(tape.gradients(of: loss), learningRate: 1e-4, scale: 1)
        }
    }
}
