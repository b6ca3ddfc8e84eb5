/// Which number of bits every unit gets, so that the average over all values meets a budget: Greedy MP of "MPTQ-ViT"
/// (2024), arXiv 2401.14895, with this package's definition of its score.
///
/// All units start at the top of the ladder. Again and again the unit steps down whose loss grows least for what it saves:
/// the growth, at least 0, over the share of all bits of one step that this step saves.
public struct GreedyAllocation: Sendable, Equatable {
    public struct Step: Sendable, Equatable {
        public let unit: Int
        public let bits: Int
        public let score: Double
        /// Over all values after this step.
        public let averageBits: Double
    }

    /// From the most to the fewest.
    public static let ladder = [8, 6, 5, 4]

    /// Of each unit.
    public private(set) var bits: [Int]
    public private(set) var steps: [Step] = []
    public private(set) var averageBits: Double

    /// - Parameters:
    ///   - sizes: the values of each unit
    ///   - sensitivity: `[unit][place on the ladder]`: the loss with this unit there and all others on top
    ///   - target: the average; the first step that reaches it is the last
    public init(sizes: [Int], sensitivity: [[Double]], target: Double) {
        let ladder = GreedyAllocation.ladder
        let total = Double(sizes.reduce(0, +))
        var places = [Int](repeating: 0, count: sizes.count)
        func average() -> Double {
            zip(sizes, places).reduce(0) { $0 + Double($1.0) * Double(ladder[$1.1]) } / total
        }
        averageBits = average()
        while averageBits > target + 1e-9 {
            var best: (unit: Int, score: Double)?
            for unit in sizes.indices where places[unit] + 1 < ladder.count {
                let growth = sensitivity[unit][places[unit] + 1] - sensitivity[unit][places[unit]]
                let saved = Double(sizes[unit] * (ladder[places[unit]] - ladder[places[unit] + 1])) / total
                let score = max(growth, 0) / saved
                if score < best?.score ?? .infinity { best = (unit, score) }
            }
            guard let best else { break }
            places[best.unit] += 1
            averageBits = average()
            steps.append(
                Step(
                    unit: best.unit, bits: ladder[places[best.unit]], score: best.score, averageBits: averageBits))
        }
        bits = places.map { ladder[$0] }
    }
}
