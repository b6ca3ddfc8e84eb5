import Foundation
import Tessera
import TesseraData

/// Everything that a training run is told, under timm's names. Two runs with equal options, data and seed end in equal
/// weights, bit for bit.
///
/// What a run of an older version does not say has the default, so an optional setting must have the default nil.
public struct TrainingOptions: Codable, Sendable, Equatable {
    public enum OptimizerName: String, Codable, Sendable, CaseIterable { case adamw, adam, lamb, sgd }
    public enum ScheduleName: String, Codable, Sendable, CaseIterable { case cosine, mae }
    public enum ClipMode: String, Codable, Sendable, CaseIterable { case norm, agc }

    public var method = TrainingMethod.supervised.name
    public var epochs = 10
    public var batchSize = 128
    public var seed: UInt64 = 42
    public var precision: Precision?

    public var optimizer = OptimizerName.adamw
    public var schedule = ScheduleName.cosine
    public var learningRate = 5e-4
    public var minimumRate = 1e-5
    public var warmupRate = 1e-6
    public var warmupEpochs = 5.0
    public var cooldownEpochs = 0
    public var weightDecay = 0.05
    public var momentum = 0.9
    public var betas = [0.9, 0.999]
    /// Nil: the optimizer's own.
    public var epsilon: Double?
    public var clipGradient: Double?
    /// What `clipGradient` limits: the norm of all gradients, or each unit's against its weights.
    public var clipMode = ClipMode.norm
    /// What the learning rate of each layer is multiplied by towards the input; nil: one rate for all.
    public var layerDecay: Double?
    /// How far sharpness-aware minimisation climbs before each step; nil: plain steps.
    public var sharpnessRadius: Double?

    public var criterion = Criterion()
    public var smoothing = 0.1
    public var mixup = 0.0
    public var cutmix = 0.0
    public var mixupProbability = 1.0
    public var mixupSwitchProbability = 0.5
    /// The epoch from which on images are no longer mixed.
    public var mixupOffEpoch: Int?
    public var horizontalFlip = 0.5
    /// Zeros around the image before a random crop of its own size; nil: a random resized crop.
    public var cropPadding: Int?
    public var scale = [0.08, 1.0]
    public var ratio = [3.0 / 4, 4.0 / 3]
    /// A timm policy string such as `rand-m9-mstd0.5-inc1`, or nil.
    public var autoAugment: String?
    public var eraseProbability = 0.0
    public var colorJitter = 0.0
    /// How often an image is in an epoch, which sees the fewer images.
    public var augmentationRepeats = 1

    public var emaDecay: Double?
    /// Start with a small decay, which grows to `emaDecay`.
    public var emaWarmup = true
    public var validationFraction = 0.1
    /// Epochs from one validation to the next; there is one after the last epoch always.
    public var validationInterval = 1
    /// The most validation images, evenly of all classes; nil: all of them.
    public var validationImages: Int?
    /// The part of each class's training images to use.
    public var trainingFraction = 1.0
    public var workers = 2
    /// Compute the activations of blocks again in the backward pass instead of keeping them.
    public var checkpointsActivations = false
    /// The most seconds of work that a kill can lose.
    public var checkpointSeconds = 60.0

    public var distillation = DistillationOptions()
    public var drloc = RelativeLocalizationOptions()
    public var guidance = LocalityGuidanceOptions()
    public var bootstrapping = BootstrappingOptions()
    public var intermediate = IntermediateSupervisionOptions()
    public var mae = MaskedAutoencoderOptions()
    public var tinymim = TokenRelationOptions()

    public init() {}

