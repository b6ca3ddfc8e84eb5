import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraModels
import TesseraNN
import Testing

@testable import TesseraTraining

/// An objective without labels: a companion rebuilds the mean of each image from what the model makes of it.
final class Rebuilding: Objective {
    let model: any ImageClassifier
    let layer = Linear(3, 1)
    var companion: Module? { layer }
    var undecayedKeys: Set<String> { ["weight"] }
    let classifies = false
    let seesPlainImages = true

    init(_ model: any ImageClassifier) { self.model = model }

    func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
        var random = moment.random
        let noise = Tensor([batch.labels.count, 1]) { buffer in
            for i in buffer.indices { buffer[i] = 0.01 * random.normal() }
        }
        let mean = batch.plainImages.mean(axes: [1, 2, 3]).reshaped([batch.labels.count, 1])
        return ObjectiveValue(loss: (layer(model(batch.images)) - mean + noise).squared().mean(), logits: nil)
    }
}

/// The frame that methods fill in: companions, schedules, teachers, refusals.
@Suite(.serialized) struct MethodTests {
    /// A distilled transformer for the pictures of ``Bars``.
    static func transformer(distilled: Bool = true, classes: Int = 3) throws -> any ImageClassifier {
        let name = distilled ? "deit_tiny_distilled_patch16_224" : "deit_tiny_patch16_224"
        var configuration = try Registry.entry(name).configuration
        try configuration.apply(
            Arguments(
                parsing:
                    #"{"img_size": 12, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}"#,
                section: "model"))
        configuration.classes = classes
        let model = configuration.makeModel()
        model.initialize(seed: 3)
        return model
    }

    static func objective(_ name: String) throws -> any Objective {
        if name == "rebuilding" { return Rebuilding(try transformer()) }
        if name == "deit" {
            let teacher = try transformer(distilled: false)
            return Distillation(try transformer(), teacher: { images in Tape.pause { teacher(images) } })
        }
        if name == "tinymim" {
            let teacher = try transformer(distilled: false) as! VisionTransformer
            return TokenRelationDistillation(
                try transformer(distilled: false) as! VisionTransformer,
                teacher: { images in
                    Tape.pause { TokenRelationDistillation.answers(teacher, images, .relations, block: 1, heads: 4) }
                }, teacherWidth: 16, target: .relations, heads: 4)
        }
        if name == "kd" {
            let teacher = try transformer(distilled: false)
            return Distillation(
                try transformer(distilled: false), teacher: { images in Tape.pause { teacher(images) } })
        }
        if name == "intermediate_supervision" {
            return IntermediateSupervision(
                try columns(), preprocessing: Preprocessing(height: 32, width: 32, mean: [0.5], std: [0.25]))
        }
        var options = TrainingOptions()
        options.method = name
        options.drloc.width = 24
        (options.mae.decoderWidth, options.mae.decoderDepth, options.mae.decoderHeads) = (8, 1, 2)
        return try MethodSetup.make(try transformer(), side: 12, channels: 1, options).objective()
    }

    /// A small RevCol for grey images that has heads between its columns.
    private static func columns() throws -> RevCol {
        var configuration = try Registry.entry("revcol_tiny").configuration
        try configuration.apply(
            Arguments(
                parsing: #"{"inter_supv": true, "channels": [4, 4, 8, 8], "layers": [1, 1, 1, 1], "in_chans": 1}"#,
                section: "model"))
        configuration.classes = 3
        let network = configuration.makeModel() as! RevCol
        network.initialize(seed: 4)
        return network
    }

    /// ``Bars`` at the least size that RevCol takes.
    private struct EnlargedBars: BatchSource {
        let bars = Bars(batchesPerEpoch: 3)
        var batchesPerEpoch: Int { bars.batchesPerEpoch }
        var imageShape: Shape { [1, 32, 32, 1] }

        func forEachBatch(epoch: Int, from start: Int, _ body: (TrainingBatch) throws -> Bool) throws {
            try bars.forEachBatch(epoch: epoch, from: start) { batch in
                let images = batch.images.resized(height: 32, width: 32, interpolation: .bilinear)
                return try body(TrainingBatch(images: images, labels: batch.labels, targets: batch.targets))
            }
        }
    }

    private func options() -> TrainingOptions {
        var options = TrainerTests.options
        options.epochs = 2
        return options
    }

