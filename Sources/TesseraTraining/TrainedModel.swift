import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraModels
import TesseraNN
import TesseraONNX
import TesseraRuntime

/// A model with its weights, and what it wants to see: everything that running it takes.
public struct TrainedModel {
    public let model: any ImageClassifier
    /// The model compiled with the weights that it has when it first runs.
    public let compiled: CompiledClassifier
    public let configuration: TesseraIO.ModelConfiguration
    public let preprocessing: Preprocessing

    /// Class names; numbers where the model has none.
    public var labels: [String] {
        configuration.labels.isEmpty ? (0..<configuration.classCount).map(String.init) : configuration.labels
    }

    /// Which products compute in codes; nil for a model in floats.
    public let quantization: Quantization?

    public init(
        model: any ImageClassifier, configuration: TesseraIO.ModelConfiguration, quantization: Quantization? = nil
    ) throws {
        self.model = model
        self.quantization = quantization
        compiled = CompiledClassifier(model, quantization: quantization)
        self.configuration = configuration
        preprocessing = try Preprocessing(configuration.preprocessing)
    }

    /// Loads a run folder, or a weight file beside its `config.json`.
    /// - Throws: errors that name the file and the field or tensor.
    public init(_ path: String) throws {
        let file = try ModelFile.locate(path)
        if file.configuration.architecture == ONNXClassifier.architecture {
            let size = file.configuration.preprocessing.inputSize
            let graph = try ONNXClassifier(ONNXFunction(file.weights), image: [1, size[1], size[2], size[0]])
            try self.init(model: graph, configuration: file.configuration)
            return
        }
        let model = try file.configuration.buildModel()
        let weights = try Safetensors(file.weights)
        let quantization = try file.quantization
        do {
            try model.load(
                try quantization.map { try weights.tensors(of: model, $0) }
                    ?? Dictionary(uniqueKeysWithValues: try weights.tensors()))
        } catch let error as StateDictionaryError { throw WeightsError(file: file.weights, error: error) }
        try self.init(model: model, configuration: file.configuration, quantization: quantization)
    }

    /// The shape of a batch of one preprocessed image, `[1, height, width, channels]`.
    public var inputShape: Shape { [1, preprocessing.height, preprocessing.width, preprocessing.channels] }

    /// A batch of one preprocessed image.
    public func input(_ image: Image) -> Tensor {
        let sized = preprocessing.sized(image)
        return Tensor(inputShape) {
            preprocessing.normalize(sized, into: $0)
        }
    }

    /// A class that an image may show.
    public struct Guess: Sendable {
        public let label: String
        public let index: Int
        public let probability: Float
    }

    /// The most probable classes of an image, the best first, in the current precision.
    public func classify(_ image: Image, top count: Int = 5) -> [Guess] {
        let scores = compiled(input(image)).softmax(axis: -1).scalars
        let order = scores.indices.sorted { (scores[$1], $0) < (scores[$0], $1) }
        let labels = labels
        return order.prefix(count).map { Guess(label: labels[$0], index: $0, probability: scores[$0]) }
    }
}

/// A weight file that does not fit the model.
public struct WeightsError: Error, CustomStringConvertible {
    public let file: String
    public let error: StateDictionaryError

    public var description: String { "\(file): \(error)" }
}

extension TesseraIO.ModelConfiguration {
    /// The model that the file describes, without weights.
    /// - Throws: `UnknownModelError`, `ArgumentError`.
    public func buildModel() throws -> any ImageClassifier { try classifierConfiguration().makeModel() }

    /// The registry's configuration with this file's arguments, classes and image size.
    public func classifierConfiguration() throws -> any ClassifierConfiguration {
        var configuration = try Registry.entry(architecture).configuration
        if let modelArguments {
            // Not validated before the images' size is known.
            let arguments = try Arguments(modelArguments, section: "model_args")
            try configuration.update(arguments)
            try arguments.finish()
        }
        configuration.classes = classCount
        configuration.channels = preprocessing.inputSize[0]
        configuration.imageSize = Size(preprocessing.inputSize[1], preprocessing.inputSize[2])
        try configuration.validate()
        return configuration
    }
}

extension Preprocessing {
    /// - Throws: `ArgumentError` if the model has neither one nor three channels.
    init(_ file: TesseraIO.ModelConfiguration.Preprocessing) throws {
        guard file.inputSize[0] == 1 || file.inputSize[0] == 3 else {
            throw ArgumentError(
                field: "pretrained_cfg.input_size", found: "\(file.inputSize[0]) channels", expected: "1 or 3 channels")
        }
        self.init(
            height: file.inputSize[1], width: file.inputSize[2],
            interpolation: Resampling(rawValue: file.interpolation.rawValue) ?? .bicubic,
            cropFraction: file.cropFraction, cropMode: CropMode(rawValue: file.cropMode.rawValue) ?? .center,
            mean: file.mean.map { Float($0) }, std: file.deviation.map { Float($0) })
    }

    /// The same for `config.json`.
    var file: TesseraIO.ModelConfiguration.Preprocessing {
        .init(
            inputSize: [channels, height, width], interpolation: .init(rawValue: interpolation.rawValue) ?? .bicubic,
            cropFraction: cropFraction, cropMode: .init(rawValue: cropMode.rawValue) ?? .center,
            mean: mean.map { Double("\($0)") ?? Double($0) }, deviation: std.map { Double("\($0)") ?? Double($0) })
    }
}
