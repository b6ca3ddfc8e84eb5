import ArgumentParser
import Tessera
import TesseraTraining

/// The flags of one training method, which `tessera train` takes beside those of the recipe.
protocol MethodFlags: ParsableArguments {
    /// What the values are in a recipe file.
    static var kinds: [String: RecipeFile.Kind] { get }

    func apply(to options: inout TrainingOptions)
}

/// The flags of all training methods.
struct AllMethodFlags: ParsableArguments {
    @OptionGroup(title: "Methods deit and kd") var distillation: DistillationFlags
    @OptionGroup(title: "Method drloc") var drloc: RelativeLocalizationFlags
    @OptionGroup(title: "Method intermediate_supervision") var intermediate: IntermediateSupervisionFlags

    static let kinds: [String: RecipeFile.Kind] = [
        DistillationFlags.kinds, RelativeLocalizationFlags.kinds, IntermediateSupervisionFlags.kinds,
    ].reduce(into: [:]) { $0.merge($1) { first, _ in first } }

    func apply(to options: inout TrainingOptions) {
        let all: [any MethodFlags] = [distillation, drloc, intermediate]
        for flags in all { flags.apply(to: &options) }
    }
}

extension DistillationLoss: ExpressibleByArgument {}
extension RelativeLocalizationOptions.Mode: ExpressibleByArgument {}

struct DistillationFlags: MethodFlags {
    private static let standard = DistillationOptions()

    @Option(help: "hard, soft (as DeiT divides it), kl (Hinton's) or labels (soft labels alone).")
    var distillationType = standard.loss
    @Option(help: "The teacher's part of the loss.") var distillationAlpha = standard.alpha
    @Option(help: "Temperature of the softmax.") var distillationTau = standard.temperature

    static let kinds: [String: RecipeFile.Kind] = [
        "distillation-type": .text, "distillation-alpha": .number, "distillation-tau": .number,
    ]

    func apply(to options: inout TrainingOptions) {
        options.distillation.loss = distillationType
        (options.distillation.alpha, options.distillation.temperature) = (distillationAlpha, distillationTau)
    }
}

struct RelativeLocalizationFlags: MethodFlags {
    private static let standard = RelativeLocalizationOptions()

    @Option(help: "l1 (two numbers), ce (a class for each offset) or cbr (the mean of such a distribution).")
    var drlocMode = standard.mode
    @Option(help: "Weight of the loss after its warm-up.") var drlocLambda = standard.lambda
    @Option(help: "Pairs of tokens from each image.") var drlocM = standard.pairs
    @Option(help: "Epochs in which the weight grows; it falls to 0 afterwards.") var drlocWarmupEpochs = standard
        .warmupEpochs
    @Option(help: "Width of the hidden layers.") var drlocWidth = standard.width
    @Flag(help: "Offsets with their sign.") var drlocSigned = false
    @Flag(help: "Offsets as parts of the largest one (l1 only).") var drlocNormalize = false
    @Flag(help: "Halve the token grid first (CvT and T2T-ViT do).") var drlocPool = false
    @Flag(help: "One loss after each stage of a pyramid.") var drlocMultiscale = false

    static let kinds: [String: RecipeFile.Kind] = [
        "drloc-mode": .text, "drloc-lambda": .number, "drloc-m": .whole, "drloc-warmup-epochs": .number,
        "drloc-width": .whole, "drloc-signed": .flag, "drloc-normalize": .flag, "drloc-pool": .flag,
        "drloc-multiscale": .flag,
    ]

    func apply(to options: inout TrainingOptions) {
        (options.drloc.mode, options.drloc.lambda, options.drloc.pairs) = (drlocMode, drlocLambda, drlocM)
        (options.drloc.warmupEpochs, options.drloc.width) = (drlocWarmupEpochs, drlocWidth)
        (options.drloc.isSigned, options.drloc.normalizes) = (drlocSigned, drlocNormalize)
        (options.drloc.pools, options.drloc.usesAllStages) = (drlocPool, drlocMultiscale)
    }
}

struct IntermediateSupervisionFlags: MethodFlags {
    private static let standard = IntermediateSupervisionOptions()

    @Option(help: "Weight of drawing the image, falling towards the last column.")
    var intermediateImage = standard.imageWeight
    @Option(help: "Weight of the heads between, growing towards the last column.")
    var intermediateClass = standard.classWeight

    static let kinds: [String: RecipeFile.Kind] = ["intermediate-image": .number, "intermediate-class": .number]

    func apply(to options: inout TrainingOptions) {
        (options.intermediate.imageWeight, options.intermediate.classWeight) = (intermediateImage, intermediateClass)
    }
}
