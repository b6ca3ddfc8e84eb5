/// Asynchronous successive halving (ASHA; Li et al., arXiv 1810.05934, algorithm 2) of a fixed list of candidates by one
/// worker: which candidate to train how far next.
///
/// A rung is a number of epochs. A candidate whose score is among the best 1/η of those that have reached its rung is
/// promoted: it goes on, from where it stands, to the next one. Promotions come first, from the highest rung down; then
/// the next candidate that has not begun. The order depends on the scores alone, not on time.
///
/// Where a rung holds fewer than η candidates, none is among its best 1/η. The paper waits there for more of them; a
/// fixed list has no more, so the best one goes on alone: one candidate always reaches the last rung.
public struct SuccessiveHalving: Codable, Sendable, Equatable {
    /// What to do next: train a candidate from where it stands to the end of a rung.
    public struct Job: Codable, Sendable, Hashable {
        public let candidate: Int
        public let rung: Int

        public init(candidate: Int, rung: Int) { (self.candidate, self.rung) = (candidate, rung) }
    }

    /// How a job ended.
    public enum Outcome: Sendable {
        case score(Double)
        /// The candidate cannot go on, and counts no longer.
        case failed
        /// Time is up or somebody asked to stop; the same job is next again.
        case stopped
    }

    /// Numbers of the candidates, in the order in which they begin.
    public let candidates: [Int]
    /// Epochs in all at the end of each rung, increasing.
    public let epochs: [Int]
    public let eta: Int
    /// `scores[rung][i]` is that of `candidates[i]`, nil until it gets there.
    private var scores: [[Double?]]
    private var failed: [Int] = []

    public init(candidates: [Int], epochs: [Int], eta: Int) {
        precondition(!epochs.isEmpty && eta >= 2, "\(epochs.count) rungs, η \(eta)")
        (self.candidates, self.epochs, self.eta) = (candidates, epochs, eta)
        scores = epochs.map { _ in candidates.map { _ in nil } }
    }

    /// The ends of `count` rungs, each η times the one before, of which the last is `epochs`. Short trainings have fewer.
    public static func rungs(_ count: Int, upTo epochs: Int, eta: Int) -> [Int] {
        var ends = [epochs]
        while ends.count < count, ends[0] / eta >= 1 { ends.insert(ends[0] / eta, at: 0) }
        return ends
    }

    /// Whether the parts fit together: false for a file that was edited by hand.
    var isPossible: Bool {
        let places = scores.allSatisfy { $0.count == candidates.count }
        return eta >= 2 && !epochs.isEmpty && epochs[0] >= 1 && zip(epochs, epochs.dropFirst()).allSatisfy { $0 < $1 }
            && scores.count == epochs.count && places && Set(candidates).count == candidates.count
    }

    /// The next job, nil when the search is at its end.
    public var next: Job? {
        for rung in (0..<epochs.count - 1).reversed() {
            let ranked = ranking(rung)
            let promoted = ranked.prefix(ranked.count / eta).first { scores[rung + 1][$0] == nil }
            if let promoted { return Job(candidate: candidates[promoted], rung: rung + 1) }
        }
        let fresh = candidates.indices.first { scores[0][$0] == nil && !failed.contains(candidates[$0]) }
        if let fresh { return Job(candidate: candidates[fresh], rung: 0) }
        guard let highest = epochs.indices.last(where: { !ranking($0).isEmpty }), highest + 1 < epochs.count else {
            return nil
        }
        return Job(candidate: candidates[ranking(highest)[0]], rung: highest + 1)
    }

    public mutating func record(_ score: Double, of job: Job) {
        guard let place = candidates.firstIndex(of: job.candidate) else { return }
        scores[job.rung][place] = score
    }

    public mutating func drop(_ candidate: Int) { failed.append(candidate) }

    /// Trains until the search is at its end, or `train` stops.
    ///
    /// - Parameter didChange: hears of every result, to keep it
    /// - Returns: whether the end was reached
    public mutating func search(
        train: (Job) throws -> Outcome, didChange: (SuccessiveHalving) throws -> Void
    ) throws -> Bool {
        while let job = next {
            switch try train(job) {
            case .score(let score): record(score, of: job)
            case .failed: drop(job.candidate)
            case .stopped: return false
            }
            try didChange(self)
        }
        return true
    }

    /// Places of those that have reached a rung, the best first; among equals the one that began first.
    private func ranking(_ rung: Int) -> [Int] {
        candidates.indices.filter { scores[rung][$0] != nil && !failed.contains(candidates[$0]) }
            .sorted { (scores[rung][$1]!, $0) < (scores[rung][$0]!, $1) }
    }
}

extension SuccessiveHalving {
    /// About how many epochs all candidates together train when the last rung ends at `epochs`.
    static func expectedEpochs(candidates: Int, rungs: Int, upTo epochs: Int, eta: Int) -> Int {
        let ends = Self.rungs(rungs, upTo: epochs, eta: eta)
        var (survivors, total, previous) = (candidates, 0, 0)
        for end in ends {
            total += survivors * (end - previous)
            (survivors, previous) = (max(1, survivors / eta), end)
        }
        return total
    }

    /// The longest training, up to `limit` epochs, that lets the whole search take about `seconds`.
    public static func longest(
        candidates: Int, rungs: Int, eta: Int, secondsPerEpoch: Double, seconds: Double, limit: Int
    ) -> Int {
        let affordable = (1...limit).last {
            Double(expectedEpochs(candidates: candidates, rungs: rungs, upTo: $0, eta: eta)) * secondsPerEpoch
                <= seconds
        }
        return affordable ?? 1
    }
}

/// Places of the points that no other beats: none is cheaper and at least as good, or as cheap and better. In the order
/// of their costs.
public func paretoFront(_ points: [(cost: Double, score: Double)]) -> [Int] {
    let order = points.indices.sorted { a, b in
        (points[a].cost, -points[a].score, a) < (points[b].cost, -points[b].score, b)
    }
    var best = -Double.infinity
    return order.filter { index in
        guard points[index].score > best else { return false }
        best = points[index].score
        return true
    }
}
