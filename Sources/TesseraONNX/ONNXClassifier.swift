import Tessera
import TesseraIO
import TesseraModels
import TesseraNN
import TesseraRuntime

/// An ONNX graph as a classifier: what it answers is its first output, or that called `logits`, as one vector an image.
///
/// Its weights are the graph's constants; there is nothing to train.
public final class ONNXClassifier: Module, ImageClassifier {
    /// What `config.json` calls the architecture of a model that is a graph.
    public static let architecture = "onnx"

    private let function: ONNXFunction
    private let output: Int

    /// - Parameter image: the shape of one image, `[1, height, width, channels]`
    /// - Throws: `FormatError` if the graph cannot be run on such an image.
    public init(_ function: ONNXFunction, image: Shape) throws {
        self.function = function
        output = function.outputs.firstIndex(of: "logits") ?? 0
        super.init()
        // Whether everything fits is a question of shapes alone.
        _ = try function(Tensor(abstract: image))
    }

    public var headPrefixes: [String] { [] }

    public func features(_ image: Tensor) -> Features {
        let results: [Tensor]
        do { results = try function(image) } catch { preconditionFailure("\(error)") }
        let answer = results[output]
        let vector = answer.reshaped([image.shape[0], answer.count / max(1, image.shape[0])])
        return Features(
            logits: vector, pooled: vector, tokens: vector.reshaped([image.shape[0], 1, 1, vector.shape[1]]))
    }

    /// What a graph says of itself, in its metadata and the shape of its input; what it leaves open is taken as usual
    /// for ImageNet.
    ///
    /// - Parameter imageSize: the images' side, where the graph takes several
    /// - Throws: `FormatError` if the graph cannot be run, or its metadata are not what they are called.
    public static func configuration(of path: String, imageSize: Int? = nil) throws -> ModelConfiguration {
        let function = try ONNXFunction(path)
        var notes = function.metadata.mapValues { (try? JSON(parsing: $0)) ?? .string($0) }
        let stated = notes["input_size"]?.array?.compactMap(\.int)
        let usual = stated?.count == 3 ? stated! : [3, 224, 224]
        var size = zip(function.imageExtents, usual).map { $0 ?? $1 }
        for axis in 1...2 where function.imageExtents[axis] == nil { size[axis] = imageSize ?? size[axis] }
        notes["input_size"] = .array(size.map { JSON($0) })
        let isColour = size[0] == 3
        notes["mean"] = notes["mean"] ?? .array((isColour ? [0.485, 0.456, 0.406] : [0.449]).map { JSON($0) })
        notes["std"] = notes["std"] ?? .array((isColour ? [0.229, 0.224, 0.225] : [0.226]).map { JSON($0) })
        guard size.allSatisfy({ $0 > 0 && $0 <= 16384 }) else {
            throw FormatError(file: path, subject: "input", found: "\(size)", expected: "channels, height and width")
        }
        let classifier = try ONNXClassifier(function, image: [1, size[1], size[2], size[0]])
        let logits = classifier(Tensor(abstract: [1, size[1], size[2], size[0]]))
        let pretrained = preprocessingKeys.compactMap { key in notes[key].map { JSON.Member(key, $0) } }
        var members = [
            JSON.Member("architecture", .string(architecture)), JSON.Member("num_classes", JSON(logits.shape[1])),
            JSON.Member("pretrained_cfg", .object(pretrained)),
        ]
        if let labels = notes["label_names"] { members.append(JSON.Member("label_names", labels)) }
        do { return try ModelConfiguration(.object(members)) } catch let error as ArgumentError {
            throw FormatError(
                file: path, subject: "metadata \(error.field)", found: error.found, expected: error.expected)
        }
    }

    private static let preprocessingKeys = ["input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"]

    /// What goes into a graph's metadata for ``configuration(of:imageSize:)`` and other readers.
    static func metadata(_ configuration: ModelConfiguration) -> [(key: String, value: String)] {
        let json = configuration.json
        let pretrained = preprocessingKeys.compactMap { key in
            json["pretrained_cfg"]?[key].map { (key: key, value: $0.string ?? $0.text()) }
        }
        let labels = json["label_names"].map { [(key: "label_names", value: $0.text())] } ?? []
        return [("architecture", configuration.architecture)] + pretrained + labels
    }
}

extension ONNXExporter {
    /// A classifier as a graph from `input` `[batch, channels, height, width]`, preprocessed as its metadata say, to
    /// `logits` `[batch, classes]`.
    /// - Parameter quantization: which products compute in codes: their operands go through `QuantizeLinear` and
    ///   `DequantizeLinear`, from which runtimes make products of whole numbers
    /// - Throws: ``ONNXExportError``
    public static func export(
        _ model: any ImageClassifier, _ configuration: ModelConfiguration, quantization: Quantization? = nil
    ) throws -> ONNXModel {
        let size = configuration.preprocessing.inputSize
        return try export(
            image: [1, size[1], size[2], size[0]], outputs: ["logits"], parameters: model.parameters,
            metadata: ONNXClassifier.metadata(configuration),
            annotate: { graph in
                if let quantization { graph.quantize(quantization, names: ParameterNames(model)) }
            },
            // An annotation knows weights as they are: short cuts to the answer may use parts of them.
            tracing: { [quantization == nil ? model($0) : model.features($0).logits] })
    }
}
