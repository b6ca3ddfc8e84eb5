import Tessera
import TesseraIO
import TesseraModels
import TesseraNN

/// A model of a publisher, timm, Hugging Face or the authors of its paper, as one of this package: its weights under the
/// names of the registry's model, and what its files say about images and classes.
public struct PublishedModel {
    public let model: any ImageClassifier
    public let configuration: ModelConfiguration
    /// Whose names the weights had, and what was to be said about taking them over.
    public let notes: [String]

    /// What the files do not say, or should not.
    public struct Options: Sendable {
        /// The registry's name of the model; nil: what the files say.
        public var name: String?
        /// Arguments of the model's constructor that differ from the registry's.
        public var arguments: JSON?
        /// Which part of a PyTorch checkpoint to take, such as `model_ema`; nil: the usual one.
        public var section: String?
        /// The images' side, where it is not the publisher's; position tables are resampled.
        public var imageSize: Int?

        public init(name: String? = nil, arguments: JSON? = nil, section: String? = nil, imageSize: Int? = nil) {
            (self.name, self.arguments, self.section, self.imageSize) = (name, arguments, section, imageSize)
        }
    }

    /// - Parameter path: a file of weights in any format that `WeightFile` knows, or a folder that has one
    /// - Throws: `SystemError`, `FormatError`, `UnknownModelError`, `ArgumentError`, ``ImportError``: one line that names
    ///   the file, field or tensor.
    public init(_ path: String, _ options: Options = Options()) throws {
        let files = try PublishedFiles(path, section: options.section)
        let stated = try files.isTimm ? ModelConfiguration(files.configurationPath) : nil
        let (entry, table) = try PublishedModel.recognised(files, stated, options)
        let shapes = files.weights.shapes

        var configuration = entry.configuration
        let said = (stated?.modelArguments?.members ?? []).filter { !PublishedModel.isRepeated($0, of: entry.system) }
        let others = try JSON(parsing: table.arguments).members ?? []
        var seen: Set<String> = []
        let arguments = ((options.arguments?.members ?? []) + said + others).filter { seen.insert($0.key).inserted }
        let constructor = try Arguments(.object(arguments), section: "model-args")
        try configuration.update(constructor)
        try constructor.finish()
        let preprocessing = try PublishedModel.preprocessing(files, stated, configuration, options)
        configuration.channels = preprocessing.inputSize[0]
        configuration.imageSize = Size(preprocessing.inputSize[1], preprocessing.inputSize[2])
        try configuration.validate()

        let outline = configuration.makeModel()
        let keys = outline.placedParameters.map(\.key)
        guard let match = WeightMatch.best(keys, in: shapes, tables: [table]) else {
            throw ImportError(file: files.weights.path, error: StateDictionaryError(missing: keys))
        }
        var notes = ["\(match.sources.count) tensors under the names of \(match.table.publisher)"]
        if !match.prefix.isEmpty { notes[0] += ", behind \(match.prefix)" }
        if let classes = match.classes(outline, in: shapes) { configuration.classes = classes }
        try configuration.validate()

        let model = configuration.makeModel()
        self.model = model
        var tensors = try PublishedModel.tensors(model, match, files)
        let heads = model.placedParameters.filter { parameter in
            model.headPrefixes.contains { parameter.key.hasPrefix($0) }
        }.map(\.key)
        let isHeadless = !heads.isEmpty && heads.allSatisfy { tensors[$0] == nil }
        if isHeadless {
            notes.append("there is no head in the file: a new one for \(configuration.classes) classes, not trained")
            model.initialize(seed: 0)
        }
        if let preprocessor = files.preprocessor, TransformersConfiguration.flipsChannels(preprocessor) {
            PublishedModel.flipChannels(&tensors, model)
        }
        do {
            try model.load(tensors, adapting: model.adapted, skipping: { isHeadless && heads.contains($0) })
        } catch let error as StateDictionaryError { throw ImportError(file: files.weights.path, error: error) }
        let unexpected = match.unexpected(in: shapes)
        guard unexpected.isEmpty else {
            throw ImportError(file: files.weights.path, error: StateDictionaryError(unexpected: unexpected))
        }

        var labels = try stated?.labels ?? files.configuration.map { try TransformersConfiguration.labels($0) } ?? []
        if labels.count != configuration.classes { labels = [] }
        if labels.isEmpty, configuration.classes == ImageNetClasses.names.count, !isHeadless {
            labels = ImageNetClasses.names
        }
        // What else the publisher notes, such as the licence, stays.
        var published =
            stated
            ?? ModelConfiguration(
                architecture: entry.name, classCount: configuration.classes, preprocessing: preprocessing)
        (published.architecture, published.classCount) = (entry.name, configuration.classes)
        published.modelArguments = arguments.isEmpty ? nil : .object(arguments)
        (published.preprocessing, published.labels) = (preprocessing, labels)
        self.configuration = published
        self.notes = notes
    }

    /// Whether timm notes among a model's arguments what its configuration says elsewhere, or what cannot be otherwise.
    private static func isRepeated(_ argument: JSON.Member, of system: String) -> Bool {
        switch argument.key {
        case "num_classes", "in_chans", "img_size": true
        case "global_pool":
            !["vit", "deit", "dinov2"].contains(system)
                && argument.value.string == (system == "xcit_qkv" ? "token" : "avg")
        default: false
        }
    }

