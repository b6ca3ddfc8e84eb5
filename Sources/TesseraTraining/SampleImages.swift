import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraModels

extension TrainedModel {
    /// The first images of a batch with what the model says and where it looks.
    func samples(_ batch: Batch, _ logits: Tensor, _ dataset: any Dataset, count: Int) -> [Report.Sample] {
        let probabilities = logits.softmax(axis: -1)
        return (0..<min(count, batch.count)).compactMap { row in
            guard let image = try? dataset.image(at: batch.indices[row]), let png = try? image.shown.pngData() else {
                return nil
            }
            let scores = probabilities.sliced(axis: 0, from: row, to: row + 1).scalars
            let best = scores.indices.max { scores[$0] < scores[$1] }!
            let attention = attentionImage(image).flatMap { try? $0.pngData() }
            return Report.Sample(
                png: png, attention: attention, truth: labels[Int(batch.labels[row])], prediction: labels[best],
                probability: Double(scores[best]))
        }
    }

    /// The image with the places that the model looks at lit up, the others darkened; nil for a model whose attention
    /// does not cover its whole token grid.
    public func attentionImage(_ image: Image) -> Image? {
        let sized = preprocessing.sized(image)
        guard let map = AttentionRollout.map(model, input(image)) else { return nil }
        let base = sized.shown
        let heat = map.reshaped([1, map.shape[0], map.shape[1], 1]).resized(
            height: base.height, width: base.width, interpolation: .bilinear, alignCorners: false, antialias: false
        ).scalars
        var pixels = [UInt8](repeating: 0, count: 3 * heat.count)
        for (place, value) in heat.enumerated() {
            let light = max(0, min(1, value))
            for channel in 0..<3 {
                let source = Float(base.pixels[base.channels == 3 ? 3 * place + channel : place])
                // Warm light on what is looked at: red first, then yellow.
                let tint: Float = channel == 0 ? 255 : channel == 1 ? 255 * light : 40
                let mixed = source * (0.45 + 0.25 * light) + tint * 0.5 * light
                pixels[3 * place + channel] = UInt8(max(0, min(255, mixed)))
            }
        }
        return Image(height: base.height, width: base.width, channels: 3, pixels: pixels)
    }
}

extension Image {
    /// Small pictures enlarged by a whole factor, so that a person sees them.
    var shown: Image {
        let factor = max(1, 112 / max(height, width))
        return factor == 1 ? self : resized(height: height * factor, width: width * factor, filter: .nearest)
    }
}
