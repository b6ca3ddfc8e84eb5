import Foundation
import Tessera
import TesseraModels
import TesseraNN
import TesseraTraining

extension BenchCommand {
    /// Prints what a training step keeps for its backward pass. Only forward passes are needed to know it.
    func tellMemory(of model: any ImageClassifier, _ images: Tensor) {
        let kept = [false, true].map { keptBytes(model, images, checkpointing: $0) }
        let parameters = model.parameters.filter(\.parameter.isTrainable).reduce(0) { $0 + $1.parameter.shape.count }
        let size = "\(images.shape[1])×\(images.shape[2])"
        if json {
            return printJSON(
                JSON([
                    "model": .string(self.model), "batch": JSON(batch), "input": .string(size),
                    "parameters": JSON(parameters), "activation_bytes": JSON(kept[0]),
                    "checkpointed_activation_bytes": JSON(kept[1]),
                ]))
        }
        print(
            String(
                format: "%@  batch %d  %@: a training step keeps %.1f MB of activations, %.1f MB with checkpointing; "
                    + "weights, gradients and AdamW take %.1f MB",
                self.model, batch, size, Double(kept[0]) / 1e6, Double(kept[1]) / 1e6, Double(16 * parameters) / 1e6))
    }

    private func keptBytes(_ model: any ImageClassifier, _ images: Tensor, checkpointing: Bool) -> Int {
        let (tape, step) = (Tape(), TrainingStep(model, images))
        // Without leaving samples out of branches that stochastic depth drops: the most that a step keeps.
        _ = step.loss(on: tape, RandomGenerator(seed: 2), checkpointing: checkpointing, skipsSamples: false)
        return tape.savedBytes(besides: [images, step.targets] + model.parameters.map(\.parameter.value))
    }
}

/// A step of plain supervised training on labels that follow each other.
struct TrainingStep {
    let images: Tensor
    let targets: Tensor
    private let labels: [Int32]
    private let objective: Supervised

    init(_ model: any ImageClassifier, _ images: Tensor) {
        self.images = images
        // Of a model without a head, its features.
        let classes = model(Tensor(abstract: images.shape)).shape[-1]
        labels = (0..<images.shape[0]).map { Int32($0 % classes) }
        targets = smoothedTargets(labels, classes: classes, smoothing: 0.1)
        objective = Supervised(model)
    }

    func loss(
        on tape: Tape, _ generator: RandomGenerator, checkpointing: Bool, skipsSamples: Bool = true
    ) -> Tensor {
        let pass = TrainingPass(generator, checkpointsActivations: checkpointing, skipsSamples: skipsSamples)
        let batch = TrainingBatch(images: images, labels: labels, targets: targets)
        let moment = TrainingMoment(epoch: 0, epochs: 1, update: 0, updates: 1, random: generator)
        return tape.record { pass.run { objective(batch, at: moment).loss } }
    }
}
