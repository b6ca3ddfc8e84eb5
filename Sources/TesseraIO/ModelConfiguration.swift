import Tessera

/// The `config.json` beside a weight file, in the layout of timm: what the model is and what it wants to see.
///
/// What this package adds stands in a section of its own, `tessera`. Members that it does not know are kept.
public struct ModelConfiguration: Equatable, Sendable {
    /// How an image is brought to the model's size.
    public struct Preprocessing: Equatable, Sendable {
        public enum CropMode: String, Sendable, CaseIterable {
            /// Scale the shorter side, cut out the centre.
            case center
            /// Scale both sides, whatever becomes of the proportions.
            case squash
            /// Scale the longer side, fill up the shorter.
            case border
        }

        public enum Interpolation: String, Sendable, CaseIterable {
            case nearest, bilinear, bicubic
        }

        /// `[channels, height, width]`.
        public var inputSize: [Int]
        public var interpolation: Interpolation
        /// The part of the scaled image's side that the crop keeps.
        public var cropFraction: Double
        public var cropMode: CropMode
        /// By channel, of values from 0 to 1.
        public var mean: [Double]
        public var deviation: [Double]

        public init(
            inputSize: [Int], interpolation: Interpolation = .bicubic, cropFraction: Double = 1,
            cropMode: CropMode = .center, mean: [Double], deviation: [Double]
        ) {
            self.inputSize = inputSize
            self.interpolation = interpolation
            self.cropFraction = cropFraction
            self.cropMode = cropMode
            self.mean = mean
            self.deviation = deviation
        }
    }

    /// The registry's name of the model.
    public var architecture: String
    public var classCount: Int
    /// The width of the features before the head.
    public var featureCount: Int?
    public var globalPool: String?
    /// What the model was built with beyond its name.
    public var modelArguments: JSON?
    public var preprocessing: Preprocessing
    /// One for each class, or empty.
    public var labels: [String]
    /// The names of the first layer and of the head, by which others replace them.
    public var firstLayer: String?
    public var classifier: String?
    /// Whether the weights are for images of one size: timm then builds the model for it.
    public var hasFixedInputSize = false
    /// How the weights were trained, and by which version.
    public var tessera: JSON?
    /// Everything else that the file had.
    private var others: [JSON.Member] = []
    private var otherPreprocessing: [JSON.Member] = []

    public init(
        architecture: String, classCount: Int, featureCount: Int? = nil, globalPool: String? = nil,
        modelArguments: JSON? = nil, preprocessing: Preprocessing, labels: [String] = [], firstLayer: String? = nil,
        classifier: String? = nil, tessera: JSON? = nil
    ) {
        self.architecture = architecture
        self.classCount = classCount
        self.featureCount = featureCount
        self.globalPool = globalPool
        self.modelArguments = modelArguments
        self.preprocessing = preprocessing
        self.labels = labels
        self.firstLayer = firstLayer
        self.classifier = classifier
        self.tessera = tessera
    }

    /// Reads a file.
    /// - Throws: ``SystemError``; ``FormatError`` that names the field.
    public init(_ path: String) throws {
        let bytes = try MappedFile.contents(of: path)
        guard bytes.count <= ModelConfiguration.maximumSize else {
            throw FormatError(
                file: path, found: "\(bytes.count) bytes", expected: "at most \(ModelConfiguration.maximumSize)")
        }
        do { try self.init(JSON(parsing: bytes)) } catch let error as ArgumentError {
            throw FormatError(file: path, subject: error.field, found: error.found, expected: error.expected)
        } catch let error as JSON.SyntaxError {
            throw FormatError(file: path, found: "\(error)", expected: "a model's configuration")
        }
    }

    private static let maximumSize = 64 << 20
    private static let maximumClasses = 1 << 20
    private static let ownKeys: Set = [
        "architecture", "num_classes", "num_features", "global_pool", "model_args", "label_names", "labels",
        "pretrained_cfg", "tessera",
    ]
    private static let ownPreprocessingKeys: Set = [
        "input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes", "first_conv",
        "classifier", "label_names", "fixed_input_size",
    ]

