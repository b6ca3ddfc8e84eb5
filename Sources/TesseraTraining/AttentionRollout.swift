import Tessera
import TesseraModels

/// Attention rollout: where in the image a transformer looks.
///
/// "Quantifying Attention Flow in Transformers" (2020), arXiv 2005.00928: each layer mixes tokens by ½ (A + I), with A
/// the mean of its heads; the product of the layers says how much of each input token is in each output token.
public enum AttentionRollout {
    /// The share of each place of the token grid in the model's answer.
    ///
    /// The answer is read off the class token if there is one, else off all tokens equally.
    /// - Parameter image: `[1, height, width, channels]`
    /// - Returns: `[rows, columns]`, from 0 to 1 at the most looked-at place; nil for a model without attention over its
    ///   whole token grid.
    public static func map(_ model: any ImageClassifier, _ image: Tensor) -> Tensor? {
        let probe = AttentionProbe()
        let features = probe.watch { model.features(image) }
        let (rows, columns) = (features.tokens.shape[1], features.tokens.shape[2])
        let count = rows * columns + model.prefixTokens
        let layers = probe.weights.filter { $0.shape[0] == 1 && $0.shape[2] == count && $0.shape[3] == count }
        guard !layers.isEmpty else { return nil }
        let identity = Tensor([count, count]) { buffer in
            for i in buffer.indices { buffer[i] = i / count == i % count ? 1 : 0 }
        }
        let flow = layers.reduce(identity) { flow, weights in
            let mixed = (weights.mean(axes: [0, 1]) + identity) * 0.5
            return mixed.multiplied(by: flow)
        }
        let row =
            model.prefixTokens > 0
            ? flow.sliced(axis: 0, from: 0, to: 1).reshaped([count]) : flow.mean(axes: [0])
        let places = row.sliced(axis: 0, from: model.prefixTokens, to: count)
        let values = places.scalars
        let (low, high) = (values.min() ?? 0, values.max() ?? 1)
        return ((places - low) * (1 / max(high - low, .leastNormalMagnitude))).reshaped([rows, columns])
    }
}
