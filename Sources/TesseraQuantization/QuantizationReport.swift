import Foundation
import Tessera
import TesseraIO
import TesseraTraining

/// How well a model does what it is for.
public enum ModelQuality: Sendable {
    /// A classifier's answers.
    case evaluation(Evaluation)
    /// The mean cosine between a model's features and those of the model in floats, where there is no head to answer.
    case agreement(Double, images: Int)

    fileprivate var facts: [(name: String, format: String, value: Double)] {
        switch self {
        case .evaluation(let evaluation):
            [("accuracy", "%.2f %%", 100 * evaluation.top1), ("loss", "%.4f", evaluation.loss)]
        case .agreement(let cosine, _): [("cosine of features", "%.5f", cosine)]
        }
    }

    fileprivate var json: [JSON.Member] {
        switch self {
        case .evaluation(let evaluation):
            [
                JSON.Member("top1", JSON(evaluation.top1)), JSON.Member("loss", JSON(evaluation.loss)),
                JSON.Member("images", JSON(evaluation.images)),
            ]
        case .agreement(let cosine, let images):
            [JSON.Member("feature_cosine", JSON(cosine)), JSON.Member("images", JSON(images))]
        }
    }
}

/// What was measured of one of the two models.
public struct QuantizationMeasure: Sendable {
    public var quality: ModelQuality
    /// Of a forward pass, in milliseconds, by batch size.
    public var latency: [Int: Double]
    public var fileBytes: Int
    /// Of a process that ran the model, in 2²⁰ bytes.
    public var peakMemory: Double

    public init(quality: ModelQuality, latency: [Int: Double], fileBytes: Int, peakMemory: Double) {
        (self.quality, self.latency) = (quality, latency)
        (self.fileBytes, self.peakMemory) = (fileBytes, peakMemory)
    }

    var json: JSON {
        .object(
            quality.json + [
                JSON.Member(
                    "latency_ms", .object(latency.sorted { $0.key < $1.key }.map { JSON.Member("\($0)", JSON($1)) })),
                JSON.Member("file_bytes", JSON(fileBytes)), JSON.Member("peak_memory_mb", JSON(peakMemory)),
            ])
    }
}

/// Before and after, as numbers and as a page.
public struct QuantizationReport {
    public let run: QuantizationRun
    public let title: String
    public let before: QuantizationMeasure
    public let after: QuantizationMeasure
    /// The loss of the first calibration images with each group alone in codes.
    private let losses: [Double]

    public init(_ run: QuantizationRun, title: String, before: QuantizationMeasure, after: QuantizationMeasure) {
        (self.run, self.title, self.before, self.after) = (run, title, before, after)
        losses = run.quantizer.lossOfEachGroup(bits: run.bits)
    }

    /// One line on speed, as it is.
    public var verdict: String {
        let ratios = before.latency.keys.sorted().map {
            ($0, before.latency[$0]! / after.latency[$0, default: .infinity])
        }
        let list = ratios.map { String(format: "%.2f× at batch %d", $1, $0) }.joined(separator: ", ")
        let isFaster = ratios.allSatisfy { $0.1 > 1 }
        return isFaster ? "faster than in float32: \(list)" : "NOT faster than in float32: \(list)"
    }

    /// The content of `quantization.json`.
    public var json: JSON {
        let groups = zip(run.quantizer.groups, losses).map { group, loss in
            let bits = group.units.map {
                JSON.Member(run.quantizer.units[$0].part.rawValue, JSON(run.bits[$0]))
            }
            return JSON.object([
                JSON.Member("name", .string(group.name)), JSON.Member("bits", .object(bits)),
                JSON.Member("loss_alone", JSON(loss)),
            ])
        }
        var members = [
            JSON.Member("method", .string(run.quantizer.recipe.method.rawValue)),
            JSON.Member("average_bits", JSON(run.quantizer.averageBits(run.bits))),
            JSON.Member("raised", .array(run.raised.map { .string($0) })),
            JSON.Member("before", before.json), JSON.Member("after", after.json), JSON.Member("groups", .array(groups)),
        ]
        if let table = run.sensitivity {
            let units = zip(run.quantizer.units, table).map { unit, losses in
                JSON.object([
                    JSON.Member("name", .string(unit.name)), JSON.Member("part", .string(unit.part.rawValue)),
                    JSON.Member("loss", .array(losses.map { JSON($0) })),
                ])
            }
            members.append(JSON.Member("sensitivity", .array(units)))
        }
        return .object(members)
    }

    public var page: Report {
        func percent(_ share: Double) -> String { String(format: "%.2f %%", 100 * share) }
        func fact(_ name: String, _ format: String, _ value: (QuantizationMeasure) -> Double) -> Report.Fact {
            Report.Fact(name, String(format: "\(format) → \(format)", value(before), value(after)))
        }
        let quantizer = run.quantizer
        let latencies = before.latency.keys.sorted().map { batch in
            fact("latency, batch \(batch)", "%.2f ms") { $0.latency[batch] ?? .nan }
        }
        let groups = zip(quantizer.groups, losses).map { group, loss in
            let bits = group.units.map { unit in
                "\(quantizer.units[unit].part.rawValue) "
                    + (run.bits[unit] == ModelQuantizer.floatBits ? "float32" : "\(run.bits[unit])")
            }
            return Report.Fact(
                group.name, "bits: \(bits.joined(separator: ", ")); loss alone \(String(format: "%.3g", loss))")
        }
        return Report(
            title: title,
            summary:
                "\(quantizer.recipe.method.rawValue), \(String(format: "%.2f", quantizer.averageBits(run.bits))) bits "
                + "a value on average; \(verdict)",
            highlights: zip(before.quality.facts, after.quality.facts).map { before, after in
                Report.Fact(
                    before.name, String(format: "\(before.format) → \(after.format)", before.value, after.value))
            } + latencies + [
                fact("weights", "%.2f MB") { Double($0.fileBytes) / 1e6 },
                fact("peak memory", "%.0f MB") { $0.peakMemory },
            ],
            charts: charts, chartsTitle: "Layers",
            configuration: groups
                + run.raised.map { Report.Fact($0, "got more bits to hold the accuracy") })
    }

    private var charts: [Report.Chart] {
        let quantizer = run.quantizer
        func series(_ part: ModelQuantizer.Unit.Part, _ name: String) -> Report.Chart.Series {
            let places = quantizer.units.indices.filter { quantizer.units[$0].part == part }
            return Report.Chart.Series(
                name, x: places.indices.map { Double($0 + 1) }, y: places.map { Double(run.bits[$0]) })
        }
        let layers = quantizer.units.filter { $0.part == .weight }.count
        return [
            Report.Chart(
                "Bits of layers", horizontal: "layer", series: [series(.weight, "weights"), series(.input, "inputs")]),
            Report.Chart(
                "Bits of attentions", horizontal: "attention",
                series: [series(.q, "q"), series(.k, "k"), series(.v, "v"), series(.weights, "weights")]),
            Report.Chart(
                "Loss with one layer alone in codes", horizontal: "layer",
                series: [
                    Report.Chart.Series(
                        "mean squared error of logits", x: (0..<layers).map { Double($0 + 1) },
                        y: Array(losses.prefix(layers)))
                ]),
        ]
    }
}
