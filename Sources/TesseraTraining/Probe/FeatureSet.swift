import Tessera
import TesseraData

/// What a model computes for the images of a data set, before its head.
public struct FeatureSet {
    /// `[images, channels]`
    public let features: Tensor
    public let labels: [Int32]

    /// - Precondition: one label for each row of features
    public init(features: Tensor, labels: [Int32]) {
        precondition(
            features.rank == 2 && features.shape[0] == labels.count, "\(features.shape), \(labels.count) labels")
        (self.features, self.labels) = (features, labels)
    }

    /// Runs the model over all images that the loader can read.
    /// - Parameter progress: is told how many images are done
    /// - Throws: what the loader throws, and `DataError` if there is no image
    public init(_ model: CompiledClassifier, _ loader: Loader, progress: (Int) -> Void = { _ in }) throws {
        var (parts, labels) = ([Tensor](), [Int32]())
        let batches = loader.epoch(0)
        while let batch = try batches.nextBatch() {
            guard batch.count > 0 else { continue }
            parts.append(model.features(batch.tensor).pooled)
            labels += batch.labels
            progress(labels.count)
        }
        guard !parts.isEmpty else {
            throw DataError("images", "none of \(loader.dataset.count) can be read")
        }
        self.init(features: concatenate(parts, axis: 0), labels: labels)
    }

    /// The mean over the images of the cosine of the angle between their features here and there.
    /// - Precondition: features of the same images
    public func meanCosine(with other: FeatureSet) -> Double {
        let products = features.normalizedRows * other.features.normalizedRows
        return products.scalars.reduce(0) { $0 + Double($1) } / Double(max(1, labels.count))
    }

    /// Some rows.
    func rows(_ indices: [Int]) -> FeatureSet {
        FeatureSet(
            features: features.gathered(indices.map { Int32($0) }, axis: 0), labels: indices.map { labels[$0] })
    }
}

extension Tensor {
    /// Each row divided by its length.
    var normalizedRows: Tensor {
        self / maximum((self * self).sum(axes: [1], keepingAxes: true).squareRoot(), Tensor(1e-12))
    }
}
