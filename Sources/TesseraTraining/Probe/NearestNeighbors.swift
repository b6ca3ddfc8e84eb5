import Foundation
import Tessera

/// A classifier without parameters: the votes of the k most similar images whose class is known.
///
/// Similarity s is the cosine of the angle between features, and a vote weighs exp(s / 0.07), as in "Emerging Properties
/// in Self-Supervised Vision Transformers" (2021), arXiv 2104.14294.
public struct NearestNeighbors {
    public let neighbors: Int
    private let known: FeatureSet
    private let classes: Int
    private static let temperature: Float = 0.07
    /// Rows whose similarities are in memory at a time.
    private static let block = 256

    /// - Precondition: at least one known image; labels are below `classes`
    public init(_ known: FeatureSet, neighbors: Int, classes: Int) {
        precondition(!known.labels.isEmpty && neighbors > 0)
        self.known = FeatureSet(features: known.features.normalizedRows, labels: known.labels)
        (self.neighbors, self.classes) = (min(neighbors, known.labels.count), classes)
    }

    /// The class of each row of `features` `[images, channels]`. Of equal votes the lower class wins.
    public func callAsFunction(_ features: Tensor) -> [Int32] {
        let rows = features.normalizedRows
        return stride(from: 0, to: features.shape[0], by: NearestNeighbors.block).flatMap { start in
            let end = min(start + NearestNeighbors.block, features.shape[0])
            let similarities = linear(rows.sliced(axis: 0, from: start, to: end), weight: known.features)
            return similarities.withUnsafeBuffer { values in
                (0..<end - start).map { row in
                    vote(
                        UnsafeBufferPointer(rebasing: values[row * known.labels.count..<(row + 1) * known.labels.count])
                    )
                }
            }
        }
    }

    /// The share of images whose class is found.
    public func accuracy(on test: FeatureSet) -> Double {
        let answers = self(test.features)
        return Double(zip(answers, test.labels).count { $0 == $1 }) / Double(max(1, answers.count))
    }

    private func vote(_ similarities: UnsafeBufferPointer<Float>) -> Int32 {
        // The best so far, the least similar first: few enough to insert into.
        var best: [(similarity: Float, index: Int)] = []
        for (index, similarity) in similarities.enumerated() {
            guard best.count < neighbors || similarity > best[0].similarity else { continue }
            if best.count == neighbors { best.removeFirst() }
            let place = best.firstIndex { $0.similarity >= similarity } ?? best.count
            best.insert((similarity, index), at: place)
        }
        var votes = [Float](repeating: 0, count: classes)
        for (similarity, index) in best {
            votes[Int(known.labels[index])] += exp((similarity - 1) / NearestNeighbors.temperature)
        }
        return Int32(votes.indices.reduce(0) { votes[$1] > votes[$0] ? $1 : $0 })
    }
}
