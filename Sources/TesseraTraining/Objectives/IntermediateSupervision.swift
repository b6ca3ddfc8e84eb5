import Tessera
import TesseraData
import TesseraModels

/// The settings of RevCol's intermediate supervision, with its published weights.
public struct IntermediateSupervisionOptions: MethodOptions {
    static let methods = ["intermediate_supervision"]
    static let prefix = "intermediate"

    /// λ of the cross-entropy with the image, falling towards the last column.
    public var imageWeight = 3.0
    /// λ of the heads between, growing towards the last column.
    public var classWeight = 0.7

    public init() {}

    func checkValues(_ problems: inout OptionProblems) {
        problems.require((0...1000).contains(imageWeight), "intermediate-image", imageWeight, "0 to 1000")
        problems.require((0...1000).contains(classWeight), "intermediate-class", classWeight, "0 to 1000")
    }
}

/// RevCol's training from scratch: "Reversible Column Networks" (2022), arXiv 2212.11696. After each quarter of its
/// columns the network names the image, and after the first three it draws it too, so that no column loses what the last
/// one needs: see ``RevCol/losses(_:targets:image:imageWeight:classWeight:)``.
public final class IntermediateSupervision: Objective {
    public var model: any ImageClassifier { network }
    private let network: RevCol
    private let preprocessing: Preprocessing
    private let options: IntermediateSupervisionOptions

    /// - Precondition: the network has heads between its columns
    public init(
        _ network: RevCol, preprocessing: Preprocessing,
        options: IntermediateSupervisionOptions = IntermediateSupervisionOptions()
    ) {
        (self.network, self.preprocessing, self.options) = (network, preprocessing, options)
    }

    public func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
        let outputs = network.supervised(batch.images)
        let losses = RevCol.losses(
            outputs, targets: batch.targets, image: Tape.pause { pixels(batch.images) },
            imageWeight: Float(options.imageWeight), classWeight: Float(options.classWeight))
        return ObjectiveValue(loss: losses.reduce(Tensor(0), +), logits: outputs.logits.last!)
    }

    /// Normalised images as red, green and blue from 0 to 1.
    private func pixels(_ images: Tensor) -> Tensor {
        let shape: Shape = [1, 1, 1, preprocessing.channels]
        let pixels = images * Tensor(preprocessing.std, shape) + Tensor(preprocessing.mean, shape)
        return pixels.broadcast(to: images.shape.replacing(3, with: 3))
    }
}

extension TrainingMethod {
    static let intermediateSupervision = TrainingMethod(
        name: "intermediate_supervision", summary: "RevCol's heads and image decoders between its columns",
        paper: ("Reversible Column Networks", 2022, "2212.11696"), teacher: .none,
        makeObjective: { setup in
            guard let network = setup.model as? RevCol, network.supervisesColumns else {
                throw setup.refusal(
                    "the model has no heads between columns, expected a revcol with --model-args '{\"inter_supv\": true}'"
                )
            }
            return IntermediateSupervision(
                network, preprocessing: setup.preprocessing, options: setup.options.intermediate)
        })
}
