import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraModels
import TesseraNN

/// A training run as a folder on disk: model, data, loop, checkpoints, tables and report put together.
public final class TrainingRun {
    /// What a new run is made of. It is written into `config.json`, so that a run can be resumed by its folder alone.
    public struct Plan: Codable, Sendable, Equatable {
        public var model: String
        /// The data set's name or path, and its format if it was said outright.
        public var data: String
        public var format: String?
        public var pixelLimit = Image.defaultPixelLimit
        /// Refuse unreadable images instead of skipping them.
        public var strict = false
        /// The file that `options` came from, if one did. `options` is what holds.
        public var recipe: String?
        /// The run or weight file to start from; its head is replaced where the classes differ.
        public var weights: String?
        /// The run or weight file of a trained model to learn from.
        public var teacher: String?
        public var options = TrainingOptions()

        public init(model: String, data: String) { (self.model, self.data) = (model, data) }

        /// A plan from `config.json`; what it does not say, because its version knew no such setting, has the default.
        init(_ json: JSON) throws {
            let whole = json.completed(by: JSON(encoding: Plan(model: "", data: "")))
            self = try JSONDecoder().decode(Plan.self, from: Data(whole.text().utf8))
        }
    }

    public let plan: Plan
    public let trained: TrainedModel
    public let folder: RunFolder
    public let trainer: Trainer
    /// The training images' count, for progress.
    public let imageCount: Int
    private let source: LoaderSource
    let validation: Loader
    let metrics: MetricsLog
    private let events: TensorBoardWriter

    /// Accuracies are empty where the method does not classify, all of validation in epochs without one.
    private static let columns = [
        "step", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds",
    ]

    /// Begins a new run.
    ///
    /// - Parameters:
    ///   - configuration: the model; its classes, channels and (if `imageSize` is nil) size follow the data
    /// - Throws: one-line errors that name the flag, file or tensor. Nothing is written before everything is checked.
    public static func begin(
        _ plan: Plan, at path: String, imageSize: Int? = nil, modelArguments: JSON? = nil, overwrite: Bool = false
    ) throws -> TrainingRun {
        let data = try TrainingData(plan)
        let configuration = try data.configuration(plan.model, imageSize: imageSize, arguments: modelArguments)
        let problems = plan.options.problems(images: data.train.count, classes: configuration.classes)
        guard problems.isEmpty else { throw OptionsError(problems: problems) }
        let preprocessing = data.preprocessing(for: configuration)
        _ = try TrainingTransform(preprocessing, plan.options.augmentation)
        let file = TesseraIO.ModelConfiguration(
            architecture: plan.model, classCount: configuration.classes, modelArguments: modelArguments,
            preprocessing: preprocessing.file, labels: data.train.classNames, tessera: JSON(encoding: plan))
        let model = configuration.makeModel()
        try plan.start(model)
        let trained = try TrainedModel(model: model, configuration: file)
        let objective = try plan.objective(for: trained, isNew: plan.weights == nil)
        guard data.isLabelled || !objective.classifies else {
            throw DataError(plan.data, "has no class folders, which --method \(plan.options.method) learns from")
        }
        let folder = try RunFolder.create(at: path, overwrite: overwrite)
        try folder.write(file)
        return try TrainingRun(plan, trained, objective, data, folder, resuming: nil)
    }

