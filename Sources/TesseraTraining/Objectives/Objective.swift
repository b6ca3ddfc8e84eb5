import Tessera
import TesseraData
import TesseraModels
import TesseraNN

/// A way to train a model: what a batch costs.
///
/// One file a method. The loop owns everything else (optimizer, schedule, checkpoints, augmentation), so every method
/// has it. An objective keeps no state of its own that training changes but the parameters of its ``companion``: what
/// depends on time it computes from the ``TrainingMoment``.
public protocol Objective: AnyObject {
    /// What is trained and, at the end, kept.
    var model: any ImageClassifier { get }

    /// What is trained beside the model and left behind: heads of auxiliary tasks, projections, another network. It may
    /// share parameters with the model. The optimizer, the moving average and the checkpoints have it; the weights that
    /// are kept have not.
    var companion: Module? { get }

    /// Keys of the companion that weight decay must spare besides biases and vectors.
    var undecayedKeys: Set<String> { get }

    /// Whether it teaches the model to tell classes apart. Where it does not, nothing reads the labels, there is no
    /// accuracy, and the best epoch is the one with the least loss on the validation images.
    var classifies: Bool { get }

    /// Whether it wants ``TrainingBatch/plainImages``.
    var seesPlainImages: Bool { get }

    /// The loss of one batch, on the current tape. Without a `TrainingPass` (on validation images, for objectives that
    /// do not classify) everything runs in evaluation mode.
    func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue
}

extension Objective {
    public var companion: Module? { nil }
    public var undecayedKeys: Set<String> { [] }
    public var classifies: Bool { true }
    public var seesPlainImages: Bool { false }

    /// The companion's parameters and buffers that are not the model's too, under the keys that checkpoints know.
    var ownParameters: [(key: String, parameter: Parameter)] {
        let shared = Set(model.parameters.map { ObjectIdentifier($0.parameter) })
        return (companion?.parameters ?? []).filter { !shared.contains(ObjectIdentifier($0.parameter)) }
            .map { ("method.\($0.key)", $0.parameter) }
    }
}

/// What a batch costs.
public struct ObjectiveValue {
    /// A scalar.
    public let loss: Tensor
    /// `[batch, classes]`: what accuracy is counted from; nil for objectives that do not classify.
    public let logits: Tensor?

    public init(loss: Tensor, logits: Tensor?) { (self.loss, self.logits) = (loss, logits) }
}

/// Images and what they show.
public struct TrainingBatch: Sendable {
    /// `[batch, height, width, channels]`, augmented, normalised, mixed.
    public let images: Tensor
    /// The same crops and flips of the same images, to which nothing else was done; `images` themselves for objectives
    /// that do not ask for them.
    public let plainImages: Tensor
    /// The class of each image, before any mixing.
    public let labels: [Int32]
    /// `[batch, classes]`: smoothed and mixed class probabilities.
    public let targets: Tensor

    public init(images: Tensor, plainImages: Tensor? = nil, labels: [Int32], targets: Tensor) {
        (self.images, self.labels, self.targets) = (images, labels, targets)
        self.plainImages = plainImages ?? images
    }
}

/// Where in a run a step is: what schedules and random choices depend on.
public struct TrainingMoment: Sendable {
    /// Counts from 0.
    public let epoch: Int
    /// Epochs in all.
    public let epochs: Int
    /// Updates done before this one.
    public let update: Int
    /// Updates in all.
    public let updates: Int
    /// The stream of this step: an objective that draws from it draws the same in a resumed run.
    public let random: RandomGenerator

    public init(epoch: Int, epochs: Int, update: Int, updates: Int, random: RandomGenerator) {
        (self.epoch, self.epochs, self.update, self.updates) = (epoch, epochs, update, updates)
        self.random = random
    }
}