    /// - Throws: `ArgumentError` that names the field.
    public init(_ json: JSON) throws {
        let fields = try Arguments(json, section: "")
        guard let pretrained = try fields.nested("pretrained_cfg") else {
            throw ArgumentError(field: "pretrained_cfg", found: "nothing", expected: "an object")
        }
        architecture = try fields.string("architecture")
        let classes = try pretrained.optionalInt("num_classes", in: 0...ModelConfiguration.maximumClasses)
        classCount = try fields.int("num_classes", default: classes, in: 0...ModelConfiguration.maximumClasses)
        featureCount = try fields.optionalInt("num_features", in: 1...1 << 20)
        globalPool = try fields.optionalString("global_pool")
        modelArguments = try fields.nested("model_args").flatMap { _ in json["model_args"] }
        tessera = try fields.nested("tessera").flatMap { _ in json["tessera"] }
        firstLayer = pretrained.json("first_conv")?.string
        classifier = pretrained.json("classifier")?.string
        hasFixedInputSize = try pretrained.bool("fixed_input_size", default: false)
        preprocessing = try Preprocessing(pretrained)
        let names = json["label_names"] ?? json["pretrained_cfg"]?["label_names"] ?? json["labels"]
        labels = try ModelConfiguration.labels(names ?? .null, count: classCount)
        others = (json.members ?? []).filter { !ModelConfiguration.ownKeys.contains($0.key) }
        otherPreprocessing = (json["pretrained_cfg"]?.members ?? []).filter {
            !ModelConfiguration.ownPreprocessingKeys.contains($0.key)
        }
    }

    /// A list of names, or an object of names by the number of the class.
    private static func labels(_ json: JSON, count: Int) throws -> [String] {
        if json == .null { return [] }
        var labels: [String] = []
        if let members = json.members {
            labels = (0..<count).map { "class \($0)" }
            for member in members {
                guard let index = Int(member.key), labels.indices.contains(index), let name = member.value.string else {
                    throw ArgumentError(
                        field: "label_names.\(member.key)", found: member.value.summary,
                        expected: "the name of a class from 0 to \(count - 1)")
                }
                labels[index] = name
            }
        } else {
            labels = try Arguments(.object([JSON.Member("label_names", json)]), section: "").strings("label_names")
        }
        guard labels.count == count else {
            throw ArgumentError(
                field: "label_names", found: "\(labels.count) names", expected: "\(count), one for each class")
        }
        return labels
    }

    /// The file's content: the known members in a fixed order, then the others.
    public var json: JSON {
        var members = [
            JSON.Member("architecture", .string(architecture)), JSON.Member("num_classes", JSON(classCount)),
        ]
        func add(_ key: String, _ value: JSON?) {
            if let value { members.append(JSON.Member(key, value)) }
        }
        add("num_features", featureCount.map { JSON($0) })
        add("global_pool", globalPool.map { .string($0) })
        add("model_args", modelArguments)
        add("label_names", labels.isEmpty ? nil : .array(labels.map { .string($0) }))
        var heads = [
            JSON.Member("num_classes", JSON(classCount)),
            JSON.Member("first_conv", firstLayer.map { .string($0) } ?? .null),
            JSON.Member("classifier", classifier.map { .string($0) } ?? .null),
        ]
        if hasFixedInputSize { heads.append(JSON.Member("fixed_input_size", .bool(true))) }
        add("pretrained_cfg", .object(preprocessing.members + heads + otherPreprocessing))
        add("tessera", tessera)
        return .object(members + others)
    }
}

extension ModelConfiguration.Preprocessing {
    fileprivate init(_ fields: Arguments) throws {
        inputSize = try fields.ints("input_size", count: 3, in: 1...16384)
        let channels = inputSize[0]
        interpolation = try fields.choice("interpolation", default: .bicubic)
        cropFraction = try fields.double("crop_pct", default: 0.875, in: 0.01...2)
        cropMode = try fields.choice("crop_mode", default: .center)
        mean = try fields.doubles("mean", count: channels, in: -1000...1000)
        deviation = try fields.doubles("std", count: channels, in: 1e-6...1000)
    }

    fileprivate var members: [JSON.Member] {
        [
            JSON.Member("input_size", .array(inputSize.map { JSON($0) })),
            JSON.Member("interpolation", .string(interpolation.rawValue)),
            JSON.Member("crop_pct", JSON(cropFraction)), JSON.Member("crop_mode", .string(cropMode.rawValue)),
            JSON.Member("mean", .array(mean.map { JSON($0) })), JSON.Member("std", .array(deviation.map { JSON($0) })),
        ]
    }
}
