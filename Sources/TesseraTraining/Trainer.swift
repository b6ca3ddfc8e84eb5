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
    ///     epoch that is validated. It may throw ``InterruptedEvaluation``: then it is called again when the run is resumed.
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
        return try precision.use {
            let (result, tape) = evaluate(batch)
            let value = Double(result.loss.scalar)
            guard value.isFinite else { throw DivergedError(epoch: state.epoch, step: state.batch, loss: value) }
            var gradients = tape.gradients(of: result.loss)
            if let radius = options.sharpnessRadius {
                gradients = gradients.above(optimizer.parameters, radius: radius) {
                    let (result, tape) = evaluate(batch, isRepetition: true)
                    return tape.gradients(of: result.loss)
                }
            }
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

    /// The objective in training mode, recorded; a repetition draws what the first time drew.
    private func evaluate(_ batch: TrainingBatch, isRepetition: Bool = false) -> (ObjectiveValue, Tape) {
        let pass = TrainingPass(
            generator.fork(UInt64(state.update)), checkpointsActivations: options.checkpointsActivations,
            isRepetition: isRepetition)
        let tape = Tape()
        return (tape.record { pass.run { objective(batch, at: moment) } }, tape)
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
        let isValidated = state.epoch + 1 == epochs || (state.epoch + 1) % options.validationInterval == 0
        let result = isValidated ? try precision.use { try average?.apply(evaluate) ?? evaluate() } : nil
        state.seconds += Date().timeIntervalSince(start)
        let score = result.map { $0.accuracy ?? -$0.loss } ?? -.infinity
        let isBest = score > state.bestScore
        if isBest { (state.bestScore, state.bestEpoch) = (score, state.epoch) }
        let images = Double(max(1, state.images))
        let summary = EpochSummary(
            epoch: state.epoch, trainLoss: state.lossSum / images,
            trainAccuracy: objective.classifies ? Double(state.correct) / images : nil,
            validationLoss: result?.loss, validationAccuracy: result?.accuracy,
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

extension Tensor {
    /// How many rows of logits `[batch, classes]` have their greatest value at the label; the first one wins a tie.
    func countCorrect(_ labels: [Int32]) -> Int { zip(greatestClasses, labels).count { $0 == $1 } }
}
