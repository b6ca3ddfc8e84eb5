import ArgumentParser
import Tessera
import TesseraModels
import TesseraTraining

/// The flags of one training method, which `tessera train` takes beside those of the recipe.
protocol MethodFlags: ParsableArguments {
    func apply(to options: inout TrainingOptions)
}

/// The flags of all training methods.
struct AllMethodFlags: ParsableArguments {
    @OptionGroup(title: "Methods deit and kd") var distillation: DistillationFlags
    @OptionGroup(title: "Method drloc") var drloc: RelativeLocalizationFlags
    @OptionGroup(title: "Method locality_guidance") var guidance: LocalityGuidanceFlags
    @OptionGroup(title: "Method bootstrapping") var bootstrapping: BootstrappingFlags
    @OptionGroup(title: "Method intermediate_supervision") var intermediate: IntermediateSupervisionFlags
    @OptionGroup(title: "Method mae") var mae: MaskedAutoencoderFlags
    @OptionGroup(title: "Method tinymim") var tinymim: TokenRelationFlags

    static let types: [any MethodFlags.Type] = [
        DistillationFlags.self, RelativeLocalizationFlags.self, LocalityGuidanceFlags.self, BootstrappingFlags.self,
        IntermediateSupervisionFlags.self, MaskedAutoencoderFlags.self, TokenRelationFlags.self,
    ]

    func apply(to options: inout TrainingOptions) {
        let all: [any MethodFlags] = [distillation, drloc, guidance, bootstrapping, intermediate, mae, tinymim]
        for flags in all { flags.apply(to: &options) }
    }
}

extension DistillationLoss: ExpressibleByArgument {}
extension RelativeLocalizationOptions.Mode: ExpressibleByArgument {}
extension TokenRelationOptions.Target: ExpressibleByArgument {}

struct DistillationFlags: MethodFlags {
    private static let standard = DistillationOptions()

    @Option(help: "hard, soft (as DeiT divides it), kl (Hinton's) or labels (soft labels alone).")
    var distillationType = standard.loss
    @Option(help: "The teacher's part of the loss.") var distillationAlpha = standard.alpha
    @Option(help: "Temperature of the softmax.") var distillationTau = standard.temperature

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

    func apply(to options: inout TrainingOptions) {
        (options.drloc.mode, options.drloc.lambda, options.drloc.pairs) = (drlocMode, drlocLambda, drlocM)
        (options.drloc.warmupEpochs, options.drloc.width) = (drlocWarmupEpochs, drlocWidth)
        (options.drloc.isSigned, options.drloc.normalizes) = (drlocSigned, drlocNormalize)
        (options.drloc.pools, options.drloc.usesAllStages) = (drlocPool, drlocMultiscale)
    }
}

extension LocalityGuidanceOptions.Comparison: ExpressibleByArgument {}
extension BootstrappingOptions.Form: ExpressibleByArgument {}
extension AgentNetwork.Configuration.Stem: ExpressibleByArgument {}
extension AgentNetwork.Configuration.Convolution: ExpressibleByArgument {}

struct LocalityGuidanceFlags: MethodFlags {
    private static let standard = LocalityGuidanceOptions()

    @Option(
        help: "linear (the student's maps, projected), attention (where they are strong) or similarity (of images).")
    var guidanceTransform = standard.comparison
    @Option(help: "Weight of the sum over guided blocks.") var guidanceWeight = standard.weight
    @Option(
        parsing: .upToNextOption,
        help: "The guided blocks, counted from 0 over all stages (default: the first, the middle and the last).")
    var guidanceBlocks: [Int] = []
    @Option(parsing: .upToNextOption, help: "The teacher's stage for each, counted from 0.")
    var guidanceStages = standard.stages
    @Flag(help: "The teacher's norms use each batch's statistics, as the authors trained.")
    var guidanceBatchStatistics = false

    func apply(to options: inout TrainingOptions) {
        (options.guidance.comparison, options.guidance.weight) = (guidanceTransform, guidanceWeight)
        (options.guidance.blocks, options.guidance.stages) = (guidanceBlocks, guidanceStages)
        options.guidance.usesBatchStatistics = guidanceBatchStatistics
    }
}