    /// The registry's model that the options or the files name, or the first of its kind that the weights fit, and whose
    /// names they have.
    private static func recognised(
        _ files: PublishedFiles, _ stated: ModelConfiguration?, _ options: Options
    ) throws -> (ModelEntry, KeyTable) {
        let shapes = files.weights.shapes
        if let name = options.name ?? stated?.architecture {
            let entry = try Registry.entry(name)
            let keys = entry.configuration.makeModel().placedParameters.map(\.key)
            guard let match = WeightMatch.best(keys, in: shapes, tables: KeyTable.tables(of: entry.system)) else {
                throw ImportError(file: files.weights.path, error: StateDictionaryError(missing: keys))
            }
            return (entry, match.table)
        }
        let systems = files.modelType.map { KeyTable.systems(ofModelType: $0) } ?? []
        for entry in Registry.entries where systems.contains(entry.system) {
            let parameters = entry.configuration.makeModel().placedParameters
            let tables = KeyTable.tables(of: entry.system)
            guard let match = WeightMatch.best(parameters.map(\.key), in: shapes, tables: tables) else { continue }
            let heads = entry.configuration.makeModel().headPrefixes
            let fits = parameters.allSatisfy { key, parameter in
                // Those depend on the classes, and these on the images' size.
                if heads.contains(where: { key.hasPrefix($0) }) || key.contains("pos_embed") { return true }
                guard let source = match.sources[key] else { return false }
                return source.reduce(0) { $0 + (shapes[$1]?.count ?? 0) } == parameter.shape.count
            }
            if fits, match.unexpected(in: shapes).isEmpty { return (entry, match.table) }
        }
        let kind = files.modelType.map { "a model of type \($0)" } ?? "no config.json that names the model"
        throw FormatError(
            file: files.weights.path, found: kind,
            expected: systems.isEmpty ? "the model's name with --model" : "weights that a model of the registry has")
    }

    private static func preprocessing(
        _ files: PublishedFiles, _ stated: ModelConfiguration?, _ configuration: any ClassifierConfiguration,
        _ options: Options
    ) throws -> ModelConfiguration.Preprocessing {
        let channels = configuration.channels
        var preprocessing: ModelConfiguration.Preprocessing
        if let stated {
            preprocessing = stated.preprocessing
        } else if let preprocessor = files.preprocessor {
            do {
                preprocessing = try TransformersConfiguration.preprocessing(preprocessor, channels: channels)
            } catch let error as ArgumentError {
                throw FormatError(
                    file: files.preprocessorPath, subject: error.field, found: error.found, expected: error.expected)
            }
        } else {
            let side = configuration.imageSize
            let size =
                files.configuration.flatMap { TransformersConfiguration.imageSize($0) } ?? (side.height, side.width)
            let isColour = channels == 3
            preprocessing = ModelConfiguration.Preprocessing(
                inputSize: [channels, size.height, size.width], cropFraction: 0.875,
                mean: isColour ? [0.485, 0.456, 0.406] : [Double](repeating: 0.449, count: channels),
                deviation: isColour ? [0.229, 0.224, 0.225] : [Double](repeating: 0.226, count: channels))
        }
        if let side = options.imageSize { preprocessing.inputSize = [channels, side, side] }
        return preprocessing
    }

    /// The tensors of the file under the model's keys, joined where they were apart.
    private static func tensors(
        _ model: any ImageClassifier, _ match: WeightMatch, _ files: PublishedFiles
    ) throws -> [String: Tensor] {
        var tensors: [String: Tensor] = [:]
        for (key, parameter) in model.placedParameters {
            guard let names = match.sources[key] else { continue }
            let parts = try names.map { try files.weights.tensor($0) }
            // Position tables are joined along their rows, everything else along the outputs.
            let axis = parts[0].rank == 3 ? 1 : 0
            let isJoinable = parts.allSatisfy {
                $0.rank > axis && $0.shape.replacing(axis, with: 1) == parts[0].shape.replacing(axis, with: 1)
            }
            guard parts.count == 1 || isJoinable else {
                throw FormatError(
                    file: files.weights.path, subject: "tensor \(names[1])", found: "shape \(parts[1].shape)",
                    expected: "one that goes with \(parts[0].shape) of \(names[0])")
            }
            let tensor = parts.count == 1 ? parts[0] : concatenate(parts, axis: axis)
            // Axes of one element come and go between publishers.
            let shape = parameter.exportedShape
            let isSame = tensor.shape.dimensions.filter { $0 != 1 } == shape.dimensions.filter { $0 != 1 }
            tensors[key] = isSame ? tensor.reshaped(shape) : tensor
        }
        return (model as? VisionTransformer)?.withPositionOfClassToken(in: tensors) ?? tensors
    }

    /// Turns the first convolution round, so that it takes channels in their usual order.
    private static func flipChannels(_ tensors: inout [String: Tensor], _ model: any ImageClassifier) {
        guard let first = model.parameters.first(where: { $0.parameter.shape.rank == 4 })?.key,
            let weight = tensors[first], weight.rank == 4
        else { return }
        let channels = weight.shape[1]
        let planes = (0..<channels).reversed().map { weight.sliced(axis: 1, from: $0, to: $0 + 1) }
        tensors[first] = concatenate(planes, axis: 1)
    }
}

/// A file whose weights are not those of the model.
public struct ImportError: Error, CustomStringConvertible {
    public let file: String
    public let error: StateDictionaryError

    public var description: String { "\(file): \(error)" }
}