    /// Goes on with the run in a folder, from its last checkpoint.
    /// - Parameter notice: is told when a damaged checkpoint had to be passed over.
    public static func resume(at path: String, notice: (String) -> Void) throws -> TrainingRun {
        let folder = try RunFolder.open(at: path)
        let file = try folder.configuration()
        guard let json = file.tessera, json["model"] != nil, let plan = try? Plan(json) else {
            throw FormatError(
                file: folder.file(RunFolder.configurationName), subject: "tessera", found: "no training run",
                expected: "the section that `tessera train` writes")
        }
        let model = try file.buildModel()
        let checkpoint = try folder.loadCheckpoint(as: TrainingState.self, notice: notice)
        if let checkpoint {
            try model.load(Dictionary(uniqueKeysWithValues: checkpoint.model))
        } else {
            try plan.start(model)
        }
        let trained = try TrainedModel(model: model, configuration: file)
        let data = try TrainingData(plan)
        // The folder may have been edited, and the data may have changed since.
        let problems = plan.options.problems(images: data.train.count, classes: file.classCount)
        guard problems.isEmpty else {
            throw FormatError(
                file: folder.file(RunFolder.configurationName), subject: "tessera.options",
                found: problems.joined(separator: "; "), expected: "possible settings")
        }
        guard data.train.classNames.count == file.classCount else {
            throw FormatError(
                file: folder.file(RunFolder.configurationName), subject: "num_classes", found: "\(file.classCount)",
                expected: "\(data.train.classNames.count), as in \(plan.data)")
        }
        let objective = try plan.objective(for: trained, isNew: checkpoint == nil && plan.weights == nil)
        return try TrainingRun(plan, trained, objective, data, folder, resuming: checkpoint)
    }

    private init(
        _ plan: Plan, _ trained: TrainedModel, _ objective: any Objective, _ data: TrainingData, _ folder: RunFolder,
        resuming checkpoint: Checkpoint<TrainingState>?
    ) throws {
        (self.plan, self.trained, self.folder) = (plan, trained, folder)
        imageCount = data.train.count
        source = try LoaderSource(
            data.train, trained.preprocessing, plan.options, strict: plan.strict,
            seesPlainImages: objective.seesPlainImages)
        validation = Loader(
            data.validation, transform: trained.preprocessing, batchSize: max(64, plan.options.batchSize),
            workers: plan.options.workers, unreadable: plan.strict ? .fail : .skip)
        trainer = Trainer(objective, source: source, options: plan.options)
        if let checkpoint {
            guard checkpoint.state.isPossible(epochs: trainer.epochs, stepsPerEpoch: trainer.stepsPerEpoch) else {
                throw FormatError(
                    file: folder.file("state.json"), subject: "state", found: "\(checkpoint.state)",
                    expected: "a place in \(trainer.epochs) epochs of \(trainer.stepsPerEpoch) steps")
            }
            try trainer.resume(checkpoint.state, optimizerState: Dictionary(uniqueKeysWithValues: checkpoint.optimizer))
        }
        metrics = try folder.metrics(columns: Self.columns)
        try metrics.truncate(after: trainer.state.update)
        events = try folder.events(resumingAfter: checkpoint == nil ? nil : trainer.state.update)
    }

    /// Trains to the end or until `shouldStop`, keeping the folder whole all the time.
    /// - Parameter limit: the epochs after which to pause: the run can be resumed as if it had been interrupted there
    /// - Returns: whether the end, or the limit, was reached
    public func run(
        upTo limit: Int = .max, shouldStop: () -> Bool = { false }, progress: (TrainingEvent) -> Void
    ) throws -> Bool {
        try trainer.run(
            upTo: limit, evaluate: { try validate(shouldStop) }, shouldStop: shouldStop,
            report: { event in
                switch event {
                case .epoch(let summary): try record(summary)
                case .checkpoint(let state): try checkpoint(state)
                case .step: break
                }
                progress(event)
            })
    }

    /// - Throws: ``InterruptedEvaluation`` when `shouldStop` says so after a batch.
    private func validate(_ shouldStop: () -> Bool) throws -> (loss: Double, accuracy: Double?) {
        if trainer.objective.classifies {
            let result = try evaluate(CompiledClassifier(trained.model), validation) { _, _ in
                if shouldStop() { throw InterruptedEvaluation() }
            }
            return (result.loss, result.top1)
        }
        var (loss, images) = (0.0, 0)
        let batches = validation.epoch(0)
        while let batch = try batches.nextBatch() {
            let ready = TrainingBatch(batch, classes: validation.dataset.classNames.count, smoothing: 0)
            loss += trainer.validationLoss(ready, step: batch.step) * Double(batch.count)
            images += batch.count
            if shouldStop() { throw InterruptedEvaluation() }
        }
        return (loss / Double(max(1, images)), nil)
    }

