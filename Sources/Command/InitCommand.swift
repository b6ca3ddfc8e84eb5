import ArgumentParser
import Tessera
import TesseraIO
import TesseraModels
import TesseraNN

struct InitCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "init", abstract: "Makes a run of a model with fresh weights, without training.",
        discussion: """
            What other verbs take: to export an architecture, or to hold its cost against others'.
            Example: tessera init cct_2_3x2_32 --out runs/fresh
            """)

    @Argument(help: "The model (see `tessera models`).")
    var model: String

    @Option(help: ArgumentHelp("The run folder to write.", valueName: "run"))
    var out: String

    @Option(help: ArgumentHelp("Height and width of the images (default: the model's).", valueName: "n"))
    var imageSize: Int?

    @Option(help: ArgumentHelp("Classes (default: the model's).", valueName: "n"))
    var classes: Int?

    @Option(help: ArgumentHelp("Constructor arguments of the model as JSON.", valueName: "json"))
    var modelArgs: String?

    @Option(help: "The seed of the weights.")
    var seed: UInt64 = 0

    @Flag(help: "Delete a run that is already in the folder.")
    var overwrite = false

    func perform() throws {
        var configuration = try Registry.entry(model).configuration
        let arguments = try modelArgs.map { try JSON(parsing: $0) }
        if let arguments { try configuration.apply(Arguments(arguments, section: "model-args")) }
        if let imageSize { configuration.imageSize = Size(imageSize) }
        if let classes { configuration.classes = classes }
        try configuration.validate()
        let (size, channels) = (configuration.imageSize, configuration.channels)
        let isColour = channels == 3
        let file = ModelConfiguration(
            architecture: model, classCount: configuration.classes, modelArguments: arguments,
            preprocessing: .init(
                inputSize: [channels, size.height, size.width],
                mean: isColour ? [0.485, 0.456, 0.406] : [Double](repeating: 0.449, count: channels),
                deviation: isColour ? [0.229, 0.224, 0.225] : [Double](repeating: 0.226, count: channels)))
        let network = configuration.makeModel()
        network.initialize(seed: seed)
        let run = try RunFolder.create(at: out, overwrite: overwrite)
        try run.write(file)
        try run.saveBest(network.stateDictionary.map { ($0.key, $0.tensor) })
    }
}
