import Foundation
import Tessera
import TesseraData
import TesseraModels

/// How well a classifier does on a data set.
public struct Evaluation: Sendable, Codable {
    public let top1: Double
    public let top5: Double
    /// Mean cross-entropy against the labels, without smoothing.
    public let loss: Double
    public let images: Int
    public let seconds: Double
    /// The share of each class's images that are right; 0 for a class without images.
    public let perClass: [Double]
    /// `confusion[label][prediction]` counts images.
    public let confusion: [[Int]]

    public var imagesPerSecond: Double { Double(images) / max(seconds, 1e-9) }
}

/// Runs a model over all images of a loader.
///
/// - Parameter observe: sees each batch's places in the data set, labels and logits.
public func evaluate(
    _ model: any ImageClassifier, _ loader: Loader, observe: (Batch, Tensor) -> Void = { _, _ in }
) throws -> Evaluation {
    let classes = loader.dataset.classNames.count
    var confusion = [[Int]](repeating: [Int](repeating: 0, count: classes), count: classes)
    var (loss, right, near, images) = (0.0, 0, 0, 0)
    let start = Date()
    let batches = loader.epoch(0)
    while let batch = try batches.nextBatch() {
        let logits = model(batch.tensor)
        precondition(logits.shape[1] >= classes, "\(logits.shape[1]) outputs for \(classes) classes")
        loss -= Double(logits.logSoftmax(axis: -1).picked(batch.labels).reduce(0, +))
        logits.withUnsafeBuffer { values in
            for (row, label) in batch.labels.enumerated() {
                let scores = values[(row * logits.shape[1])..<((row + 1) * logits.shape[1])]
                let own = scores[scores.startIndex + Int(label)]
                // Ties count as better scores only for classes before the label, as a stable sort would order them.
                let rank = scores.enumerated().reduce(0) {
                    $0 + ($1.element > own || ($1.element == own && $1.offset < Int(label)) ? 1 : 0)
                }
                right += rank == 0 ? 1 : 0
                near += rank < 5 ? 1 : 0
                let best = scores.indices.max { scores[$0] < scores[$1] || (scores[$0] == scores[$1] && $0 > $1) }!
                let prediction = best - scores.startIndex
                if prediction < classes { confusion[Int(label)][prediction] += 1 }
            }
        }
        images += batch.count
        observe(batch, logits)
    }
    let count = Double(max(1, images))
    return Evaluation(
        top1: Double(right) / count, top5: Double(near) / count, loss: loss / count, images: images,
        seconds: Date().timeIntervalSince(start),
        perClass: confusion.enumerated().map { Double($1[$0]) / Double(max(1, $1.reduce(0, +))) }, confusion: confusion)
}

extension Batch {
    /// The images as a tensor of their own.
    public var tensor: Tensor {
        Tensor([count, height, width, channels]) { _ = $0.update(from: values) }
    }
}

extension Tensor {
    /// The entry of each row `[rows, classes]` at its label.
    func picked(_ labels: [Int32]) -> [Float] {
        withUnsafeBuffer { values in labels.enumerated().map { values[$0 * shape[1] + Int($1)] } }
    }
}
