import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraRuntime
import TesseraTraining

/// A trained model on its way to a quantized one: calibration, bits, evaluation, and the folder in the end.
public final class QuantizationRun {
    public let trained: TrainedModel
    public let quantizer: ModelQuantizer
    /// Of each unit of the quantizer.
    public private(set) var bits: [Int]
    /// The loss of the calibration images with each unit on each step of the ladder, if bits were distributed.
    public private(set) var sensitivity: [[Double]]?
    /// Groups whose bits were raised to hold the accuracy.
    public private(set) var raised: [String] = []

    /// Images that calibration needs at least.
    public static let leastImages = 8

    /// Images spread evenly over a data set, as the model sees them.
    /// - Throws: `DataError` if the data set has fewer that can be read.
    public static func calibrationImages(
        _ dataset: any Dataset, _ preprocessing: Preprocessing, count: Int, data: String
    ) throws -> [Tensor] {
        var images: [Tensor] = []
        var index = 0
        while images.count < count && index < dataset.count {
            // The next one that can be read, and as many steps as there are images still wanted.
            if let image = try? dataset.image(at: index) {
                let values = preprocessing(image)
                images.append(
                    Tensor(values, [1, preprocessing.height, preprocessing.width, preprocessing.channels]))
            }
            index += max(1, (dataset.count - index) / max(1, count - images.count + 1))
        }
        guard images.count == count else {
            throw DataError(data, "has \(images.count) images that can be read; calibration needs \(count)")
        }
        return images
    }

    /// Calibrates and decides the bits.
    /// - Throws: ``QuantizationError``
    public init(
        _ trained: TrainedModel, images: [Tensor], recipe: QuantizationRecipe,
        progress: (_ done: Int, _ of: Int) -> Void = { _, _ in }
    ) throws {
        self.trained = trained
        quantizer = try ModelQuantizer(trained.model, images: images, recipe: recipe)
        if let uniform = quantizer.uniformBits {
            bits = uniform
            return
        }
        guard case .average(let target) = recipe.bits else { preconditionFailure("bits are uniform or an average") }
        let quantizer = quantizer
        let table = quantizer.sensitivity { progress($0, quantizer.units.count) }
        sensitivity = table
        bits = GreedyAllocation(sizes: quantizer.units.map(\.count), sensitivity: table, target: target).bits
    }

    /// The model in codes as it is now.
    public func compiled() -> CompiledClassifier {
        CompiledClassifier(trained.model, quantization: quantizer.adopt(bits: bits).annotation)
    }

    /// Measures the model in codes; as long as it loses more than `drop`, more bits go where they help most.
    /// - Parameters:
    ///   - drop: the share of images that may be lost against `before`
    ///   - measure: the evaluation of a classifier
    public func settle(
        before: Evaluation, drop: Double?, measure: (CompiledClassifier) throws -> Evaluation
    ) throws -> Evaluation {
        var after = try measure(compiled())
        while let drop, before.top1 - after.top1 > drop + 1e-12, let next = quantizer.raised(bits) {
            for group in quantizer.groups where group.units.contains(where: { next[$0] != bits[$0] }) {
                if !raised.contains(group.name) { raised.append(group.name) }
            }
            bits = next
            after = try measure(compiled())
        }
        return after
    }

    /// Writes `config.json` and the weights, those of quantized layers in codes.
    public func write(_ folder: RunFolder) throws {
        let (annotation, weights) = quantizer.adopt(bits: bits)
        var configuration = trained.configuration
        configuration.tessera = .object([JSON.Member("quantization", annotation.json)])
        try folder.write(configuration)
        try folder.saveBest(trained.model, weights: weights)
    }
}