struct BootstrappingFlags: MethodFlags {
    private static let standard = BootstrappingOptions()

    @Option(help: "joint (the agent has weights of its own) or shared (the model's).")
    var bootstrappingForm = standard.form
    @Option(help: "How the agent begins: vit_like (the model's patches) or resnet_like (convolutions, stride 8).")
    var bootstrappingStem = standard.stem
    @Option(help: "In place of attention: conv_sl (3×3) or conv_manyhead (one place for each head; shared always).")
    var bootstrappingConvolution = standard.convolution
    @Option(parsing: .upToNextOption, help: "The agent's blocks after which its map is halved, counted from 0.")
    var bootstrappingPool: [Int] = []
    @Flag(help: "The agent normalises what its branches give.") var bootstrappingPostNorm = false
    @Option(help: "Temperature at which the two networks learn each other's answers.")
    var bootstrappingTau = standard.temperature
    @Option(help: "Weight of each other's answers.") var bootstrappingKd = standard.distillation
    @Option(help: "Weight of the agent's features for the model; falls to 0.") var bootstrappingHint = standard.hint
    @Option(help: "Weight of the model's features for the agent.") var bootstrappingAgentHint = standard.agentHint

    func apply(to options: inout TrainingOptions) {
        (options.bootstrapping.form, options.bootstrapping.stem) = (bootstrappingForm, bootstrappingStem)
        options.bootstrapping.convolution = bootstrappingConvolution
        options.bootstrapping.pooledBlocks = bootstrappingPool
        options.bootstrapping.normalizesResults = bootstrappingPostNorm
        (options.bootstrapping.temperature, options.bootstrapping.distillation) = (bootstrappingTau, bootstrappingKd)
        (options.bootstrapping.hint, options.bootstrapping.agentHint) = (bootstrappingHint, bootstrappingAgentHint)
    }
}

struct IntermediateSupervisionFlags: MethodFlags {
    private static let standard = IntermediateSupervisionOptions()

    @Option(help: "Weight of drawing the image, falling towards the last column.")
    var intermediateImage = standard.imageWeight
    @Option(help: "Weight of the heads between, growing towards the last column.")
    var intermediateClass = standard.classWeight

    func apply(to options: inout TrainingOptions) {
        (options.intermediate.imageWeight, options.intermediate.classWeight) = (intermediateImage, intermediateClass)
    }
}

struct MaskedAutoencoderFlags: MethodFlags {
    private static let standard = MaskedAutoencoderOptions()

    @Option(help: "The part of the patches that is hidden.") var maeRatio = standard.ratio
    @Flag(help: "Rebuild each patch with its mean and deviation taken out.") var maeNormPix = false
    @Option(help: "Width of the decoder.") var maeDecoderWidth = standard.decoderWidth
    @Option(help: "Blocks of the decoder.") var maeDecoderDepth = standard.decoderDepth
    @Option(help: "Heads of the decoder.") var maeDecoderHeads = standard.decoderHeads

    func apply(to options: inout TrainingOptions) {
        (options.mae.ratio, options.mae.normalizesPixels) = (maeRatio, maeNormPix)
        (options.mae.decoderWidth, options.mae.decoderDepth) = (maeDecoderWidth, maeDecoderDepth)
        options.mae.decoderHeads = maeDecoderHeads
    }
}

struct TokenRelationFlags: MethodFlags {
    @Option(help: "relations, or one of the paper's ablations: features or class-token.")
    var tinymimTarget = TokenRelationOptions().target
    @Option(
        help: ArgumentHelp(
            "The teacher's block, from 1 (default: the last; of 24 or more that at three quarters).", valueName: "n"))
    var tinymimBlock: Int?
    @Option(help: ArgumentHelp("Heads of the relations (default: the teacher's).", valueName: "n"))
    var tinymimHeads: Int?

    func apply(to options: inout TrainingOptions) {
        (options.tinymim.target, options.tinymim.block) = (tinymimTarget, tinymimBlock)
        options.tinymim.heads = tinymimHeads
    }
}
