import Tessera
import TesseraData

/// The training batches of a data set: augmented, mixed, with smoothed targets.
struct LoaderSource: BatchSource {
    private let mixing: Loader
    private let plain: Loader
    private let options: TrainingOptions

    /// - Parameter seesPlainImages: whether the batches carry the images before their colours were changed, too
    init(
        _ dataset: any Dataset, _ preprocessing: Preprocessing, _ options: TrainingOptions, strict: Bool,
        seesPlainImages: Bool
    ) throws {
        let transform = try TrainingTransform(
            preprocessing, options.augmentation, addsPlainView: seesPlainImages)
        let sampler: Sampler = options.augmentationRepeats > 1 ? .repeated(options.augmentationRepeats) : .shuffled
        imageShape = [1, preprocessing.height, preprocessing.width, preprocessing.channels]
        func loader(_ mixup: Mixup?) -> Loader {
            Loader(
                dataset, transform: transform, batchSize: options.batchSize, sampler: sampler, dropLast: true,
                workers: options.workers, seed: options.seed, mixup: mixup, unreadable: strict ? .fail : .replace)
        }
        plain = loader(nil)
        let mixes = options.mixup > 0 || options.cutmix > 0
        mixing = mixes ? loader(options.mixing) : plain
        self.options = options
    }

    let imageShape: Shape
    var batchesPerEpoch: Int { plain.stepsPerEpoch }

    /// Places and reasons of the images that could not be read so far.
    var unreadable: [(index: Int, reason: String)] { plain.unreadableSamples + mixing.unreadableSamples }

    func forEachBatch(epoch: Int, from start: Int, _ body: (TrainingBatch) throws -> Bool) throws {
        let loader = epoch >= options.mixupOffEpoch ?? .max ? plain : mixing
        let classes = loader.dataset.classNames.count
        let batches = loader.epoch(epoch, startingAt: start)
        while let batch = try batches.nextBatch() {
            guard try body(TrainingBatch(batch, classes: classes, smoothing: options.smoothing)) else { return }
        }
    }
}

extension TrainingBatch {
    /// A loaded batch, with targets from its labels where nothing was mixed.
    init(_ batch: Batch, classes: Int, smoothing: Double) {
        self.init(
            images: batch.tensor, plainImages: batch.views > 1 ? batch.tensor(view: 1) : nil, labels: batch.labels,
            targets: batch.targets.map { Tensor($0, [batch.count, classes]) }
                ?? smoothedTargets(batch.labels, classes: classes, smoothing: Float(smoothing)))
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
