import Tessera
import TesseraModels

/// The loss of an answer against class probabilities: what a method adds its own terms to.
public struct Criterion: Codable, Sendable, Equatable {
    /// Classes as independent yes-or-no questions, as DeiT III (2022, arXiv 2204.07118) and "ResNet strikes back" (2021,
    /// arXiv 2110.00476) train, instead of one choice among them.
    public var isBinary = false
    /// For binary questions: targets above it become 1, the others 0; nil leaves them.
    public var threshold: Double?
    /// For binary questions: the sum over classes instead of their mean.
    public var sumsClasses = false

    public init() {}

    /// The mean over the batch for logits and targets `[batch, classes]`.
    ///
    /// Cross-entropy: −Σ t log softmax(x). Binary: the mean (or sum) over classes of −t log σ(x) − (1 − t) log σ(−x).
    public func callAsFunction(_ logits: Tensor, _ targets: Tensor) -> Tensor {
        guard isBinary else { return crossEntropy(logits, targets) }
        var targets = targets
        if let threshold { targets = Tensor(targets.scalars.map { Double($0) > threshold ? 1 : 0 }, targets.shape) }
        let loss = binaryCrossEntropy(logits, targets)
        return sumsClasses ? loss * Float(logits.shape[1]) : loss
    }

    /// The same for an answer; of a distilled model the mean over its two heads.
    func callAsFunction(_ answer: Classification, _ targets: Tensor) -> Tensor {
        guard let heads = answer.heads else { return self(answer.logits, targets) }
        return (self(heads.classification, targets) + self(heads.distillation, targets)) * 0.5
    }

    func check(_ problems: inout OptionProblems, smoothing: Double, classes: Int) {
        problems.require(isBinary || threshold == nil, "bce-target-thresh", threshold ?? 0, "--bce-loss with it")
        problems.require(isBinary || !sumsClasses, "bce-sum", "it", "--bce-loss with it")
        guard isBinary, let threshold else { return }
        // Smoothing lifts the targets of all classes: a threshold below that would make every class a right one.
        let floor = smoothing / Double(max(1, classes))
        problems.require(
            threshold >= floor && threshold < 1, "bce-target-thresh", threshold,
            "below 1, and at least --smoothing / classes (\(floor))")
    }
}
