import Foundation
import Tessera
import TesseraModels
import TesseraNN

/// Batches of one epoch after another, the same for the same seed, from any point on.
public protocol BatchSource {
    var batchesPerEpoch: Int { get }

    /// The shape of a batch of one image.
    var imageShape: Shape { get }

    /// Calls `body` with the batches of `epoch` from number `start` on, until they end or `body` returns false.
    func forEachBatch(epoch: Int, from start: Int, _ body: (TrainingBatch) throws -> Bool) throws
}

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

/// One line of the log. Objectives that do not classify have no accuracies.
public struct EpochSummary: Sendable, Codable, Equatable {
    public let epoch: Int
    public let trainLoss: Double
    public let trainAccuracy: Double?
    public let validationLoss: Double
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

/// The evaluation at the end of an epoch was asked to stop before it was done.
struct InterruptedEvaluation: Error {}

/// The training loop: one tape a step, one optimizer, a schedule by update, an optional average of the weights.
///
/// It knows nothing about files and terminals: those listen to its events. Random numbers are forked from
/// (seed, update), so a resumed run draws what an uninterrupted one would have drawn.
public final class Trainer {
    public let objective: any Objective
    public let options: TrainingOptions
    public let optimizer: any Optimizer
    public let average: MovingAverage?
    public private(set) var state = TrainingState()
    private let source: any BatchSource
    private let companions: [(key: String, parameter: Parameter)]
    private let precision: Precision
    private let generator: RandomGenerator

    /// - Precondition: the model has values; what the objective adds to it is initialised where it has none.
    public init(_ objective: any Objective, source: any BatchSource, options: TrainingOptions) {
        (self.objective, self.source, self.options) = (objective, source, options)
        let (model, seed) = (objective.model, RandomGenerator(seed: options.seed))
        objective.companion?.initialize(seed: seed.fork("method").key, keepingValues: true)
        let companions = objective.ownParameters
        self.companions = companions
        let scales = options.layerDecay.map { LayerDecay(of: model, images: source.imageShape).scales($0) }
        let parameters =
            OptimizedParameter.all(
                model.parameters, weightDecay: options.weightDecay, undecayed: model.undecayedKeys,
                rateScales: scales ?? [:])
            + OptimizedParameter.all(
                companions, weightDecay: options.weightDecay,
                undecayed: Set(objective.undecayedKeys.map { "method.\($0)" }))
        // Weights are written in place, so every parameter must own its memory.
        for entry in parameters { entry.parameter.value = entry.parameter.value.copied }
        optimizer = options.makeOptimizer(parameters)
        average = options.emaDecay.map {
            MovingAverage(of: model.parameters + companions, decay: $0, warmsUp: options.emaWarmup)
        }
        precision = options.precision ?? .automatic
        generator = seed.fork("training")
    }

    public var model: any ImageClassifier { objective.model }

    /// Epochs in all, the cool-down at the minimum rate included.
    public var epochs: Int { options.epochs + options.cooldownEpochs }

    public var stepsPerEpoch: Int { source.batchesPerEpoch }

    /// Goes on from a checkpoint.
    /// - Throws: `StateDictionaryError` if tensors are missing or mis-shaped.
    public func resume(_ state: TrainingState, optimizerState: [String: Tensor]) throws {
        try optimizer.load(optimizerState)
        try average?.load(optimizerState)
        for (key, parameter) in companions {
            guard let tensor = optimizerState[key] else { throw StateDictionaryError(missing: [key]) }
            guard tensor.shape == parameter.shape else {
                throw StateDictionaryError(misshaped: ["\(key): found \(tensor.shape), expected \(parameter.shape)"])
            }
            parameter.value = tensor.copied
        }
        self.state = state
    }

    /// All tensors that a checkpoint needs besides the model's.
    public var optimizerState: [(key: String, tensor: Tensor)] {
        optimizer.state + (average?.state ?? []) + companions.map { ($0.key, $0.parameter.value) }
    }

    /// Trains to the end, or until `shouldStop` says so after a step.
    ///
    /// - Parameters:
    ///   - limit: the epochs in all after which to pause, at a checkpoint
    ///   - evaluate: loss and accuracy (nil: the loss decides) of the model as it is now; called at the end of every
    ///     epoch. It may throw ``InterruptedEvaluation``: then it is called again when the run is resumed.
    ///   - report: hears what happens; an error it throws (a full disk) ends the run
    /// - Returns: whether the end, or the limit, was reached
    /// - Throws: ``DivergedError``, and what the data and the listeners throw.
    public func run(
        upTo limit: Int = .max, evaluate: () throws -> (loss: Double, accuracy: Double?),
        shouldStop: () -> Bool = { false }, report: (TrainingEvent) throws -> Void
    ) throws -> Bool {
        var lastCheckpoint = Date()
        while state.epoch < min(epochs, limit) {
            var isStopped = false
            try source.forEachBatch(epoch: state.epoch, from: state.batch) { batch in
                let start = Date()
                let rate = learningRate(state.update)
                let loss = try step(batch, rate)
                state.seconds += Date().timeIntervalSince(start)
                let speed = Double(batch.labels.count) / max(1e-9, Date().timeIntervalSince(start))
                try report(.step(state, loss: loss, learningRate: rate, imagesPerSecond: speed))
                isStopped = shouldStop()
                let isDue = Date().timeIntervalSince(lastCheckpoint) >= options.checkpointSeconds
                if isStopped || (isDue && state.batch < source.batchesPerEpoch) {
                    try report(.checkpoint(state))
                    lastCheckpoint = Date()
                }
                return !isStopped
            }
            if isStopped { return false }
            do { try finishEpoch(evaluate, report) } catch is InterruptedEvaluation {
                try report(.checkpoint(state))
                return false
            }
            lastCheckpoint = Date()
        }
        return true
    }

