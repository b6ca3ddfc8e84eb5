import ArgumentParser
import Tessera
import TesseraIO
import TesseraInterchange
import TesseraNN
import TesseraONNX

struct ImportCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Turns published weights into a run that every other verb takes.",
        discussion: """
            Weights are safetensors (also several with an index), PyTorch checkpoints (.pth, .pt, .bin) or ONNX models,
            under the names of timm, of Hugging Face's transformers or of the paper's repository. What config.json and
            preprocessor_config.json beside them say about the model, its images and its classes is taken over. A
            checkpoint is data: nothing in it is run. An ONNX model without --model is taken as a whole graph, which
            predict, features and evaluate run as it is.
            Example: tessera import deit_tiny.pth --model deit_tiny_patch16_224 --out runs/deit
            """)

    @Argument(help: "A file of weights, or a folder that holds one beside its config.json.")
    var checkpoint: String

    @Option(help: ArgumentHelp("The model, where its files do not say (see `tessera models`).", valueName: "name"))
    var model: String?

    @Option(help: ArgumentHelp("The run folder to write.", valueName: "run"))
    var out: String

    @Option(
        help: ArgumentHelp(
            "The images' side, where it is not the published one; position tables are resampled.", valueName: "n"))
    var imageSize: Int?

    @Option(help: ArgumentHelp("Constructor arguments of the model as JSON.", valueName: "json"))
    var modelArgs: String?

    @Option(
        help: ArgumentHelp(
            "The part of a PyTorch checkpoint to take, such as model_ema (default: averaged weights before others).",
            valueName: "name"))
    var section: String?

    @Flag(help: "Delete a run that is already in the folder.")
    var overwrite = false

    @Flag(help: "Only the result.")
    var quiet = false

    func validate() throws {
        guard (1...16384).contains(imageSize ?? 1) else {
            throw ValidationError("--image-size: found \(imageSize!), expected 1 to 16384")
        }
    }

    func perform() throws {
        if checkpoint.hasSuffix(".onnx"), model == nil { return try importGraph() }
        let arguments = try modelArgs.map { try JSON(parsing: $0) }
        let imported = try PublishedModel(
            checkpoint, .init(name: model, arguments: arguments, section: section, imageSize: imageSize))
        let run = try RunFolder.create(at: out, overwrite: overwrite)
        try run.write(imported.configuration)
        try run.saveBest(imported.model.stateDictionary.map { ($0.key, $0.tensor) })
        guard !quiet else { return }
        let configuration = imported.configuration
        let size = configuration.preprocessing.inputSize
        for note in imported.notes { standardError(note) }
        let classes = configuration.classCount
        standardError(
            "\(configuration.architecture): \(grouped(imported.model.parameterCount)) parameters, "
                + (classes == 0 ? "no head" : "\(grouped(classes)) classes")
                + ", images of \(size[1])×\(size[2])×\(size[0]); \(out)")
    }

    private func importGraph() throws {
        guard section == nil, modelArgs == nil else {
            throw FormatError(
                file: checkpoint, found: "--section or --model-args for a whole graph", expected: "--model beside them")
        }
        let configuration = try ONNXClassifier.configuration(of: checkpoint, imageSize: imageSize)
        let run = try RunFolder.create(at: out, overwrite: overwrite)
        try run.write(configuration)
        try ONNXModel(checkpoint).write(to: run.file(RunFolder.graphName))
        let size = configuration.preprocessing.inputSize
        guard !quiet else { return }
        standardError(
            "\(configuration.architecture): \(grouped(configuration.classCount)) outputs, images of "
                + "\(size[1])×\(size[2])×\(size[0]); \(out)")
    }
}
