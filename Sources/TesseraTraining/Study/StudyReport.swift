import Foundation
import Tessera
import TesseraIO

extension Study {
    /// What `study.html` shows.
    var page: StudyPage {
        let plan = state.plan
        let trained = state.ranking.filter { state.candidates[$0].accuracy != nil }
        var highlights: [Report.Fact] = []
        if let winner = state.winner, let accuracy = state.candidates[winner].accuracy {
            highlights.append(Report.Fact("best", state.candidates[winner].name))
            highlights.append(Report.Fact("accuracy", String(format: "%.2f %%", 100 * accuracy)))
        }
        highlights.append(Report.Fact("time spent", String(format: "%.0f of %.0f s", state.seconds, plan.budget)))
        let curves = trained.map { index in
            let points = state.candidates[index].points
            return Report.Chart.Series(
                state.candidates[index].name, x: points.map { Double($0.epoch) }, y: points.map(\.accuracy))
        }
        return StudyPage(
            title: "What suits \(plan.data)", summary: summary, highlights: highlights, command: command,
            header: ["", "model", "method", "accuracy", epochsTitle, "parameters", "latency", "training", ""],
            rows: state.ranking.enumerated().map { place, index in row(place, state.candidates[index]) },
            charts: [
                tradeOff("Accuracy against latency", "milliseconds an image", trained) {
                    state.candidates[$0].latency
                },
                tradeOff("Accuracy against size", "parameters", trained) {
                    state.candidates[$0].parameters.map(Double.init)
                },
                Report.Chart("Learning curves (validation accuracy)", series: curves),
            ],
            notes: notes, configuration: facts)
    }

    private var summary: String {
        let trained = state.candidates.count { $0.accuracy != nil }
        let ending = state.isComplete ? "the search is complete" : "the search is not at its end"
        return "\(trained) of \(state.candidates.count) candidates trained on \(imageCount) images and compared on "
            + "\(validationCount) others; \(ending)"
    }

    private var epochsTitle: String { state.search.map { "epochs of \($0.epochs.last!)" } ?? "epochs" }

    private func row(_ place: Int, _ candidate: StudyCandidate) -> [String] {
        let remark = candidate.reason ?? (candidate.status == .waiting ? "not reached in time" : "")
        return [
            candidate.accuracy == nil ? "" : "\(place + 1)", candidate.model, candidate.method,
            candidate.accuracy.map { String(format: "%.2f %%", 100 * $0) } ?? "–",
            candidate.epochs > 0 ? "\(candidate.epochs)" : "–",
            candidate.parameters.map { String(format: "%.2f M", Double($0) / 1e6) } ?? "–",
            candidate.latency.map { String(format: "%.2f ms", $0) } ?? "–",
            candidate.seconds > 0 ? String(format: "%.0f s", candidate.seconds) : "–",
            remark.isEmpty ? "" : "\(candidate.status.rawValue): \(remark)",
        ]
    }

    /// Candidates by cost, and a line through those that no other beats.
    private func tradeOff(
        _ title: String, _ horizontal: String, _ trained: [Int], cost: (Int) -> Double?
    ) -> Report.Chart {
        let points = trained.compactMap { index in
            cost(index).map { (name: state.candidates[index].name, cost: $0, score: state.candidates[index].accuracy!) }
        }
        let front = paretoFront(points.map { ($0.cost, $0.score) })
        return Report.Chart(
            title, horizontal: horizontal, isLogarithmic: true,
            series: [
                Report.Chart.Series(
                    "Pareto front", x: front.map { points[$0].cost }, y: front.map { points[$0].score }),
                Report.Chart.Series(
                    "candidates", x: points.map(\.cost), y: points.map(\.score), labels: points.map(\.name)),
            ])
    }

    private var notes: [String] {
        var notes: [String] = []
        if let search = state.search {
            let rungs = search.epochs.dropLast().map(String.init).joined(separator: " and ")
            notes.append(
                rungs.isEmpty
                    ? "The time allowed no comparison on the way: every candidate is trained to the end."
                    : "Asynchronous successive halving (arXiv 1810.05934): after \(rungs) epochs the best 1/\(search.eta) "
                        + "of the candidates go on from where they stand, and the others stop.")
            notes.append(
                "Every candidate follows the schedule of a whole training: a linear warm-up over its first twentieth and a "
                    + "cosine down to the least rate at its end. Pausing changes nothing, so candidates are compared at the "
                    + "same place of the same schedule. Before the end of the cosine an accuracy is lower than what the same model comes to at its end."
            )
        }
        notes.append(
            "Accuracy is the best one so far on the images held out. Latency is the median time of one image through the "
                + "compiled model in float32 on \(Processor.threads) threads of this machine (\(Processor.instructionSet))."
        )
        return notes
    }

    private var facts: [Report.Fact] {
        let plan = state.json["plan"]?.members ?? []
        return plan.map {
            Report.Fact($0.key.replacingOccurrences(of: "_", with: " "), $0.value.string ?? $0.value.text())
        }
    }
}
