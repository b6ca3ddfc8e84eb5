import Tessera
import TesseraModels
import TesseraNN

/// The settings of locality guidance, with the published defaults.
public struct LocalityGuidanceOptions: MethodOptions {
    static let methods = ["locality_guidance"]
    static let prefix = "guidance"

    /// What of two maps is compared.
    public enum Comparison: String, Codable, Sendable, CaseIterable {
        /// The maps themselves, the student's after a learned 1×1 convolution to the teacher's channels.
        case linear
        /// The mean square over channels, as a direction over all places.
        case attention
        /// The products of each image's map with all images' maps, as directions.
        case similarity
    }

    public var comparison = Comparison.linear
    /// The weight of the sum over guided blocks.
    public var weight = 2.5
    /// The guided blocks, counted from 0 over all stages; none: the first, the middle and the last.
    public var blocks: [Int] = []
    /// The teacher's stage for each guided block.
    public var stages = [0, 1, 2]
    /// The teacher's norms use the statistics of each batch, as its reference runs it, instead of those it was trained to.
    public var usesBatchStatistics = false

    public init() {}

    func checkValues(_ problems: inout OptionProblems) {
        problems.require((0...1000).contains(weight), "guidance-weight", weight, "0 to 1000")
        problems.require(!stages.isEmpty, "guidance-stages", "none", "one for each guided block")
        problems.require(
            blocks.isEmpty || blocks.count == stages.count, "guidance-blocks", blocks,
            "\(stages.count), one for each of --guidance-stages")
        for (flag, values) in [("guidance-blocks", blocks), ("guidance-stages", stages)] {
            problems.require(values.allSatisfy { $0 >= 0 }, flag, values, "0 or more")
        }
    }

    /// The guided blocks of a model with such maps `[batch, rows, columns, channels]` behind its blocks: spread evenly.
    /// One that would begin a stage of a pyramid gives its place to the one that ends the stage before.
    func blocks(of maps: [Shape]) -> [Int] {
        guard blocks.isEmpty else { return blocks }
        let last = maps.count - 1
        guard stages.count > 1 else { return [last] }
        return stages.indices.map { index in
            let block = min(last, index * maps.count / (stages.count - 1))
            guard block > 0, block < last, maps[block][1] < maps[block - 1][1] else { return block }
            return block - 1
        }
    }
}

/// Locality guidance: "Locality Guidance for Improving Vision Transformers on Tiny Datasets" (2022), arXiv 2207.10026.
///
/// A small convolutional network, trained on the same images at low resolution, shows the transformer what local features
/// look like: loss = criterion + w · Σ over pairs of mean (teacher's map − student's map)². Maps of different sizes are
/// compared at the larger one.
public final class LocalityGuidance: Objective {
    public let model: any ImageClassifier
    private let teacher: (Tensor) -> [Tensor]
    private let criterion: Criterion
    private let options: LocalityGuidanceOptions
    private let blocks: [Int]
    private let projections: Projections?

    final class Projections: Module {
        let featureTransforms: [Linear]

        init(_ channels: [(student: Int, teacher: Int)]) {
            featureTransforms = channels.map { Linear($0.student, $0.teacher, isConvolution: true) }
        }
    }

    public var companion: Module? { projections }

    /// - Parameters:
    ///   - teacher: from the student's images to the maps of the stages
    ///   - blocks: the guided one for each of the options' stages
    ///   - channels: of the student's and of the teacher's map of each pair
    init(
        _ model: any ImageClassifier, teacher: @escaping (Tensor) -> [Tensor], blocks: [Int],
        channels: [(student: Int, teacher: Int)], criterion: Criterion, options: LocalityGuidanceOptions
    ) {
        (self.model, self.teacher, self.blocks) = (model, teacher, blocks)
        (self.criterion, self.options) = (criterion, options)
        projections = options.comparison == .linear ? Projections(channels) : nil
    }

    public func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
        let (features, maps) = model.observed(batch.images)
        let guidance = guidance(maps, teacher(batch.images))
        return ObjectiveValue(
            loss: criterion(features.classification, batch.targets) + guidance * Float(options.weight),
            logits: features.logits)
    }

    /// The sum over pairs for the maps of all blocks and of all stages.
    func guidance(_ maps: [Tensor], _ stages: [Tensor]) -> Tensor {
        let terms = zip(blocks, options.stages).enumerated().map { index, pair in
            let map = projections.map { $0.featureTransforms[index](maps[pair.0]) } ?? maps[pair.0]
            return options.comparison.loss(map, stages[pair.1].detached)
        }
        return terms.reduce(Tensor(0), +)
    }
}

extension LocalityGuidanceOptions.Comparison {
    /// The mean squared difference of what is compared of two maps `[batch, rows, columns, channels]`.
    func loss(_ student: Tensor, _ teacher: Tensor) -> Tensor {
        let (height, width) = (max(student.shape[1], teacher.shape[1]), max(student.shape[2], teacher.shape[2]))
        func compared(_ map: Tensor) -> Tensor {
            let isSmaller = map.shape[1] != height || map.shape[2] != width
            let map = isSmaller ? map.resized(height: height, width: width, interpolation: .bilinear) : map
            let batch = map.shape[0]
            switch self {
            case .linear: return map
            case .attention: return map.squared().mean(axes: [3]).reshaped([batch, height * width]).directions
            case .similarity:
                let flat = map.reshaped([batch, map.count / batch])
                return flat.multiplied(by: flat, transposing: (false, true)).directions
            }
        }
        return (compared(teacher) - compared(student)).squared().mean()
    }
}

extension Tensor {
    /// The rows of a matrix divided by their lengths.
    fileprivate var directions: Tensor {
        self / maximum(squared().sum(axes: [1], keepingAxes: true).squareRoot(), Tensor(1e-12))
    }
}

extension TrainingMethod {
    static let localityGuidance = TrainingMethod(
        name: "locality_guidance", summary: "blocks imitate the stages of a small convolutional network",
        paper: ("Locality Guidance for Improving Vision Transformers on Tiny Datasets", 2022, "2207.10026"),
        teacher: .required, makeObjective: { try LocalityGuidance($0) })
}

extension LocalityGuidance {
    fileprivate convenience init(_ setup: MethodSetup) throws {
        let options = setup.options.guidance
        let teacher = try setup.requiredTeacher(answers: false)
        guard let guide = teacher.trained.model as? any FeaturePyramid else {
            throw setup.refusal(
                "the teacher \(teacher.trained.configuration.architecture) has no stages, expected a network such as "
                    + "cifar_resnet56_c100")
        }
        let stages = guide.pyramid(Tensor(abstract: teacher.trained.inputShape)).map(\.shape)
        let maps = setup.model.observed(setup.abstractImage).blocks.map(\.shape)
        let blocks = options.blocks(of: maps)
        if let stage = options.stages.first(where: { $0 >= stages.count }) {
            throw setup.refusal("--guidance-stages \(stage): the teacher has 0 to \(stages.count - 1)")
        }
        if let block = blocks.first(where: { $0 >= maps.count }) {
            throw setup.refusal("--guidance-blocks \(block): the model has 0 to \(maps.count - 1)")
        }
        let plan = teacher.compiled(antialias: false) { guide.pyramid($0) }
        let live = { images in Tape.pause { guide.pyramid(teacher.adapted(images, antialias: false)) } }
        self.init(
            setup.model, teacher: options.usesBatchStatistics ? live : plan, blocks: blocks,
            channels: zip(blocks, options.stages).map { (maps[$0][3], stages[$1][3]) },
            criterion: setup.options.criterion, options: options)
    }
}
