import Tessera
import TesseraModels
import TesseraNN

/// The settings of masked autoencoders, with the published decoder.
public struct MaskedAutoencoderOptions: MethodOptions {
    static let methods = ["mae"]
    static let prefix = "mae"

    /// The part of the patches that is hidden.
    public var ratio = 0.75
    /// Each hidden patch is rebuilt with its own mean and deviation taken out, as the published runs have it.
    public var normalizesPixels = false
    public var decoderWidth = 512
    public var decoderDepth = 8
    public var decoderHeads = 16

    public init() {}

    func checkValues(_ problems: inout OptionProblems) {
        problems.require(ratio > 0 && ratio < 1, "mae-ratio", ratio, "above 0, below 1")
        problems.require((1...8192).contains(decoderWidth), "mae-decoder-width", decoderWidth, "1 to 8192")
        problems.require((1...256).contains(decoderDepth), "mae-decoder-depth", decoderDepth, "1 to 256")
        problems.require((1...256).contains(decoderHeads), "mae-decoder-heads", decoderHeads, "1 to 256")
        problems.require(
            decoderWidth % 4 == 0 && decoderHeads > 0 && decoderWidth % decoderHeads == 0, "mae-decoder-width",
            decoderWidth, "a multiple of 4 and of --mae-decoder-heads (\(decoderHeads))")
    }

    /// How many of an image's patches are seen; the product is cut off, not rounded.
    func kept(of patches: Int) -> Int { Int(Double(patches) * (1 - ratio)) }
}

/// Masked autoencoders: "Masked Autoencoders Are Scalable Vision Learners" (2021), arXiv 2111.06377.
///
/// Most patches are hidden; the model encodes the others and a small decoder, which is left behind, draws the hidden ones:
/// loss = mean over all pixels of hidden patches of (drawn − pixel)². No labels are read. Encoder and decoder know places
/// by fixed sines.
public final class MaskedAutoencoder: Objective {
    public var model: any ImageClassifier { encoder }
    public var companion: Module? { decoder }
    public let classifies = false
    private let encoder: VisionTransformer
    private let decoder: MaskedDecoder
    private let options: MaskedAutoencoderOptions

    /// - Precondition: some patches of the encoder's grid are seen, and some hidden.
    public init(_ encoder: VisionTransformer, options: MaskedAutoencoderOptions = MaskedAutoencoderOptions()) {
        (self.encoder, self.options) = (encoder, options)
        decoder = MaskedDecoder(for: encoder, options)
    }

    public func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
        var random = moment.random
        let grid = encoder.configuration.grid
        let noise = batch.labels.map { _ in (0..<grid.height * grid.width).map { _ in random.uniform() } }
        let mask = PatchMask(noise: noise, kept: options.kept(of: grid.height * grid.width))
        return ObjectiveValue(
            loss: loss(reconstruction(latent(batch.images, mask), mask), batch.images, mask), logits: nil)
    }

    /// The seen patches behind the learned tokens, encoded and normalised: `[batch, prefix + kept, width]`.
    func latent(_ images: Tensor, _ mask: PatchMask) -> Tensor {
        let tokens = encoder.embedded(images, trainsPositions: false).tokens
        let (batch, count, width) = (tokens.shape[0], tokens.shape[1], tokens.shape[2])
        let seen = tokens.reshaped([batch * count, width])
            .gathered(mask.seen(prefix: encoder.prefixTokens), axis: 0)
            .reshaped([batch, encoder.prefixTokens + mask.kept, width])
        return encoder.lastNorm(encoder.transformed(seen, blocks: encoder.blocks.count))
    }

    /// What the decoder draws: `[batch, patches, pixels of a patch]`.
    func reconstruction(_ latent: Tensor, _ mask: PatchMask) -> Tensor { decoder(latent, mask) }

    /// - Parameter drawn: `[batch, patches, pixels of a patch]`
    func loss(_ drawn: Tensor, _ images: Tensor, _ mask: PatchMask) -> Tensor {
        // Every patch has as many pixels: the mean over hidden patches of their mean errors is the mean over all.
        func hidden(_ patches: Tensor) -> Tensor {
            patches.reshaped([patches.shape[0] * patches.shape[1], patches.shape[2]]).gathered(mask.hidden, axis: 0)
        }
        return (hidden(drawn) - hidden(target(images))).squared().mean()
    }

    /// Images as patches `[batch, patches, pixels]`, ordered [row][column][channel] within a patch.
    func target(_ images: Tensor) -> Tensor {
        let (grid, patch) = (encoder.configuration.grid, encoder.configuration.patchSize)
        let (batch, channels) = (images.shape[0], images.shape[3])
        let pixels = patch.height * patch.width * channels
        let patches = images.reshaped([batch, grid.height, patch.height, grid.width, patch.width, channels])
            .transposed([0, 1, 3, 2, 4, 5]).reshaped([batch, grid.height * grid.width, pixels])
        guard options.normalizesPixels else { return patches }
        let centred = patches - patches.mean(axes: [2], keepingAxes: true)
        let variance = centred.squared().sum(axes: [2], keepingAxes: true) / Float(max(1, pixels - 1))
        return centred / (variance + 1e-6).squareRoot()
    }
}

