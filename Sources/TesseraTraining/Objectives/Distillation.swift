import Tessera
import TesseraModels

/// What a student's logits cost against its teacher's.
public enum DistillationLoss: String, Codable, Sendable, CaseIterable {
    /// Cross-entropy with the teacher's first best class.
    case hard
    /// τ² / (batch · classes) · Σ p (log p − log q) with p = softmax(teacher / τ), q = softmax(student / τ): DeiT's code,
    /// which divides by the number of elements.
    case soft
    /// τ² / batch · Σ p (log p − log q): "Distilling the Knowledge in a Neural Network" (2015), arXiv 1503.02531.
    case kl
    /// −1 / batch · Σ p log q: soft labels alone, as SReT trains.
    case labels

    /// - Parameters:
    ///   - student, teacher: logits `[batch, classes]`; no gradient flows into the teacher's
    /// - Returns: a scalar
    public func callAsFunction(_ student: Tensor, _ teacher: Tensor, temperature: Float) -> Tensor {
        let teacher = teacher.detached
        if self == .hard { return crossEntropy(student, labels: teacher.greatestClasses) }
        let (p, logP) = Tape.pause {
            let scaled = teacher / temperature
            return (scaled.softmax(axis: -1), scaled.logSoftmax(axis: -1))
        }
        let logQ = (student / temperature).logSoftmax(axis: -1)
        let batch = Float(max(1, student.shape[0]))
        return switch self {
        case .labels: (p * logQ).sum() * (-1 / batch)
        case .kl: (p * (logP - logQ)).sum() * (temperature * temperature / batch)
        default: (p * (logP - logQ)).mean() * (temperature * temperature)
        }
    }
}

/// The settings of distillation, under the names of DeiT's script.
public struct DistillationOptions: MethodOptions {
    static let methods = ["deit", "kd"]
    static let prefix = "distillation"

    public var loss = DistillationLoss.hard
    /// The part of the loss that is the teacher's; the labels have the rest.
    public var alpha = 0.5
    /// What logits are divided by before the softmax.
    public var temperature = 1.0

    public init() {}

    func checkValues(_ problems: inout OptionProblems) {
        problems.require((0...1).contains(alpha), "distillation-alpha", alpha, "0 to 1")
        problems.require(
            temperature > 0 && temperature <= 1000, "distillation-tau", temperature, "above 0, at most 1000")
    }
}

/// Distillation: loss = (1 − α) · criterion(answer, targets) + α · distillation loss(answer, teacher).
///
/// "Training data-efficient image transformers & distillation through attention" (2020), arXiv 2012.12877. The student's
/// distillation token answers to the teacher and its class token to the labels; a model without that token answers to
/// both with the same logits (the paper's rows "no extra token"). The teacher sees the same augmented and mixed images.
public final class Distillation: Objective {
    public let model: any ImageClassifier
    private let teacher: (Tensor) -> Tensor
    private let criterion: Criterion
    private let options: DistillationOptions

    /// - Parameter teacher: from the student's images to logits
    public init(
        _ model: any ImageClassifier, teacher: @escaping (Tensor) -> Tensor, criterion: Criterion = Criterion(),
        options: DistillationOptions = DistillationOptions()
    ) {
        (self.model, self.teacher, self.criterion, self.options) = (model, teacher, criterion, options)
    }

    public func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
        let answer = model.classify(batch.images)
        let heads = answer.heads ?? (answer.logits, answer.logits)
        return ObjectiveValue(
            loss: loss(heads, batch.targets, teacher: teacher(batch.images)), logits: answer.logits)
    }

    /// What the student's two logits cost against the targets and the teacher's logits, all `[batch, classes]`.
    func loss(
        _ heads: (classification: Tensor, distillation: Tensor), _ targets: Tensor, teacher: Tensor
    ) -> Tensor {
        let alpha = Float(options.alpha)
        return criterion(heads.classification, targets) * (1 - alpha)
            + options.loss(heads.distillation, teacher, temperature: Float(options.temperature)) * alpha
    }
}

extension TrainingMethod {
    private static let deitPaper = (
        title: "Training data-efficient image transformers & distillation through attention", year: 2020,
        arxiv: "2012.12877"
    )

    static let deit = TrainingMethod(
        name: "deit", summary: "a distillation token learns from a teacher, best a convolutional one", paper: deitPaper,
        teacher: .required, makeObjective: { try Distillation($0, hasToken: true) })

    static let distillation = TrainingMethod(
        name: "kd", summary: "the ordinary head learns from labels and teacher", paper: deitPaper, teacher: .required,
        makeObjective: { try Distillation($0, hasToken: false) })
}

extension Distillation {
    fileprivate convenience init(_ setup: MethodSetup, hasToken: Bool) throws {
        guard (setup.model.classify(setup.abstractImage).heads != nil) == hasToken else {
            throw setup.refusal(
                hasToken
                    ? "the model has no distillation token, expected one such as deit_tiny_distilled_patch16_224 "
                        + "(--method kd distils through the ordinary head)"
                    : "the model has a distillation token, which --method deit trains")
        }
        let teacher = try setup.requiredTeacher(answers: true)
        self.init(
            setup.model, teacher: teacher.answers(), criterion: setup.options.criterion,
            options: setup.options.distillation)
    }
}

extension Tensor {
    /// The place of the greatest value of each row `[rows, classes]`; the first of equals.
    var greatestClasses: [Int32] {
        let classes = shape[1]
        return withUnsafeBuffer { values in
            (0..<shape[0]).map { row in
                let start = row * classes
                var best = start
                for i in start..<start + classes where values[i] > values[best] { best = i }
                return Int32(best - start)
            }
        }
    }
}
