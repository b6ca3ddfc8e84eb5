import Tessera
import TesseraModels

/// Cross-entropy against (smoothed, mixed) class probabilities: plain training.
///
/// A distilled model without a teacher trains both of its heads on the same targets, so that neither stays random.
public struct Supervised: Objective {
    public static let name = "supervised"

    public init() {}

    public func callAsFunction(
        _ model: any ImageClassifier, _ batch: TrainingBatch
    ) -> (loss: Tensor, logits: Tensor) {
        let answer = model.classify(batch.images)
        guard let heads = answer.heads else { return (crossEntropy(answer.logits, batch.targets), answer.logits) }
        let loss =
            (crossEntropy(heads.classification, batch.targets) + crossEntropy(heads.distillation, batch.targets)) * 0.5
        return (loss, answer.logits)
    }
}
