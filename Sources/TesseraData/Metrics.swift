/// Counts right and wrong answers of a classifier over an evaluation.
public struct ClassificationMetrics: Sendable, Equatable {
    public let classes: Int
    /// The k of ``topK``.
    public let k: Int
    /// `confusion[truth * classes + answer]`.
    public private(set) var confusion: [Int]
    public private(set) var count = 0
    private var hitsInK = 0

    public init(classes: Int, k: Int = 5) {
        self.classes = classes
        self.k = min(k, classes)
        confusion = [Int](repeating: 0, count: classes * classes)
    }

    /// Adds a batch: `logits` is `[labels.count, classes]`, row-major. Among equal logits the lower class wins, and a
    /// number that is not a number never does.
    public mutating func add(logits: UnsafeBufferPointer<Float>, labels: [Int32]) {
        precondition(logits.count == labels.count * classes, "\(logits.count) logits for \(labels.count) labels")
        for (i, label) in labels.enumerated() {
            let row = UnsafeBufferPointer(rebasing: logits[i * classes..<(i + 1) * classes])
            let truth = Int(label)
            let answer = row.indices.reduce(0) { row[$1] > row[$0] || row[$0].isNaN ? $1 : $0 }
            confusion[truth * classes + answer] += 1
            let own = row[truth]
            let ahead = row.indices.count { row[$0] > own || (row[$0] == own && $0 < truth) }
            if !own.isNaN && ahead < k { hitsInK += 1 }
            count += 1
        }
    }

    public mutating func add(logits: [Float], labels: [Int32]) {
        logits.withUnsafeBufferPointer { add(logits: $0, labels: labels) }
    }

    /// The share of right answers; 0 before any.
    public var top1: Double { share((0..<classes).reduce(0) { $0 + confusion[$1 * classes + $1] }, of: count) }

    /// The share of samples whose class is among the first k answers.
    public var topK: Double { share(hitsInK, of: count) }

    /// The share of right answers for each true class; nil for a class without samples.
    public var perClass: [Double?] {
        (0..<classes).map { truth in
            let total = confusion[truth * classes..<(truth + 1) * classes].reduce(0, +)
            return total > 0 ? share(confusion[truth * classes + truth], of: total) : nil
        }
    }

    private func share(_ part: Int, of whole: Int) -> Double { whole > 0 ? Double(part) / Double(whole) : 0 }
}
