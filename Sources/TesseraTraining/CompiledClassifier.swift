import Tessera
import TesseraModels
import TesseraRuntime

/// A classifier whose weights stay as they are, compiled for the images that it meets.
public final class CompiledClassifier: Sendable {
    private let classifier: CompiledModel
    private let extractor: CompiledModel

    public init(_ model: any ImageClassifier) {
        classifier = CompiledModel { [model($0)] }
        extractor = CompiledModel { image in
            let features = model.features(image)
            return [features.logits, features.pooled, features.tokens]
        }
    }

    /// Starts to compile for logits of images of this shape while the caller reads the first image.
    public func prepare(for shape: Shape) { classifier.prepare(for: shape) }

    /// Logits `[batch, classes]`.
    public func callAsFunction(_ images: Tensor) -> Tensor { classifier(images)[0] }

    /// Everything that a forward pass has to tell, but the heads of a distilled model apart.
    public func features(_ images: Tensor) -> Features {
        let results = extractor(images)
        return Features(logits: results[0], pooled: results[1], tokens: results[2])
    }
}
