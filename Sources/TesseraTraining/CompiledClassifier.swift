import Tessera
import TesseraModels
import TesseraRuntime

/// A classifier whose weights stay as they are, compiled for the images that it meets.
public final class CompiledClassifier: Sendable {
    private let classifier: CompiledModel
    private let extractor: CompiledModel

    /// - Parameter quantization: which products compute in codes; the model's weights stand in those already
    public init(_ model: any ImageClassifier, quantization: Quantization? = nil) {
        let annotate: (inout Graph) -> Void = { graph in
            if let quantization { graph.quantize(quantization, names: ParameterNames(model)) }
        }
        // An annotation knows weights as they are: short cuts to the answer may use parts of them.
        classifier = CompiledModel(annotate: annotate) {
            [quantization == nil ? model($0) : model.features($0).logits]
        }
        extractor = CompiledModel(annotate: annotate) { image in
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