    /// Stops, goes on in a new trainer from copies of its checkpoint: the same bits, the companion's too.
    @Test(arguments: ["deit", "kd", "drloc", "intermediate_supervision", "mae", "tinymim", "rebuilding"])
    func resumingEqualsNeverStopping(_ name: String) throws {
        let source: any BatchSource = name == "intermediate_supervision" ? EnlargedBars() : Bars()
        func trainer() throws -> Trainer { Trainer(try Self.objective(name), source: source, options: options()) }
        func run(_ trainer: Trainer, steps: Int) throws -> Bool {
            var count = 0
            return try trainer.run(
                evaluate: { (1, trainer.objective.classifies ? 0.5 : nil) },
                shouldStop: {
                    count += 1
                    return count == steps
                }, report: { _ in })
        }
        let whole = try trainer()
        #expect(try run(whole, steps: .max))
        let first = try trainer()
        #expect(try !run(first, steps: source.batchesPerEpoch + 2))
        let second = try trainer()
        func copies(_ tensors: [(key: String, tensor: Tensor)]) -> [String: Tensor] {
            Dictionary(uniqueKeysWithValues: tensors.map { ($0.key, Tensor($0.tensor.scalars, $0.tensor.shape)) })
        }
        try second.model.load(copies(first.model.stateDictionary))
        let state = copies(first.optimizerState)
        let own = first.objective.ownParameters.map(\.key)
        #expect(
            own.isEmpty == ["deit", "kd", "intermediate_supervision", "tinymim"].contains(name)
                && own.allSatisfy { state[$0] != nil && state["ema.\($0)"] != nil })
        try second.resume(first.state, optimizerState: state)
        #expect(try run(second, steps: .max))
        #expect(TrainerTests.weights(second) == TrainerTests.weights(whole))
        #expect(second.state == whole.state || second.state.seconds != whole.state.seconds)
        if let key = own.first {
            var damaged = state
            damaged[key] = nil
            #expect(throws: StateDictionaryError(missing: [key])) {
                try second.resume(first.state, optimizerState: damaged)
            }
            #expect(!first.model.stateDictionary.contains { $0.key.hasPrefix("method.") })
        }
    }

    /// The companion is trained, decays as told, and starts from the seed.
    @Test func companionsAreTrained() throws {
        let (a, b) = (Rebuilding(try Self.transformer()), Rebuilding(try Self.transformer()))
        let trainer = Trainer(a, source: Bars(), options: options())
        _ = Trainer(b, source: Bars(), options: options())
        let before = a.layer.weight.value.scalars
        #expect(before == b.layer.weight.value.scalars && before.contains { $0 != 0 })
        let entry = try #require(trainer.optimizer.parameters.first { $0.key == "method.weight" })
        #expect(entry.weightDecay == 0)
        _ = try trainer.run(evaluate: { (0, nil) }, report: { _ in })
        #expect(a.layer.weight.value.scalars != before)
    }

    /// A companion that shares parameters of the model leaves them as they are, and they are trained once.
    @Test func sharedParametersAreTheModels() throws {
        final class Sharing: Module {
            let shared: Parameter
            let own: Linear
            init(_ shared: Parameter) { (self.shared, own) = (shared, Linear(2, 2)) }
        }
        final class Shared: Objective {
            let model: any ImageClassifier
            let companion: Module?
            init(_ model: any ImageClassifier) {
                self.model = model
                companion = Sharing(model.parameters[0].parameter)
            }
            func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
                fatalError("never run")
            }
        }
        let model = try Self.transformer()
        let before = model.parameters[0].parameter.value.scalars
        let trainer = Trainer(Shared(model), source: Bars(), options: options())
        #expect(model.parameters[0].parameter.value.scalars == before)
        let keys = trainer.optimizer.parameters.map(\.key).filter { $0.hasPrefix("method.") }
        #expect(keys == ["method.own.weight", "method.own.bias"])
    }

    /// Without labels the least validation loss decides, and there is no accuracy.
    @Test func lossDecidesWhereThereIsNoAccuracy() throws {
        let trainer = Trainer(try Self.objective("rebuilding"), source: Bars(), options: TrainerTests.options)
        var losses = [3.0, 1, 2, 0.5][...]
        var summaries: [EpochSummary] = []
        _ = try trainer.run(evaluate: { (losses.popFirst()!, nil) }) {
            if case .epoch(let summary) = $0 { summaries.append(summary) }
        }
        #expect(summaries.map(\.isBest) == [true, true, false, true])
        #expect(summaries.allSatisfy { $0.trainAccuracy == nil && $0.validationAccuracy == nil && $0.trainLoss > 0 })
        #expect(trainer.state.bestScore == -0.5 && trainer.state.bestEpoch == 3)
        // Validation draws the same numbers whenever it is asked, and other ones for another batch.
        let batch = Bars().batch(7)
        let value = trainer.validationLoss(batch, step: 0)
        #expect(trainer.validationLoss(batch, step: 0) == value && trainer.validationLoss(batch, step: 1) != value)
    }

    /// A teacher of another size and other statistics sees what its own preprocessing would have made of the image.
    @Test func teachersSeeImagesAsTheirOwn() throws {
        var configuration = try Registry.entry("cct_2_3x2_32").configuration
        try configuration.apply(Arguments(parsing: #"{"img_size": 8, "n_input_channels": 1}"#, section: "model"))
        configuration.classes = 3
        let model = configuration.makeModel()
        model.initialize(seed: 1)
        let student = Preprocessing(height: 16, width: 16, mean: [0.5], std: [0.25])
        let own = Preprocessing(height: 8, width: 8, mean: [0.1], std: [0.5])
        let trained = try TrainedModel(
            model: model,
            configuration: .init(
                architecture: "cct_2_3x2_32", classCount: 3, modelArguments: nil, preprocessing: own.file, labels: [],
                tessera: nil))
        let teacher = Teacher(trained, student: student)
        // A grey ramp: shrinking it by two with antialiasing keeps its middle.
        let ramp = (0..<256).map { Float($0 % 16) / 16 }
        let images = Tensor(ramp.map { ($0 - 0.5) / 0.25 }, [1, 16, 16, 1])
        let seen = teacher.adapted(images)
        #expect(seen.shape == [1, 8, 8, 1])
        #expect(abs(seen.scalars[3] - (Float(6.5) / 16 - 0.1) / 0.5) < 1e-5)
        let logits = TrainingPass(RandomGenerator(seed: 1)).run { teacher.answers()(images) }
        #expect(relativeError(logits.scalars, model(seen).scalars) < 1e-5)
        let tokens = teacher.compiled { [model.features($0).tokens] }(images)[0]
        #expect(relativeError(tokens.scalars, model.features(seen).tokens.scalars) < 1e-5)
    }

    @Test func refusals() throws {
        func refuses(_ method: String, _ model: any ImageClassifier, teacher: String? = nil, _ text: String) throws {
            var options = TrainingOptions()
            options.method = method
            #expect {
                _ = try MethodSetup.make(model, side: 12, channels: 1, options, teacher: teacher).objective()
            } throws: { error in
                "\(error)".contains(text) && !"\(error)".contains("\n")
            }
        }
        let (distilled, plain) = (try Self.transformer(), try Self.transformer(distilled: false))
        try refuses("dreit", plain, "unknown method dreit: did you mean deit")
        try refuses("deit", distilled, "needs a teacher, expected --teacher RUN")
        try refuses("deit", plain, teacher: "t", "the model has no distillation token")
        try refuses("kd", distilled, teacher: "t", "has a distillation token, which --method deit trains")
        try refuses("drloc", plain, teacher: "t", "takes no teacher, found --teacher t")
        try refuses("intermediate_supervision", plain, "no heads between columns")
        var options = TrainingOptions()
        options.method = "drloc"
        options.drloc.usesAllStages = true
        #expect(throws: MethodError("drloc", "the model has no pyramid of stages that --drloc-multiscale could use")) {
            _ = try MethodSetup.make(plain, side: 12, channels: 1, options).objective()
        }
        var small = try Registry.entry("deit_tiny_patch16_224").configuration
        try small.apply(
            Arguments(
                parsing: #"{"img_size": 4, "patch_size": 4, "in_chans": 1, "embed_dim": 8, "num_heads": 2}"#,
                section: "model"))
        let point = small.makeModel()
        point.initialize(seed: 1)
        options.drloc.usesAllStages = false
        #expect(throws: MethodError("drloc", "a token grid of 1×1 has no offsets to learn, expected 2×2 or more")) {
            _ = try MethodSetup.make(point, side: 4, channels: 1, options).objective()
        }
    }

    /// Settings of a method that is not asked for would be read by nobody: they are refused.
    @Test func settingsOfAnotherMethodAreRefused() {
        var options = TrainingOptions()
        options.drloc.lambda = 1
        options.distillation.temperature = 0
        let problems = options.problems(images: 1000, classes: 10)
        #expect(problems.contains("--drloc-…: found with --method supervised, expected --method drloc"))
        #expect(problems.contains { $0.hasPrefix("--distillation-tau: found 0.0, expected above 0") })
        options.method = "drloc"
        #expect(!options.problems(images: 1000, classes: 10).contains { $0.hasPrefix("--drloc") })
        options.criterion.isBinary = true
        options.criterion.threshold = 0
        #expect(options.problems(images: 1000, classes: 10).contains { $0.hasPrefix("--bce-target-thresh:") })
        options.smoothing = 0
        #expect(!options.problems(images: 1000, classes: 10).contains { $0.hasPrefix("--bce-target-thresh:") })
    }

    /// RevCol's parts add up to the loss of its sheet, on the image before it was normalised.
    @Test func intermediateSupervisionSeesTheImage() throws {
        let network = try Self.columns()
        let size = Preprocessing(height: 32, width: 32, mean: [0.5], std: [0.25])
        let objective = IntermediateSupervision(network, preprocessing: size)
        let images = Tensor((0..<2048).map { Float($0 % 7) / 7 }, [2, 32, 32, 1])
        let normalised = (images - 0.5) / 0.25
        let targets = smoothedTargets([0, 2], classes: 3, smoothing: 0)
        let moment = TrainingMoment(epoch: 0, epochs: 1, update: 0, updates: 1, random: RandomGenerator(seed: 1))
        let value = objective(TrainingBatch(images: normalised, labels: [0, 2], targets: targets), at: moment)
        let outputs = network.supervised(normalised)
        let expected = RevCol.losses(
            outputs, targets: targets, image: images.broadcast(to: [2, 32, 32, 3])
        ).map(\.scalar).reduce(0, +)
        #expect(abs(value.loss.scalar / expected - 1) < 1e-6)
        #expect(value.logits!.scalars == outputs.logits[3].scalars)
    }
}
