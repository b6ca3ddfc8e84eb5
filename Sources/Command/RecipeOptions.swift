import ArgumentParser
import Tessera
import TesseraTraining

extension TrainingOptions.OptimizerName: ExpressibleByArgument {}
extension TrainingOptions.ScheduleName: ExpressibleByArgument {}
extension TrainingOptions.ClipMode: ExpressibleByArgument {}

/// The training recipe, under timm's flag names.
struct RecipeOptions: ParsableArguments {
    private static let standard = TrainingOptions()

    @Option(help: "Passes over the training images.") var epochs = standard.epochs
    @Option(help: "Images a step.") var batch = standard.batchSize
    @Option(help: "Names all random numbers of the run.") var seed = standard.seed
    @Option(help: "adamw, adam, lamb or sgd (Nesterov).") var opt = standard.optimizer
    @Option(help: "The optimizer's epsilon (default: 1e-8, lamb 1e-6).") var optEps: Double?
    @Option(help: "cosine (timm's) or mae (which counts from the end of the warm-up).") var sched = standard.schedule
    @Option(help: "Learning rate after the warm-up.") var lr = standard.learningRate
    @Option(help: "Learning rate at the end of the cosine.") var minLr = standard.minimumRate
    @Option(help: "Learning rate at the start of the warm-up.") var warmupLr = standard.warmupRate
    @Option(help: "Epochs of linear warm-up.") var warmupEpochs = standard.warmupEpochs
    @Option(help: "Epochs at --min-lr after the cosine.") var cooldownEpochs = standard.cooldownEpochs
    @Option(help: "Decay of matrices (not of biases, norms and position tables).") var weightDecay = standard
        .weightDecay
    @Option(parsing: .upToNextOption, help: "Decays of Adam's two moments: two numbers.") var optBetas = standard.betas
    @Option(help: "Momentum of SGD.") var momentum = standard.momentum
    @Option(help: "Clip the gradient to this norm, or each unit's to this part of its weights.") var clipGrad: Double?
    @Option(help: "norm or agc (adaptive, by unit).") var clipMode = standard.clipMode
    @Option(help: "Multiply the learning rate by this from each layer to the one before it.") var layerDecay: Double?
    @Option(help: "Take the gradient where the loss is greatest within this distance (SAM): twice the time.")
    var samRho: Double?
    @Option(help: "Label smoothing.") var smoothing = standard.smoothing
    @Flag(help: "Binary cross-entropy for each class instead of cross-entropy.") var bceLoss = false
    @Option(help: "With --bce-loss: targets above this become 1, the others 0.") var bceTargetThresh: Double?
    @Flag(help: "With --bce-loss: the sum over classes instead of their mean.") var bceSum = false
    @Option(help: "Alpha of mixup; 0 is off.") var mixup = standard.mixup
    @Option(help: "Alpha of CutMix; 0 is off.") var cutmix = standard.cutmix
    @Option(help: "How often a batch is mixed.") var mixupProb = standard.mixupProbability
    @Option(help: "How often CutMix is taken when both are on.") var mixupSwitchProb = standard.mixupSwitchProbability
    @Option(help: "Stop mixing from this epoch on.") var mixupOffEpoch: Int?
    @Option(help: "How often an image is mirrored.") var hflip = standard.horizontalFlip
    @Option(help: "Random crops after padding with so many zeros, instead of random resized crops.") var cropPadding:
        Int?
    @Option(parsing: .upToNextOption, help: "Area of random resized crops: two numbers.") var scale = standard.scale
    @Option(parsing: .upToNextOption, help: "Aspect of random resized crops: two numbers.") var ratio = standard.ratio
    @Option(help: "Augmentation policy, such as rand-m9-mstd0.5-inc1.") var aa: String?
    @Option(help: "How often a box is erased.") var reprob = standard.eraseProbability
    @Option(help: "Strength of colour jitter; 0 is off.") var colorJitter = standard.colorJitter
    @Option(help: "How often an image is in an epoch, which sees the fewer images.") var augRepeats = standard
        .augmentationRepeats
    @Option(help: "Average the weights with this decay, and keep the average.") var modelEmaDecay: Double?
    @Flag(help: "Average with the whole decay from the first step on.") var modelEmaNoWarmup = false
    @Option(help: "Part of the images to hold out where the data holds out none.") var valSplit = standard
        .validationFraction
    @Option(help: "Epochs from one validation to the next.") var valInterval = standard.validationInterval
    @Option(help: "Validate on so many images at most (default: all).") var valImages: Int?
    @Option(help: "Train on this part of each class's images only, which --seed picks.") var fraction = standard
        .trainingFraction
    @Flag(help: "Compute activations of blocks twice instead of keeping them: less memory, a third more time.")
    var gradCheckpointing = false
    @Option(help: "Threads that read and augment images.") var workers = standard.workers
    @Option(help: "Seconds between checkpoints inside an epoch.") var checkpointSeconds = standard.checkpointSeconds

    func options(precision: Precision?) -> TrainingOptions {
        var options = TrainingOptions()
        options.precision = precision
        (options.epochs, options.batchSize, options.seed, options.optimizer) = (epochs, batch, seed, opt)
        (options.learningRate, options.minimumRate, options.warmupRate) = (lr, minLr, warmupLr)
        (options.warmupEpochs, options.cooldownEpochs) = (warmupEpochs, cooldownEpochs)
        (options.weightDecay, options.momentum, options.epsilon) = (weightDecay, momentum, optEps)
        options.betas = optBetas
        (options.schedule, options.layerDecay) = (sched, layerDecay)
        options.sharpnessRadius = samRho
        (options.clipGradient, options.clipMode) = (clipGrad, clipMode)
        (options.criterion.isBinary, options.criterion.threshold) = (bceLoss, bceTargetThresh)
        options.criterion.sumsClasses = bceSum
        (options.augmentationRepeats, options.emaWarmup) = (augRepeats, !modelEmaNoWarmup)
        (options.smoothing, options.mixup, options.cutmix) = (smoothing, mixup, cutmix)
        (options.mixupProbability, options.mixupSwitchProbability) = (mixupProb, mixupSwitchProb)
        (options.mixupOffEpoch, options.horizontalFlip, options.cropPadding) = (mixupOffEpoch, hflip, cropPadding)
        (options.scale, options.ratio, options.autoAugment) = (scale, ratio, aa)
        (options.eraseProbability, options.colorJitter, options.emaDecay) = (reprob, colorJitter, modelEmaDecay)
        (options.validationFraction, options.validationInterval) = (valSplit, valInterval)
        options.validationImages = valImages
        (options.trainingFraction, options.workers) = (fraction, workers)
        (options.checkpointSeconds, options.checkpointsActivations) = (checkpointSeconds, gradCheckpointing)
        return options
    }
}