/// Which patches of each image are hidden: those whose noise is greatest.
struct PatchMask {
    /// How many patches of each image are seen.
    let kept: Int
    /// The places of each image's patches in the order of their noise, of equal noise in the order of their places.
    private let order: [[Int]]

    /// - Parameter noise: a number for each patch of each image
    init(noise: [[Float]], kept: Int) {
        self.kept = kept
        order = noise.map { noise in noise.indices.sorted { (noise[$0], $0) < (noise[$1], $1) } }
    }

    private var patches: Int { order.first?.count ?? 0 }

    /// The rows of `[batch · (prefix + patches)]` that the encoder sees.
    func seen(prefix: Int) -> [Int32] {
        order.enumerated().flatMap { image, order in
            let start = image * (prefix + patches)
            return (0..<prefix).map { Int32(start + $0) } + order[..<kept].map { Int32(start + prefix + $0) }
        }
    }

    /// The rows of `[batch · patches]` that are hidden.
    var hidden: [Int32] {
        order.enumerated().flatMap { image, order in order[kept...].map { Int32(image * patches + $0) } }
    }

    /// For every token in its place the row of `[batch · (prefix + kept)]` that has it, or the row behind all of them.
    func restored(prefix: Int) -> [Int32] {
        order.enumerated().flatMap { image, order in
            let start = image * (prefix + kept)
            var rows = [Int32](repeating: Int32(self.order.count * (prefix + kept)), count: prefix + patches)
            for i in 0..<prefix { rows[i] = Int32(start + i) }
            for (rank, place) in order[..<kept].enumerated() { rows[prefix + place] = Int32(start + prefix + rank) }
            return rows
        }
    }
}

/// From the tokens of seen patches to the pixels of all: a narrow transformer that has one learned token in every hidden
/// place.
final class MaskedDecoder: Module {
    let maskToken: Parameter
    let decoderPosEmbed: Parameter
    let decoderEmbed: Linear
    let decoderBlocks: [VisionTransformer.Block]
    let decoderNorm: LayerNorm
    let decoderPred: Linear
    private let prefix: Int

    init(for encoder: VisionTransformer, _ options: MaskedAutoencoderOptions) {
        let (c, width) = (encoder.configuration, options.decoderWidth)
        prefix = encoder.prefixTokens
        maskToken = Parameter([1, 1, width], .normal(0.02))
        let leading = [Float](repeating: 0, count: prefix * width)
        let table = Initializer { buffer, _ in
            let sines = PositionTable.sinusoids(rows: c.grid.height, columns: c.grid.width, width: width)
            _ = buffer.update(fromContentsOf: leading + sines)
        }
        decoderPosEmbed = Parameter(
            [1, prefix + c.grid.height * c.grid.width, width], table, isTrainable: false)
        decoderEmbed = Linear(c.width, width, initializer: .xavierUniform(fanIn: c.width, fanOut: width))
        var block = VisionTransformer.Configuration.base16
        (block.width, block.heads, block.mlpRatio) = (width, options.decoderHeads, c.mlpRatio)
        decoderBlocks = (0..<options.decoderDepth).map { _ in VisionTransformer.Block(block, dropPath: 0) }
        decoderNorm = LayerNorm(width, epsilon: 1e-6)
        let pixels = c.patchSize.height * c.patchSize.width * c.channels
        decoderPred = Linear(width, pixels, initializer: .xavierUniform(fanIn: width, fanOut: pixels))
    }

    /// `[batch, prefix + kept, encoder's width]` → `[batch, patches, pixels of a patch]`
    func callAsFunction(_ latent: Tensor, _ mask: PatchMask) -> Tensor {
        let seen = decoderEmbed(latent)
        let (batch, width) = (seen.shape[0], seen.shape[2])
        let rows = concatenate(
            [seen.reshaped([batch * seen.shape[1], width]), maskToken.tensor.reshaped([1, width])], axis: 0)
        let tokens =
            rows.gathered(mask.restored(prefix: prefix), axis: 0)
            .reshaped([batch, decoderPosEmbed.shape[1], width]) + decoderPosEmbed.tensor
        let decoded = decoderBlocks.reduce(tokens) { x, block in checkpointed(block, x) { block($0) } }
        return decoderPred(decoderNorm(decoded)).sliced(axis: 1, from: prefix, to: tokens.shape[1])
    }
}

extension TrainingMethod {
    static let maskedAutoencoder = TrainingMethod(
        name: "mae", summary: "pre-training without labels: most patches are hidden and drawn from the others",
        paper: ("Masked Autoencoders Are Scalable Vision Learners", 2021, "2111.06377"), teacher: .none,
        makeObjective: { setup in
            let (model, options) = (try setup.plainTransformer(), setup.options.mae)
            let grid = model.configuration.grid
            let (patches, kept) = (grid.height * grid.width, options.kept(of: grid.height * grid.width))
            guard (1..<patches).contains(kept) else {
                throw setup.refusal(
                    "--mae-ratio \(options.ratio) leaves \(kept) of the grid's \(grid) patches to see, "
                        + "expected at least one seen and one hidden")
            }
            let objective = MaskedAutoencoder(model, options: options)
            objective.companion?.drawWeights(seed: setup.options.seed)
            return objective
        })
}
