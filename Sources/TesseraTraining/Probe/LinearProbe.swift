import Tessera

/// A linear classifier of features: the minimum of cross-entropy + λ/2 · |W|², found by L-BFGS.
///
/// "Learning Transferable Visual Models From Natural Language Supervision" (2021), arXiv 2103.00020, measures features
/// this way; λ is the one of a few powers of ten that serves the held-out tenth of the images best.
public struct LinearProbe {
    /// `[classes, channels]`
    public let weight: Tensor
    /// `[classes]`
    public let bias: Tensor
    public let penalty: Float

    /// From the strongest: each fit starts where the one before ended.
    static let penalties: [Float] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
    private static let iterations = 200

    /// - Precondition: labels are below `classes`
    /// - Parameter progress: is told how many fits are done, of how many
    public init(_ train: FeatureSet, classes: Int, progress: (Int, Int) -> Void = { _, _ in }) {
        // Every tenth image, in the order of the data, is held out.
        let places = train.labels.indices
        let fitted = train.rows(places.filter { $0 % 10 != 9 || places.count < 20 })
        let held = train.rows(places.filter { $0 % 10 == 9 || places.count < 20 })
        let fits = LinearProbe.penalties.count + 1
        var start = [Float](repeating: 0, count: classes * (train.features.shape[1] + 1))
        var best = (accuracy: -1.0, penalty: LinearProbe.penalties[0], start: start)
        for (number, penalty) in LinearProbe.penalties.enumerated() {
            progress(number, fits)
            start = LinearProbe.fit(fitted, classes, penalty, from: start)
            let accuracy = LinearProbe(start, classes, penalty).accuracy(on: held)
            if accuracy > best.accuracy { best = (accuracy, penalty, start) }
        }
        progress(fits - 1, fits)
        self.init(LinearProbe.fit(train, classes, best.penalty, from: best.start), classes, best.penalty)
    }

    /// - Parameter point: the weight's rows, then the bias
    private init(_ point: [Float], _ classes: Int, _ penalty: Float) {
        let channels = point.count / classes - 1
        weight = Tensor(Array(point.prefix(classes * channels)), [classes, channels])
        bias = Tensor(Array(point.suffix(classes)), [classes])
        self.penalty = penalty
    }

    /// Logits `[images, classes]` of features `[images, channels]`.
    public func callAsFunction(_ features: Tensor) -> Tensor { linear(features, weight: weight, bias: bias) }

    /// The share of images whose class has the greatest logit.
    public func accuracy(on test: FeatureSet) -> Double {
        let classes = bias.count
        let hits = self(test.features).withUnsafeBuffer { logits in
            test.labels.enumerated().count { row, label in
                let own = logits[row * classes..<(row + 1) * classes]
                return own.indices.reduce(own.startIndex) { own[$1] > own[$0] ? $1 : $0 } == row * classes + Int(label)
            }
        }
        return Double(hits) / Double(max(1, test.labels.count))
    }

    private static func fit(_ data: FeatureSet, _ classes: Int, _ penalty: Float, from start: [Float]) -> [Float] {
        let targets = smoothedTargets(data.labels, classes: classes, smoothing: 0)
        return LBFGS.minimum(from: start, iterations: iterations) { point in
            let probe = LinearProbe(point, classes, penalty)
            let (weight, bias) = (Tape.leaf(probe.weight), Tape.leaf(probe.bias))
            let tape = Tape()
            let loss = tape.record {
                crossEntropy(linear(data.features, weight: weight, bias: bias), targets)
                    + (weight * weight).sum() * (penalty / 2)
            }
            let gradients = tape.gradients(of: loss)
            return (Double(loss.scalar), gradients[weight]!.scalars + gradients[bias]!.scalars)
        }
    }
}
