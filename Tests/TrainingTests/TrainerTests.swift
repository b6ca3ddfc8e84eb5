import Foundation
import Tessera
import TesseraModels
import TesseraNN
import Testing

@testable import TesseraTraining

/// Pictures with a bright bar whose place is the class: learnable within seconds.
struct Bars: BatchSource {
    var batchesPerEpoch = 6
    let side = 12
    var imageShape: Shape { [1, side, side, 1] }

    func forEachBatch(epoch: Int, from start: Int, _ body: (TrainingBatch) throws -> Bool) throws {
        for index in start..<batchesPerEpoch {
            guard try body(batch(UInt64(epoch * 1000 + index))) else { return }
        }
    }

    func batch(_ seed: UInt64) -> TrainingBatch {
        var generator = RandomGenerator(seed: seed)
        let labels = (0..<16).map { _ in Int32(generator.integer(below: 3)) }
        let images = Tensor([16, side, side, 1]) { buffer in
            for i in buffer.indices {
                let (image, row) = (i / (side * side), i / side % side)
                buffer[i] = 0.3 * generator.normal() + (row / 4 == Int(labels[image]) ? 1 : 0)
            }
        }
        return TrainingBatch(
            images: images, labels: labels, targets: smoothedTargets(labels, classes: 3, smoothing: 0.1))
    }
}

