import Tessera
import TesseraModels

/// Plain training: the criterion of the recipe against (smoothed, mixed) class probabilities.
///
/// A distilled model without a teacher trains both of its heads on the same targets, so that neither stays random.
public final class Supervised: Objective {
    public let model: any ImageClassifier
    private let criterion: Criterion

    public init(_ model: any ImageClassifier, criterion: Criterion = Criterion()) {
        (self.model, self.criterion) = (model, criterion)
    }

    public func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
        let answer = model.classify(batch.images)
        return ObjectiveValue(loss: criterion(answer, batch.targets), logits: answer.logits)
    }
}

extension TrainingMethod {
    static let supervised = TrainingMethod(
        name: "supervised", summary: "the labels alone", paper: nil, teacher: .none,
        makeObjective: { Supervised($0.model, criterion: $0.options.criterion) })
}
