/// Where training stands: all that a resumed run needs besides tensors.
public struct TrainingState: Codable, Sendable, Equatable {
    public var epoch = 0
    /// Batches done in this epoch.
    public var batch = 0
    /// Updates done in all.
    public var update = 0
    /// Sums over this epoch so far.
    public var lossSum = 0.0
    public var correct = 0
    public var images = 0
    /// Seconds of training, earlier sessions included.
    public var seconds = 0.0
    /// The best validation accuracy so far; for objectives that do not classify minus the least validation loss.
    public var bestScore = -Double.infinity
    public var bestEpoch = -1

    private enum CodingKeys: String, CodingKey {
        case epoch, batch, update, lossSum, correct, images, seconds, bestEpoch
        case bestScore = "bestAccuracy"
    }

    public init() {}

    /// Whether a run of that length passes through a state with these counters.
    func isPossible(epochs: Int, stepsPerEpoch: Int) -> Bool {
        (0...epochs).contains(epoch) && (0...stepsPerEpoch).contains(batch)
            && (0...epochs * stepsPerEpoch).contains(update) && images >= 0 && images < 1 << 48
            && (0...images).contains(correct) && lossSum.isFinite && seconds.isFinite
            && (-1...epochs).contains(bestEpoch)
    }
}

/// What the loop tells while it runs.
public enum TrainingEvent {
    case step(TrainingState, loss: Double, learningRate: Double, imagesPerSecond: Double)
    case epoch(EpochSummary)
    /// Asked for at the end of each epoch and when time is up: everything is consistent now.
    case checkpoint(TrainingState)
}

/// One line of the log. Objectives that do not classify have no accuracies, epochs without a validation neither its loss.
public struct EpochSummary: Sendable, Codable, Equatable {
    public let epoch: Int
    public let trainLoss: Double
    public let trainAccuracy: Double?
    public let validationLoss: Double?
    public let validationAccuracy: Double?
    public let learningRate: Double
    public let seconds: Double
    public let isBest: Bool
}

/// The loss is not a number any more: nothing after this step can be trusted.
public struct DivergedError: Error, CustomStringConvertible, Equatable {
    public let epoch: Int
    public let step: Int
    public let loss: Double

    public var description: String {
        "training diverged: the loss of epoch \(epoch + 1), step \(step + 1) is \(loss), expected a finite number; "
            + "the last checkpoint is from before it (try a lower --lr, or --clip-grad 1)"
    }
}
