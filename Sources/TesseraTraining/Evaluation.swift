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

/// Runs a classifier over all images of a loader.
///
/// - Precondition: the model has at least as many outputs as the data has classes.
/// - Parameter observe: sees each batch's places in the data set, labels and logits; what it throws ends the evaluation.
public func evaluate(
    _ model: CompiledClassifier, _ loader: Loader, observe: (Batch, Tensor) throws -> Void = { _, _ in }
) throws -> Evaluation {
    var metrics: ClassificationMetrics?
    var loss = 0.0
    let start = Date()
    let batches = loader.epoch(0)
    while let batch = try batches.nextBatch() {
        let logits = model(batch.tensor)
        loss -= Double(logits.logSoftmax(axis: -1).picked(batch.labels).reduce(0, +))
        if metrics == nil { metrics = ClassificationMetrics(classes: logits.shape[1]) }
        logits.withUnsafeBuffer { metrics!.add(logits: $0, labels: batch.labels) }
        try observe(batch, logits)
    }
    let classes = loader.dataset.classNames.count
    let (images, outputs) = (metrics?.count ?? 0, metrics?.classes ?? classes)
    return Evaluation(
        top1: metrics?.top1 ?? 0, top5: metrics?.topK ?? 0, loss: loss / Double(max(1, images)), images: images,
        seconds: Date().timeIntervalSince(start),
        perClass: (0..<classes).map { metrics?.perClass[$0] ?? 0 },
        confusion: (0..<classes).map { label in
            (0..<classes).map { metrics?.confusion[label * outputs + $0] ?? 0 }
        })
}

extension Batch {
    /// The images as a tensor of their own.
    public var tensor: Tensor { tensor(view: 0) }

    func tensor(view: Int) -> Tensor {
        Tensor([count, height, width, channels]) { _ = $0.update(from: values(view: view)) }
    }
}

extension Tensor {
    /// The entry of each row `[rows, classes]` at its label.
    func picked(_ labels: [Int32]) -> [Float] {
        withUnsafeBuffer { values in labels.enumerated().map { values[$0 * shape[1] + Int($1)] } }
    }
}