    private func step(_ batch: TrainingBatch, _ rate: Double) throws -> Double {
        let pass = TrainingPass(
            generator.fork(UInt64(state.update)), checkpointsActivations: options.checkpointsActivations)
        return try precision.use {
            let tape = Tape()
            let result = tape.record { pass.run { objective(batch, at: moment) } }
            let value = Double(result.loss.scalar)
            guard value.isFinite else { throw DivergedError(epoch: state.epoch, step: state.batch, loss: value) }
            var gradients = tape.gradients(of: result.loss)
            let scale = clip(&gradients)
            optimizer.step(gradients, learningRate: rate, scale: scale)
            average?.update()
            state.update += 1
            state.batch += 1
            state.lossSum += value * Double(batch.labels.count)
            state.images += batch.labels.count
            state.correct += result.logits?.countCorrect(batch.labels) ?? 0
            return value
        }
    }

    /// Where the next step is.
    private var moment: TrainingMoment {
        TrainingMoment(
            epoch: state.epoch, epochs: epochs, update: state.update, updates: epochs * stepsPerEpoch,
            random: generator.fork(UInt64(state.update)).fork("method"))
    }

    /// What the objective says of validation images, in evaluation mode; its draws are the same in every epoch.
    /// - Parameter step: the number of the batch
    public func validationLoss(_ batch: TrainingBatch, step: Int) -> Double {
        let moment = TrainingMoment(
            epoch: state.epoch, epochs: epochs, update: state.update, updates: epochs * stepsPerEpoch,
            random: generator.fork("validation").fork(UInt64(step)))
        return Double(objective(batch, at: moment).loss.scalar)
    }

    private func learningRate(_ update: Int) -> Double {
        options.learningRate(update, stepsPerEpoch: stepsPerEpoch)
    }

    /// Clips gradients in place, or says what to scale all of them by.
    private func clip(_ gradients: inout Gradients) -> Float {
        guard let limit = options.clipGradient else { return 1 }
        switch options.clipMode {
        case .norm:
            return Gradients.clippingScale(norm: gradients.norm(over: optimizer.parameters), limit: limit)
        case .agc:
            // The classifier's rows begin at zero or near it: what is relative to them would never let them grow.
            let clipped = optimizer.parameters.filter { entry in
                !model.headPrefixes.contains { entry.key.hasPrefix($0) }
            }
            gradients.clipAdaptively(clipped, factor: limit)
            return 1
        }
    }

    private func finishEpoch(
        _ evaluate: () throws -> (loss: Double, accuracy: Double?), _ report: (TrainingEvent) throws -> Void
    ) throws {
        let start = Date()
        let result = try precision.use { try average?.apply(evaluate) ?? evaluate() }
        state.seconds += Date().timeIntervalSince(start)
        let score = result.accuracy ?? -result.loss
        let isBest = score > state.bestScore
        if isBest { (state.bestScore, state.bestEpoch) = (score, state.epoch) }
        let images = Double(max(1, state.images))
        let summary = EpochSummary(
            epoch: state.epoch, trainLoss: state.lossSum / images,
            trainAccuracy: objective.classifies ? Double(state.correct) / images : nil,
            validationLoss: result.loss, validationAccuracy: result.accuracy,
            learningRate: learningRate(max(0, state.update - 1)), seconds: state.seconds, isBest: isBest)
        (state.lossSum, state.correct, state.images) = (0, 0, 0)
        state.epoch += 1
        state.batch = 0
        try report(.epoch(summary))
        try report(.checkpoint(state))
    }

    /// The weights to keep: the average if there is one.
    public func withBestWeights<Result>(_ body: () throws -> Result) rethrows -> Result {
        try average?.apply(body) ?? body()
    }
}

extension TrainingOptions {
    func makeOptimizer(_ parameters: [OptimizedParameter]) -> any Optimizer {
        let betas = (betas[0], betas[1])
        return switch optimizer {
        case .adamw: AdamW(parameters, betas: betas, epsilon: epsilon ?? 1e-8)
        case .adam: AdamW(parameters, betas: betas, epsilon: epsilon ?? 1e-8, couplesDecay: true)
        case .lamb: LAMB(parameters, betas: betas, epsilon: epsilon ?? 1e-6)
        case .sgd: SGD(parameters, momentum: momentum)
        }
    }

    /// The rate of an update, before the layers' own factors.
    func learningRate(_ update: Int, stepsPerEpoch: Int) -> Double {
        let epoch = Double(update) / Double(stepsPerEpoch)
        switch schedule {
        case .cosine:
            return Schedule.Cosine(
                base: learningRate, minimum: minimumRate, total: Double(epochs * stepsPerEpoch),
                warmup: warmupEpochs * Double(stepsPerEpoch), warmupStart: warmupRate)(Double(update))
        case .mae:
            guard epoch < Double(epochs) else { return minimumRate }
            return Schedule.mae(
                epoch, base: learningRate, minimum: minimumRate, warmup: warmupEpochs, total: Double(epochs))
        }
    }
}

extension Tensor {
    /// How many rows of logits `[batch, classes]` have their greatest value at the label; the first one wins a tie.
    func countCorrect(_ labels: [Int32]) -> Int {
        let classes = shape[1]
        return withUnsafeBuffer { values in
            labels.enumerated().reduce(0) { count, entry in
                let row = values[(entry.offset * classes)..<((entry.offset + 1) * classes)]
                var best = row.startIndex
                for i in row.indices where row[i] > row[best] { best = i }
                return count + (best - row.startIndex == Int(entry.element) ? 1 : 0)
            }
        }
    }
}
