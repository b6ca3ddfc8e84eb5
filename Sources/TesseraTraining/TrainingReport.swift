import Foundation
import Tessera
import TesseraData
import TesseraIO

/// What a finished run can say of its best weights.
public struct TrainingResult: Sendable {
    /// On the validation images.
    public let loss: Double
    public let images: Int
    /// Nil for methods that do not classify.
    public let evaluation: Evaluation?
}

extension TrainingRun {
    /// Judges the best weights and writes `report.html`.
    public func finish() throws -> TrainingResult {
        guard trainer.objective.classifies else {
            // The best epoch was the one of least loss; the companion that measured it went on.
            let result = TrainingResult(
                loss: -trainer.state.bestScore, images: validation.dataset.count, evaluation: nil)
            try folder.write(try report(result, []))
            return result
        }
        let best = try TrainedModel(folder.path)
        var samples: [Report.Sample] = []
        let evaluation = try evaluate(best.compiled, validation) { batch, logits in
            guard samples.isEmpty else { return }
            samples = best.samples(batch, logits, validation.dataset, count: 24)
        }
        let result = TrainingResult(loss: evaluation.loss, images: evaluation.images, evaluation: evaluation)
        try folder.write(try report(result, samples))
        return result
    }

    private func report(_ result: TrainingResult, _ samples: [Report.Sample]) throws -> Report {
        let rows = try metrics.rows().map { $0.map { Double($0) ?? .nan } }
        func series(_ name: String, _ column: Int) -> Report.Chart.Series {
            // Epochs without a validation are no gaps in its line.
            let measured = rows.filter { $0[column].isFinite }
            return Report.Chart.Series(name, x: measured.map { $0[1] }, y: measured.map { $0[column] })
        }
        let evaluation = result.evaluation
        let accuracies = evaluation.map {
            [
                Report.Fact("accuracy", String(format: "%.2f %%", 100 * $0.top1)),
                Report.Fact("top 5", String(format: "%.2f %%", 100 * $0.top5)),
            ]
        }
        let accuracy = Report.Chart("Accuracy", series: [series("training", 3), series("validation", 5)])
        return Report(
            title: "\(plan.model) on \(plan.data)",
            summary: "\(imageCount) training images, \(result.images) validation images, best of "
                + "\(rows.count) epochs",
            highlights: (accuracies ?? []) + [
                Report.Fact("loss", String(format: "%.4f", result.loss)),
                Report.Fact("parameters", "\(trained.model.parameterCount)"),
                Report.Fact("training time", String(format: "%.0f s", trainer.state.seconds)),
            ],
            charts: (evaluation == nil ? [] : [accuracy]) + [
                Report.Chart("Loss", series: [series("training", 2), series("validation", 4)]),
                Report.Chart("Learning rate", series: [series("learning rate", 6)]),
            ],
            confusion: evaluation.map { Report.Confusion(labels: trained.labels, counts: $0.confusion) },
            samples: samples, configuration: facts)
    }

    private var facts: [Report.Fact] {
        let size = trained.preprocessing
        let options = JSON(encoding: plan.options).members ?? []
        return [
            Report.Fact("model", plan.model), Report.Fact("data", plan.data),
            Report.Fact("input", "\(size.height) × \(size.width) × \(size.channels)"),
            Report.Fact("instruction set", Processor.instructionSet),
        ] + (plan.teacher.map { [Report.Fact("teacher", $0)] } ?? [])
            + options.map { Report.Fact($0.key, $0.value.string ?? $0.value.text()) }
    }
}
