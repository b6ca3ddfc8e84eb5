import ArgumentParser
import Tessera
import TesseraData
import TesseraIO
import TesseraTraining

struct ProbeCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "probe", abstract: "How good a model's features are: nearest neighbours and a linear classifier.",
        discussion: """
            Computes the features of all images once. The training images then classify the others: by the votes of the
            most similar ones, and by a linear classifier fitted to them. The model itself is not trained and needs no
            head; --out writes it with that classifier for its head.
            Example: tessera probe runs/dinov2 --data fashion-mnist --out runs/clothes
            """)

    @Argument(help: ArgumentHelp("A run folder, or a weight file beside its config.json.", valueName: "run"))
    var model: String

    @OptionGroup var source: DataOptions

    @Option(help: ArgumentHelp("The run folder to write.", valueName: "run"))
    var out: String?

    @Option(help: ArgumentHelp("Images that vote.", valueName: "k"))
    var neighbors = 20

    @Option(help: ArgumentHelp("Use this share of each class's training images.", valueName: "x"))
    var fraction = 1.0

    @Option(help: ArgumentHelp("The seed that chooses them.", valueName: "n"))
    var seed: UInt64 = 0

    @Option(help: ArgumentHelp("Images a step.", valueName: "n"))
    var batch = 64

    @Flag(help: "Only the nearest neighbours.")
    var knnOnly = false

    @Flag(help: "Replace a run that is already in the output folder.")
    var overwrite = false

    @Flag(help: "Print JSON.")
    var json = false

    @Flag(help: "No progress.")
    var quiet = false

    @OptionGroup var compute: ComputeOptions

    func validate() throws {
        guard (1...65536).contains(batch) else { throw ValidationError("--batch: found \(batch), expected 1 to 65536") }
        guard (1...10_000).contains(neighbors) else {
            throw ValidationError("--neighbors: found \(neighbors), expected 1 to 10000")
        }
        guard fraction > 0, fraction <= 1 else {
            throw ValidationError("--fraction: found \(fraction), expected above 0, at most 1")
        }
        guard !knnOnly || out == nil else {
            throw ValidationError("--out writes the linear classifier: found --knn-only beside it")
        }
    }

    func perform() throws {
        compute.apply()
        let trained = try TrainedModel(model)
        let splits = try source.open().splits()
        let classes = splits.train.classNames
        let folder = try out.map { try RunFolder.create(at: $0, overwrite: overwrite) }
        let line = ProgressLine(quiet: quiet)
        func features(_ dataset: any Dataset, _ name: String) throws -> FeatureSet {
            let loader = Loader(
                dataset, transform: trained.preprocessing, batchSize: batch, workers: 2,
                unreadable: source.strict ? .fail : .skip)
            return try (compute.precision ?? .float32).use {
                try FeatureSet(trained.compiled, loader) { done in
                    line.update("features of \(grouped(done)) of \(grouped(dataset.count)) \(name) images")
                }
            }
        }
        let chosen =
            fraction < 1 ? Subset.stratified(splits.train, fraction: fraction, seed: seed) : splits.train
        let train = try features(chosen, "training")
        let test = try features(splits.validation, "other")
        let neighborAccuracy = NearestNeighbors(train, neighbors: neighbors, classes: classes.count).accuracy(on: test)
        let probe =
            knnOnly
            ? nil
            : LinearProbe(train, classes: classes.count) { line.update("linear classifier \($0 + 1) of \($1)") }
        line.finish("")
        let linearAccuracy = probe?.accuracy(on: test)
        if let folder, let probe { try trained.write(probe, labels: classes, from: model, to: folder) }
        if json {
            return printJSON(
                JSON([
                    "knn": JSON(neighborAccuracy), "neighbors": JSON(neighbors),
                    "linear": linearAccuracy.map { JSON($0) } ?? .null,
                    "train_images": JSON(train.labels.count), "images": JSON(test.labels.count),
                    "channels": JSON(test.features.shape[1]),
                ]))
        }
        print("nearest neighbours (\(neighbors)): \(percent(neighborAccuracy))")
        if let linearAccuracy { print("linear classifier: \(percent(linearAccuracy))") }
        standardError(
            "\(grouped(train.labels.count)) training images, \(grouped(test.labels.count)) others, "
                + "\(test.features.shape[1]) features")
    }
}