    /// Every impossible setting, one line each.
    public func problems(images: Int, classes: Int) -> [String] {
        var problems = OptionProblems()
        func require(_ condition: Bool, _ flag: String, _ found: Any, _ expected: String) {
            problems.require(condition, flag, found, expected)
        }
        require((1...1_000_000).contains(epochs), "epochs", epochs, "1 to 1000000")
        require((1...65536).contains(batchSize), "batch", batchSize, "1 to 65536")
        require(batchSize <= images, "batch", batchSize, "at most the \(images) training images")
        require(learningRate > 0 && learningRate < 100, "lr", learningRate, "above 0, below 100")
        require(minimumRate >= 0 && minimumRate <= learningRate, "min-lr", minimumRate, "0 to --lr (\(learningRate))")
        require(warmupRate >= 0, "warmup-lr", warmupRate, "0 or more")
        require(
            warmupEpochs >= 0 && warmupEpochs < Double(epochs + 1), "warmup-epochs", warmupEpochs,
            "0 to --epochs (\(epochs))")
        require((0...1_000_000).contains(cooldownEpochs), "cooldown-epochs", cooldownEpochs, "0 to 1000000")
        require(weightDecay >= 0 && weightDecay < 1, "weight-decay", weightDecay, "0 to below 1")
        require(momentum >= 0 && momentum < 1, "momentum", momentum, "0 to below 1")
        require(
            betas.count == 2 && betas.allSatisfy { $0 >= 0 && $0 < 1 }, "opt-betas", betas, "two numbers, 0 to below 1")
        require(epsilon ?? 1 > 0, "opt-eps", epsilon ?? 0, "above 0")
        require(clipGradient ?? 1 > 0, "clip-grad", clipGradient ?? 0, "above 0")
        require(
            layerDecay.map { $0 > 0 && $0 <= 1 } ?? true, "layer-decay", layerDecay ?? 0, "above 0, at most 1")
        require(sharpnessRadius ?? 1 > 0, "sam-rho", sharpnessRadius ?? 0, "above 0")
        criterion.check(&problems, smoothing: smoothing, classes: classes)
        require(smoothing >= 0 && smoothing < 1, "smoothing", smoothing, "0 to below 1")
        require((0...1000).contains(mixup), "mixup", mixup, "0 to 1000")
        require((0...1000).contains(cutmix), "cutmix", cutmix, "0 to 1000")
        require(
            mixup + cutmix == 0 || classes > 1, "mixup", mixup + cutmix, "0, as there is a single class")
        require(
            mixup + cutmix == 0 || batchSize % 2 == 0, "batch", batchSize,
            "an even number, as --mixup and --cutmix pair images")
        for (flag, value) in [
            ("mixup-prob", mixupProbability), ("mixup-switch-prob", mixupSwitchProbability), ("hflip", horizontalFlip),
            ("reprob", eraseProbability),
        ] {
            require((0...1).contains(value), flag, value, "0 to 1")
        }
        require(
            scale.count == 2 && scale[0] > 0 && scale[0] <= scale[1] && scale[1] <= 1, "scale", scale,
            "two numbers, 0 < first ≤ second ≤ 1")
        require(
            ratio.count == 2 && ratio[0] > 0 && ratio[0] <= ratio[1], "ratio", ratio, "two numbers, 0 < first ≤ second")
        require((0...1024).contains(cropPadding ?? 0), "crop-padding", cropPadding ?? 0, "0 to 1024")
        require((1...64).contains(augmentationRepeats), "aug-repeats", augmentationRepeats, "1 to 64")
        require(emaDecay.map { $0 > 0 && $0 < 1 } ?? true, "model-ema-decay", emaDecay ?? 0, "above 0, below 1")
        require(validationFraction > 0 && validationFraction < 1, "val-split", validationFraction, "above 0, below 1")
        require(validationImages ?? 1 > 0, "val-images", validationImages ?? 0, "1 or more")
        require(
            (1...1_000_000).contains(validationInterval), "val-interval", validationInterval, "1 to 1000000")
        require(trainingFraction > 0 && trainingFraction <= 1, "fraction", trainingFraction, "above 0, at most 1")
        require((0...64).contains(workers), "workers", workers, "0 to 64")
        distillation.check(&problems, method: method)
        drloc.check(&problems, method: method)
        guidance.check(&problems, method: method)
        bootstrapping.check(&problems, method: method)
        intermediate.check(&problems, method: method)
        mae.check(&problems, method: method)
        tinymim.check(&problems, method: method)
        return problems.lines
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

    /// Whether images are shown as they are, or mirrored, and in no other way: then an image comes again and again.
    /// - Parameter seesPlainImages: whether what is asked about is the images before their colours were changed
    func showsImagesAgain(seesPlainImages: Bool) -> Bool {
        let changesColors = autoAugment != nil || colorJitter > 0 || eraseProbability > 0 || mixup > 0 || cutmix > 0
        return cropPadding == 0 && (seesPlainImages || !changesColors)
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

/// The settings of one method: published defaults, under flags that begin with the method's name.
protocol MethodOptions: Codable, Sendable, Equatable {
    /// The methods that read them.
    static var methods: [String] { get }
    /// How their flags begin.
    static var prefix: String { get }

    init()

    func checkValues(_ problems: inout OptionProblems)
}

extension MethodOptions {
    /// Refuses impossible values, and values for a method that does not read them.
    func check(_ problems: inout OptionProblems, method: String) {
        problems.require(
            self == Self() || Self.methods.contains(method), "\(Self.prefix)-…", "with --method \(method)",
            "--method \(Self.methods.joined(separator: " or "))")
        checkValues(&problems)
    }
}

/// Impossible settings, one line each.
struct OptionProblems {
    private(set) var lines: [String] = []

    mutating func require(_ condition: Bool, _ flag: String, _ found: Any, _ expected: String) {
        if !condition { lines.append("--\(flag): found \(found), expected \(expected)") }
    }
}
