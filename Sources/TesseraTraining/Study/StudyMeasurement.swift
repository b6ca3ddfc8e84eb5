import Foundation
import Tessera
import TesseraData
import TesseraModels
import TesseraNN

/// What a candidate costs, found out before it is trained.
struct StudyMeasurement {
    var parameters: Int
    /// Median milliseconds; nil beyond the limit of parameters.
    var latency: Double?
    /// Seconds of a training step and of an epoch's validation, estimated; nil beyond a limit.
    var epochSeconds: Double?
    /// Which limit the candidate is beyond.
    var excess: String?

    /// - Throws: what refuses the model or the method: `ArgumentError`, ``MethodError``
    init(_ plan: TrainingRun.Plan, _ data: TrainingData, limits: StudyPlan, shouldStop: () -> Bool) throws {
        let configuration = try data.configuration(plan.model, imageSize: limits.imageSize, arguments: nil)
        // Its parameters have shapes, but no memory yet: a model that is far too large costs nothing.
        let model = configuration.makeModel()
        parameters = model.parameterCount
        if let limit = limits.parameters, parameters > limit {
            excess = "\(parameters) parameters, more than \(limit)"
            return
        }
        let preprocessing = data.preprocessing(for: configuration)
        model.initialize(seed: plan.options.seed)
        let objective = try MethodSetup(
            model: model, preprocessing: preprocessing, labels: data.train.classNames, options: plan.options,
            teacher: plan.teacher
        ).objective()
        guard objective.classifies else {
            throw MethodError(plan.options.method, "trains no classifier: there is no accuracy to compare")
        }
        let random = RandomImages(
            shape: [1, preprocessing.height, preprocessing.width, preprocessing.channels],
            classes: data.train.classNames.count, batchSize: plan.options.batchSize)
        let latency = Self.latency(of: CompiledClassifier(model), random.images(1))
        self.latency = latency
        if let limit = limits.latency, latency > limit {
            excess = String(format: "%.2f ms an image, more than %.2f ms", latency, limit)
            return
        }
        guard limits.epochs == nil else { return }
        var options = plan.options
        options.epochs = 1
        options.checkpointSeconds = .infinity
        let trainer = Trainer(objective, source: random, options: options)
        var times = [0.0]
        _ = try trainer.run(evaluate: { (0, 0) }, shouldStop: shouldStop) { event in
            if case .step(let state, _, _, _) = event { times.append(state.seconds - times.reduce(0, +)) }
        }
        // The first step also allocates. A forward pass is about a third of a step.
        let step = times[times.count - 1]
        let steps = Double(data.train.count / plan.options.batchSize)
        epochSeconds = step * (steps + Double(data.validation.count) / Double(3 * plan.options.batchSize))
    }

    /// The median of at least 5 passes, and of as many more as half a second allows.
    private static func latency(of model: CompiledClassifier, _ image: Tensor) -> Double {
        Precision.float32.use {
            for _ in 0..<2 { _ = model(image) }
            var times: [Double] = []
            let begin = Date()
            while times.count < 5 || (times.count < 50 && Date().timeIntervalSince(begin) < 0.5) {
                let start = Date()
                _ = model(image)
                times.append(1000 * Date().timeIntervalSince(start))
            }
            times.sort()
            return times[times.count / 2]
        }
    }
}

/// Three batches of noise: enough to time steps without waiting for a disk.
private struct RandomImages: BatchSource {
    let imageShape: Shape
    let classes: Int
    let batchSize: Int
    let batchesPerEpoch = 3

    init(shape: Shape, classes: Int, batchSize: Int) {
        (imageShape, self.classes, self.batchSize) = (shape, classes, batchSize)
    }

    func images(_ count: Int) -> Tensor {
        var generator = RandomGenerator(seed: 1)
        return Tensor(imageShape.replacing(0, with: count)) {
            for i in $0.indices { $0[i] = generator.normal() }
        }
    }

    func forEachBatch(epoch: Int, from start: Int, _ body: (TrainingBatch) throws -> Bool) throws {
        let labels = (0..<batchSize).map { Int32($0 % classes) }
        let images = images(batchSize)
        let batch = TrainingBatch(
            images: images, plainImages: images, labels: labels,
            targets: smoothedTargets(labels, classes: classes, smoothing: 0.1))
        for _ in start..<batchesPerEpoch { guard try body(batch) else { return } }
    }
}