@Suite(.serialized) struct TrainerTests {
    static func model() throws -> any ImageClassifier {
        var configuration = CompactTransformer.Configuration.cct2k3x2
        try configuration.apply(
            Arguments(
                parsing: #"""
                    {"img_size": 12, "n_input_channels": 1, "num_classes": 3, "embedding_dim": 32, "num_heads": 2,
                     "dropout": 0.1}
                    """#, section: "model"))
        let model = configuration.makeModel()
        model.initialize(seed: 3)
        return model
    }

    /// Between two validations there are none, and there is one at the end.
    @Test func validationHasAnInterval() throws {
        var options = Self.options
        (options.epochs, options.validationInterval) = (5, 2)
        let trainer = Trainer(Supervised(try Self.model()), source: Bars(batchesPerEpoch: 1), options: options)
        var count = 0
        var summaries: [EpochSummary] = []
        _ = try trainer.run(
            evaluate: {
                count += 1
                return (1, 0.1 * Double(count))
            }, report: { if case .epoch(let summary) = $0 { summaries.append(summary) } })
        #expect(count == 3 && summaries.map(\.isBest) == [false, true, false, true, true])
        #expect(summaries.map { $0.validationLoss == nil } == [true, false, true, false, false])
        #expect(summaries.map { $0.validationAccuracy == nil } == [true, false, true, false, false])
    }

    static var options: TrainingOptions {
        var options = TrainingOptions()
        options.epochs = 4
        options.learningRate = 3e-3
        options.warmupEpochs = 0.5
        options.emaDecay = 0.9
        options.clipGradient = 1
        options.precision = .float32
        return options
    }

    static func trainer(_ options: TrainingOptions = options) throws -> Trainer {
        Trainer(Supervised(try model()), source: Bars(), options: options)
    }

    static func weights(_ trainer: Trainer) -> [UInt32] {
        (trainer.model.stateDictionary + trainer.optimizerState).flatMap { $0.1.scalars.map(\.bitPattern) }
    }

    /// Dropout, stochastic depth and all: the second run of a block draws what the first one drew.
    @Test func checkpointedActivationsChangeNoBit() throws {
        var options = Self.options
        options.epochs = 1
        let plain = try Self.trainer(options)
        options.checkpointsActivations = true
        let checkpointed = try Self.trainer(options)
        for trainer in [plain, checkpointed] {
            _ = try trainer.run(evaluate: { (0, 0) }, report: { _ in })
        }
        #expect(Self.weights(plain) == Self.weights(checkpointed))
    }

    static func accuracy(_ model: any ImageClassifier) -> Double {
        let batches = (0..<4).map { Bars().batch(UInt64(900_000 + $0)) }
        let right = batches.reduce(0) { $0 + model($1.images).countCorrect($1.labels) }
        return Double(right) / 64
    }

    @Test(arguments: [Precision.float32, .bfloat16, .int16, .switchback]) func learns(_ precision: Precision) throws {
        var options = Self.options
        options.precision = precision
        options.epochs = 8
        let trainer = try Self.trainer(options)
        var summaries: [EpochSummary] = []
        let isDone = try trainer.run(evaluate: { (0, Self.accuracy(trainer.model)) }) {
            if case .epoch(let summary) = $0 { summaries.append(summary) }
        }
        #expect(isDone && summaries.count == 8)
        #expect(summaries.last!.trainLoss < 0.7 * summaries[0].trainLoss)
        #expect(summaries.last!.validationAccuracy! > 0.9, "\(summaries)")
    }

    /// Every precision ends elsewhere: the trainer computes in the one it was told.
    @Test func precisionReachesTheProducts() throws {
        let results = try [Precision.float32, .bfloat16, .int16].map { precision in
            var options = Self.options
            (options.precision, options.epochs) = (precision, 1)
            let trainer = try Self.trainer(options)
            _ = try trainer.run(evaluate: { (0, 0) }, report: { _ in })
            return Self.weights(trainer)
        }
        #expect(results[0] != results[1] && results[0] != results[2] && results[1] != results[2])
    }

    @Test(arguments: [Precision.automatic, .switchback]) func threadsDoNotChangeABit(precision: Precision) throws {
        var options = Self.options
        options.precision = precision
        let before = Processor.threads
        defer { Processor.threads = before }
        var results: [[UInt32]] = []
        for threads in [1, 2, 5] {
            Processor.threads = threads
            let trainer = try Self.trainer(options)
            _ = try trainer.run(evaluate: { (0, 0) }) { _ in }
            results.append(Self.weights(trainer))
        }
        #expect(results[0] == results[1] && results[0] == results[2])
    }

    /// Stops after any number of steps, goes on from the reported checkpoint in a new trainer.
    @Test(arguments: [1, 5, 6, 7, 13, 23]) func resumingEqualsNeverStopping(_ steps: Int) throws {
        let whole = try Self.trainer()
        _ = try whole.run(evaluate: { (0, 0.5) }) { _ in }

        let first = try Self.trainer()
        var count = 0
        var saved: (state: TrainingState, model: [String: Tensor], optimizer: [String: Tensor])?
        let isDone = try first.run(
            evaluate: { (0, 0.5) },
            shouldStop: {
                count += 1
                return count == steps
            }
        ) { event in
            guard case .checkpoint(let state) = event else { return }
            func copies(_ tensors: [(key: String, tensor: Tensor)]) -> [String: Tensor] {
                Dictionary(uniqueKeysWithValues: tensors.map { ($0.key, Tensor($0.tensor.scalars, $0.tensor.shape)) })
            }
            saved = (state, copies(first.model.stateDictionary), copies(first.optimizerState))
        }
        #expect(!isDone)
        let checkpoint = try #require(saved)
        #expect(checkpoint.state.update == steps)

        let second = try Self.trainer()
        try second.model.load(checkpoint.model)
        try second.resume(checkpoint.state, optimizerState: checkpoint.optimizer)
        let isResumed = try second.run(evaluate: { (0, 0.5) }, report: { _ in })
        #expect(isResumed)
        #expect(Self.weights(second) == Self.weights(whole))
        #expect(second.state.bestEpoch == whole.state.bestEpoch)
    }

    @Test func divergenceStopsAndSaysWhere() throws {
        var options = Self.options
        options.learningRate = 1e20
        options.optimizer = .sgd
        options.clipGradient = nil
        let trainer = try Self.trainer(options)
        #expect(throws: DivergedError.self) { _ = try trainer.run(evaluate: { (0, 0) }) { _ in } }
    }

    @Test func aFailingListenerEndsTheRun() throws {
        struct Full: Error {}
        let trainer = try Self.trainer()
        #expect(throws: Full.self) {
            _ = try trainer.run(evaluate: { (0, 0) }) { if case .checkpoint = $0 { throw Full() } }
        }
    }

    @Test func rolloutFindsTheClassToken() throws {
        var configuration = try Registry.entry("vit_2_4_32").configuration
        try configuration.apply(Arguments(parsing: #"{"img_size": 16, "num_classes": 3}"#, section: "model"))
        let model = configuration.makeModel()
        model.initialize(seed: 1)
        let map = try #require(AttentionRollout.map(model, Tensor(repeating: 0.3, [1, 16, 16, 3])))
        #expect(map.shape == [4, 4])
        #expect(map.scalars.allSatisfy { $0 >= 0 && $0 <= 1 })
        #expect(map.scalars.max()! == 1)
    }
}