    private func record(_ summary: EpochSummary) throws {
        let step = trainer.state.update
        let numbers: [(tag: String, value: Double?)] = [
            ("loss/train", summary.trainLoss), ("accuracy/train", summary.trainAccuracy),
            ("loss/validation", summary.validationLoss), ("accuracy/validation", summary.validationAccuracy),
            ("learning_rate", summary.learningRate),
        ]
        try metrics.append(
            ["\(step)", "\(summary.epoch + 1)"] + numbers.map { $0.value.map { "\($0)" } ?? "" }
                + ["\(summary.seconds)"])
        try events.scalars(numbers.compactMap { tag, value in value.map { (tag, Float($0)) } }, step: step)
        guard summary.isBest else { return }
        var metadata = ["epoch": "\(summary.epoch + 1)"]
        metadata["loss"] = summary.validationLoss.map { "\($0)" }
        metadata["accuracy"] = summary.validationAccuracy.map { "\($0)" }
        try trainer.withBestWeights {
            try folder.saveBest(trained.model.stateDictionary.map { ($0.key, $0.tensor) }, metadata: metadata)
        }
    }

    private func checkpoint(_ state: TrainingState) throws {
        try folder.save(
            Checkpoint(
                step: state.update, model: trained.model.stateDictionary.map { ($0.key, $0.tensor) },
                optimizer: trainer.optimizerState.map { ($0.key, $0.tensor) }, state: state))
    }

    /// Images that could not be read so far, by name.
    public var unreadable: [String] {
        source.unreadable.map(\.reason) + validation.unreadableSamples.map(\.reason)
    }
}

extension TrainingRun.Plan {
    /// Gives a model the values with which training begins.
    fileprivate func start(_ model: any ImageClassifier) throws {
        model.initialize(seed: options.seed)
        if let weights { try model.start(from: weights) }
    }

    /// The method's objective for a model.
    /// - Parameter isNew: whether nothing but its initialisers has given the model values
    /// - Throws: ``UnknownMethodError``, ``MethodError``, and the errors of a teacher that cannot be read.
    fileprivate func objective(for trained: TrainedModel, isNew: Bool) throws -> any Objective {
        try MethodSetup(
            model: trained.model, isNew: isNew, preprocessing: trained.preprocessing, labels: trained.labels,
            options: options, teacher: teacher
        ).objective()
    }
}

/// Settings that cannot be, all of them at once.
public struct OptionsError: Error, CustomStringConvertible {
    public let problems: [String]
    public var description: String { problems.joined(separator: "; ") }
}

extension JSON {
    /// This value with what it lacks, at any depth of objects, from `defaults`.
    fileprivate func completed(by defaults: JSON) -> JSON {
        guard let members, let others = defaults.members else { return self }
        let missing = others.filter { self[$0.key] == nil }
        return .object(
            members.map { member in
                JSON.Member(member.key, defaults[member.key].map { member.value.completed(by: $0) } ?? member.value)
            } + missing)
    }

    /// The JSON form of a value that can always be encoded.
    init(encoding value: some Encodable) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        self = (try? JSON(parsing: encoder.encode(value))) ?? .null
    }
}

extension ImageClassifier {
    /// Takes over the weights of a run: for another image size position tables are resampled, for other classes, or if
    /// there was no head, the head stays new, and for grey images the first convolution takes the sum of its colours.
    func start(from path: String) throws {
        let file = try ModelFile.locate(path)
        let tensors = Dictionary(uniqueKeysWithValues: try Safetensors(file.weights).tensors())
        let headsDiffer = parameters.contains { key, parameter in
            headPrefixes.contains { key.hasPrefix($0) } && tensors[key]?.shape != parameter.exportedShape
        }
        let first = parameters.first { $0.parameter.shape.rank == 4 }
        func adapting(_ key: String, _ tensor: Tensor) -> Tensor? {
            if key == first?.key, tensor.rank == 4, first?.parameter.exportedShape == tensor.shape.replacing(1, with: 1)
            {
                return tensor.sum(axes: [1], keepingAxes: true)
            }
            return adapted(key, tensor)
        }
        do {
            try load(
                tensors, adapting: adapting,
                skipping: { key in headsDiffer && self.headPrefixes.contains { key.hasPrefix($0) } })
        } catch let error as StateDictionaryError { throw WeightsError(file: file.weights, error: error) }
    }
}
