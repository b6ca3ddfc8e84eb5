import ArgumentParser
import Foundation
import Tessera
import TesseraData
import TesseraTraining

struct EvaluateCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "evaluate", abstract: "Accuracy, loss and confusion of a trained model on labelled images.",
        discussion: "Example: tessera evaluate runs/first --data fashion-mnist")

    @Argument(help: ArgumentHelp("A run folder, or a weight file beside its config.json.", valueName: "run"))
    var model: String

    @OptionGroup var source: DataOptions

    @Option(help: ArgumentHelp("Images a step.", valueName: "n"))
    var batch = 128

    @Flag(help: "Print JSON.")
    var json = false

    @Flag(help: "No progress.")
    var quiet = false

    @OptionGroup var compute: ComputeOptions

    func validate() throws {
        guard (1...65536).contains(batch) else { throw ValidationError("--batch: found \(batch), expected 1 to 65536") }
    }

    func perform() throws {
        compute.apply()
        let model = try TrainedModel(model)
        let dataset = try source.open().evaluation
        try model.require(dataset.classNames, from: source.data)
        let loader = Loader(
            dataset, transform: model.preprocessing, batchSize: batch, workers: 2,
            unreadable: source.strict ? .fail : .skip)
        let line = ProgressLine(quiet: quiet)
        var done = 0
        let result = try (compute.precision ?? .float32).use {
            try evaluate(model.compiled, loader) { batch, _ in
                done += batch.count
                line.update("\(grouped(done)) of \(grouped(dataset.count)) images")
            }
        }
        for (_, reason) in loader.unreadableSamples { line.finish("skipped: \(reason)") }
        guard result.images > 0 else { throw DataError(source.data, "none of its \(dataset.count) images can be read") }
        if json { return printJSON(result.json) }
        line.finish("")
        let names = dataset.classNames
        let width = names.map(\.count).max() ?? 0
        for (name, accuracy) in zip(names, result.perClass) where names.count <= 100 {
            print("  \(name)\(String(repeating: " ", count: width - name.count))  \(percent(accuracy))")
        }
        print(
            "accuracy \(percent(result.top1))  top-5 \(percent(result.top5))  loss \(String(format: "%.4f", result.loss))  "
                + "\(grouped(result.images)) images in \(String(format: "%.1f", result.seconds)) s "
                + "(\(grouped(Int(result.imagesPerSecond))) images/s)")
    }
}

func percent(_ share: Double) -> String { String(format: "%.2f %%", 100 * share) }

extension Evaluation {
    /// The contract of `evaluate --json`.
    var json: JSON {
        JSON([
            "top1": JSON(top1), "top5": JSON(top5), "loss": JSON(loss), "images": JSON(images),
            "seconds": JSON(seconds), "images_per_second": JSON(imagesPerSecond),
            "per_class": .array(perClass.map { JSON($0) }),
            "confusion": .array(confusion.map { .array($0.map { JSON($0) }) }),
        ])
    }
}

extension TrainedModel {
    /// - Throws: `DataError` if the data has more classes than the model.
    func require(_ classes: [String], from data: String) throws {
        guard classes.count <= configuration.classCount else {
            throw DataError(
                data,
                "has \(classes.count) classes, the model knows \(configuration.classCount); expected at most as many")
        }
    }
}
