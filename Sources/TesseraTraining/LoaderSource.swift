import Tessera
import TesseraData

/// The training batches of a data set: augmented, mixed, with smoothed targets.
struct LoaderSource: BatchSource {
    private let mixing: Loader
    private let plain: Loader
    private let options: TrainingOptions

    init(_ dataset: any Dataset, _ preprocessing: Preprocessing, _ options: TrainingOptions, strict: Bool) throws {
        let transform = try TrainingTransform(preprocessing, options.augmentation)
        func loader(_ mixup: Mixup?) -> Loader {
            Loader(
                dataset, transform: transform, batchSize: options.batchSize, sampler: .shuffled, dropLast: true,
                workers: options.workers, seed: options.seed, mixup: mixup, unreadable: strict ? .fail : .replace)
        }
        plain = loader(nil)
        let mixes = options.mixup > 0 || options.cutmix > 0
        mixing = mixes ? loader(options.mixing) : plain
        self.options = options
    }

    var batchesPerEpoch: Int { plain.stepsPerEpoch }

    /// Places and reasons of the images that could not be read so far.
    var unreadable: [(index: Int, reason: String)] { plain.unreadableSamples + mixing.unreadableSamples }

    func forEachBatch(epoch: Int, from start: Int, _ body: (TrainingBatch) throws -> Bool) throws {
        let loader = epoch >= options.mixupOffEpoch ?? .max ? plain : mixing
        let classes = loader.dataset.classNames.count
        let batches = loader.epoch(epoch, startingAt: start)
        while let batch = try batches.nextBatch() {
            let targets =
                batch.targets.map { Tensor($0, [batch.count, classes]) }
                ?? smoothedTargets(batch.labels, classes: classes, smoothing: Float(options.smoothing))
            let ready = TrainingBatch(images: batch.tensor, labels: batch.labels, targets: targets)
            guard try body(ready) else { return }
        }
    }
}

extension TrainingOptions {
    var augmentation: Augmentation {
        Augmentation(
            crop: cropPadding.map { $0 == 0 ? .none : .padded($0) }
                ?? .resized(scale: scale[0]...scale[1], ratio: ratio[0]...ratio[1]),
            flipProbability: horizontalFlip, policy: autoAugment,
            jitter: colorJitter > 0 ? [colorJitter, colorJitter, colorJitter, 0] : nil,
            erasing: eraseProbability > 0 ? RandomErasing(probability: eraseProbability) : nil)
    }

    fileprivate var mixing: Mixup {
        Mixup(
            mixupAlpha: mixup, cutmixAlpha: cutmix, probability: mixupProbability,
            switchProbability: mixupSwitchProbability, labelSmoothing: smoothing)
    }
}
