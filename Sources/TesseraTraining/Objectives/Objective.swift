import Tessera
import TesseraModels
import TesseraNN

/// A way to train a classifier: what a batch costs.
///
/// One file a method. The loop owns everything else (optimizer, schedule, checkpoints, augmentation), so every method
/// has it.
public protocol Objective: Sendable {
    /// The name that `--method` takes.
    static var name: String { get }

    /// The loss of one batch, a scalar on the current tape, and the logits that accuracy is counted from.
    func callAsFunction(_ model: any ImageClassifier, _ batch: TrainingBatch) -> (loss: Tensor, logits: Tensor)
}

/// Images and what they show.
public struct TrainingBatch: Sendable {
    /// `[batch, height, width, channels]`, normalised.
    public let images: Tensor
    /// The class of each image, before any mixing.
    public let labels: [Int32]
    /// `[batch, classes]`: smoothed and mixed class probabilities.
    public let targets: Tensor

    public init(images: Tensor, labels: [Int32], targets: Tensor) {
        (self.images, self.labels, self.targets) = (images, labels, targets)
    }
}
