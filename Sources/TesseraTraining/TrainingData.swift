import Tessera
import TesseraData
import TesseraModels

/// The two splits of a plan's data, and what they ask of a model.
struct TrainingData {
    let name: String
    let train: any Dataset
    private(set) var validation: any Dataset
    /// Whether the images have classes.
    let isLabelled: Bool

    init(_ plan: TrainingRun.Plan) throws {
        let source = try DataSource.open(
            plan.data, format: plan.format.flatMap(DatasetFormat.init), pixelLimit: plan.pixelLimit)
        (name, isLabelled) = (source.name, source.isLabelled)
        let splits = try source.splits(validationFraction: plan.options.validationFraction)
        let fraction = plan.options.trainingFraction
        // An impossible fraction is refused with the other settings.
        train =
            fraction > 0 && fraction < 1
            ? Subset.stratified(splits.train, fraction: fraction, seed: plan.options.seed) : splits.train
        validation = splits.validation
        limitValidation(to: plan.options.validationImages, seed: plan.options.seed)
    }

    /// Keeps about so many validation images at most, evenly of all classes.
    mutating func limitValidation(to count: Int?, seed: UInt64) {
        guard let count, count > 0, count < validation.count else { return }
        validation = Subset.stratified(validation, fraction: Double(count) / Double(validation.count), seed: seed)
    }

    /// An image that can be read, to learn size and channels from.
    var sample: Image {
        get throws {
            var failure: (any Error)?
            for index in 0..<min(train.count, 64) {
                do { return try train.image(at: index) } catch { failure = error }
            }
            throw failure ?? DataError(name, "has no images")
        }
    }

    /// A model of the registry with the data's classes, channels and, if `imageSize` is nil, the size of small images.
    /// - Throws: `UnknownModelError`, `ArgumentError`, `DataError`
    func configuration(_ model: String, imageSize: Int?, arguments: JSON?) throws -> any ClassifierConfiguration {
        var configuration = try Registry.entry(model).configuration
        if let arguments { try configuration.apply(Arguments(arguments, section: "model-args")) }
        configuration.classes = train.classNames.count
        let sample = try sample
        configuration.channels = sample.channels
        if let imageSize {
            configuration.imageSize = Size(imageSize)
        } else if max(sample.height, sample.width) <= 64 {
            // Small pictures are trained at their own size; enlarging them costs time and adds nothing.
            configuration.imageSize = Size(sample.height, sample.width)
        }
        try configuration.validate()
        return configuration
    }

    /// The statistics of a well-known data set, or ImageNet's.
    func preprocessing(for configuration: any ClassifierConfiguration) -> Preprocessing {
        let (size, channels) = (configuration.imageSize, configuration.channels)
        let known = Preprocessing.statistics[name]
        let (mean, std) =
            known.flatMap { $0.mean.count == channels ? $0 : nil }
            ?? (channels == 3 ? (Preprocessing.imageNetMean, Preprocessing.imageNetStd) : ([0.449], [0.226]))
        return Preprocessing(height: size.height, width: size.width, mean: mean, std: std)
    }
}
