import Foundation
import Tessera
import TesseraModels
import TesseraNN

/// The settings of dense relative localisation, with the defaults that its authors train Swin with.
public struct RelativeLocalizationOptions: MethodOptions {
    static let methods = ["drloc"]
    static let prefix = "drloc"

    /// How the offset of two tokens is predicted.
    public enum Mode: String, Codable, Sendable, CaseIterable {
        /// Two numbers, by their absolute error.
        case l1
        /// One of its possible values for each axis, by cross-entropy.
        case ce
        /// The same distribution's mean, by its squared error over the distribution's variance.
        case cbr
    }

    public var mode = Mode.l1
    /// The weight of the loss after its warm-up.
    public var lambda = 0.5
    /// Pairs of tokens drawn from each image.
    public var pairs = 64
    /// Offsets with their sign, instead of their absolute values.
    public var isSigned = false
    /// Offsets in units of the largest possible one, as the paper has them, instead of tokens, as its code has them.
    public var normalizes = false
    /// Halve the grid first, as the code does for CvT and T2T-ViT: means over 3×3 with stride 2.
    public var pools = false
    /// A head after each stage of a pyramid instead of the last grid's alone. The grids are those of the stages' last
    /// blocks; the code's are those after the merging that follows.
    public var usesAllStages = false
    public var warmupEpochs = 20.0
    /// Of the two hidden layers.
    public var width = 512

    public init() {}

    func checkValues(_ problems: inout OptionProblems) {
        problems.require((0...1000).contains(lambda), "drloc-lambda", lambda, "0 to 1000")
        problems.require((1...65536).contains(pairs), "drloc-m", pairs, "1 to 65536")
        problems.require((0...1e6).contains(warmupEpochs), "drloc-warmup-epochs", warmupEpochs, "0 to 1000000")
        problems.require((1...65536).contains(width), "drloc-width", width, "1 to 65536")
        problems.require(!normalizes || mode == .l1, "drloc-normalize", "with --drloc-mode \(mode)", "--drloc-mode l1")
    }

    /// The weight in an epoch, counted from 0: rises linearly during the warm-up, then falls to nothing at the end.
    public func weight(epoch: Int, of epochs: Int) -> Double {
        let (epoch, epochs) = (Double(epoch), Double(epochs))
        if epoch <= warmupEpochs { return warmupEpochs > 0 ? lambda * epoch / warmupEpochs : lambda }
        return lambda * (1 - (epoch - warmupEpochs) / (epochs - warmupEpochs))
    }
}

/// Dense relative localisation: "Efficient Training of Visual Transformers with Small Datasets" (2021), arXiv 2106.03746.
///
/// From pairs of tokens drawn from the last grid, a small perceptron tells how many rows and columns lie between them;
/// tokens that know their place learn from fewer images. loss = criterion + λ(epoch) · Σ over grids of the pairs' loss.
public final class RelativeLocalization: Objective {
    public let model: any ImageClassifier
    private let criterion: Criterion
    private let options: RelativeLocalizationOptions
    private let heads: Heads

    final class Heads: Module {
        let drloc: [RelativeLocalizationHead]

        init(_ heads: [RelativeLocalizationHead]) { drloc = heads }
    }

    public var companion: Module? { heads }

    /// - Parameter grids: the shapes of the grids whose tokens are localised, `[batch, rows, columns, channels]`
    init(
        _ model: any ImageClassifier, grids: [Shape], criterion: Criterion, options: RelativeLocalizationOptions
    ) {
        (self.model, self.criterion, self.options) = (model, criterion, options)
        heads = Heads(grids.map { RelativeLocalizationHead(grid: $0, options) })
    }

    public func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
        let (answer, grids) = Self.answer(model, batch.images, options)
        var random = moment.random
        let terms = zip(heads.drloc, grids).map { head, grid in
            head.loss(grid, .random(in: grid.shape, count: options.pairs, &random))
        }
        let weight = Float(options.weight(epoch: moment.epoch, of: moment.epochs))
        return ObjectiveValue(
            loss: criterion(answer, batch.targets) + terms.reduce(Tensor(0), +) * weight, logits: answer.logits)
    }

    /// The answer and the grids whose tokens are localised.
    private static func answer(
        _ model: any ImageClassifier, _ images: Tensor, _ options: RelativeLocalizationOptions
    ) -> (Classification, [Tensor]) {
        let (answer, grids): (Classification, [Tensor])
        if options.usesAllStages, let model = model as? any PyramidClassifier {
            let maps = model.pyramid(images)
            (answer, grids) = (model.features(of: maps).classification, maps)
        } else {
            let features = model.features(images)
            (answer, grids) = (features.classification, [features.tokens])
        }
        guard options.pools else { return (answer, grids) }
        return (answer, grids.map { $0.averagePool(kernel: 3, stride: 2, padding: 1, countsPadding: false) })
    }
}

extension TrainingMethod {
    static let drloc = TrainingMethod(
        name: "drloc", summary: "pairs of tokens tell how far they are apart",
        paper: ("Efficient Training of Visual Transformers with Small Datasets", 2021, "2106.03746"), teacher: .none,
        makeObjective: { try RelativeLocalization($0) })
}

extension RelativeLocalization {
    fileprivate convenience init(_ setup: MethodSetup) throws {
        let options = setup.options.drloc
        if options.usesAllStages, !(setup.model is any PyramidClassifier) {
            throw setup.refusal("the model has no pyramid of stages that --drloc-multiscale could use")
        }
        let grids = Self.answer(setup.model, setup.abstractImage, options).1.map(\.shape)
        for grid in grids where min(grid[1], grid[2]) < 2 {
            throw setup.refusal("a token grid of \(grid[1])×\(grid[2]) has no offsets to learn, expected 2×2 or more")
        }
        self.init(setup.model, grids: grids, criterion: setup.options.criterion, options: options)
    }
}
