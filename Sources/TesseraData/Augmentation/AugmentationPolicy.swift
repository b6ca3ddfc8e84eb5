import Tessera

/// A random sequence of image operations: RandAugment (Cubuk et al. 2019, arXiv 1909.13719), AutoAugment (Cubuk et al.
/// 2018, arXiv 1805.09501) or 3-Augment (Touvron et al. 2022, arXiv 2204.07118), written as timm writes it.
///
/// `rand-m9-mstd0.5-inc1`: RandAugment of magnitude 9 with standard deviation 0.5 and the operations whose strength grows
/// with the magnitude. Parts: `m` magnitude, `n` operations per image (2), `p` probability of each (0.5), `mstd` deviation
/// (100 and more: uniform up to the magnitude), `mmax` upper bound (10), `inc` 0 or 1, `t3a` or `t3aw` the operations of
/// 3-Augment. `v0`, `v0r`, `original`, `originalr`, `3a`: a policy, with `mstd` only.
public struct AugmentationPolicy: Sendable, Equatable {
    /// One operation, how often it is applied, and how strongly.
    struct Step: Sendable, Equatable {
        let operation: ImageOperation
        let probability: Double
        let magnitude: Double

        init(_ operation: ImageOperation, _ probability: Double, _ magnitude: Double) {
            (self.operation, self.probability, self.magnitude) = (operation, probability, magnitude)
        }
    }

    private enum Choice: Sendable, Equatable {
        /// `count` steps, each drawn by weight.
        case steps([Step], weights: [Int], count: Int)
        /// One of the sequences.
        case sequences([[Step]])
    }

    private var choice: Choice
    private var deviation = 0.0
    private var maximum = 10.0

    /// - Throws: `DataError` that names the part which is not understood.
    public init(_ text: String) throws {
        let parts = text.split(separator: "-").map(String.init)
        guard let kind = parts.first, kind == "rand" || Self.policies[kind] != nil else {
            throw DataError(
                "augmentation \"\(text)\"",
                "starts with none of rand, \(Self.policies.keys.sorted().joined(separator: ", "))")
        }
        var (magnitude, count, probability, increasing, set) = (10.0, 2, 0.5, false, "")
        for part in parts.dropFirst() {
            let name = part.prefix { $0.isLetter }
            let value = part.dropFirst(name.count)
            let number = Double(value).flatMap { $0 >= 0 && $0 <= 1e6 ? $0 : nil }
            switch (name, number) {
            case ("mstd", let number?): deviation = number
            case ("mmax", let number?): maximum = number
            case ("m", let number?) where kind == "rand": magnitude = number
            case ("n", let number?) where kind == "rand" && number >= 1: count = Int(number)
            case ("p", let number?) where kind == "rand" && number <= 1: probability = number
            case ("inc", let number?) where kind == "rand": increasing = number != 0
            case ("t", _) where kind == "rand" && (value == "3a" || value == "3aw"): set = String(value)
            default: throw DataError("augmentation \"\(text)\"", "part \"\(part)\" is not understood")
            }
        }
        if let sequences = Self.policies[kind] {
            choice = .sequences(sequences)
            return
        }
        let weighted =
            switch set {
            case "3a": Self.threeAugment.map { ($0, 1) }
            case "3aw": Self.weightedThreeAugment
            default: (increasing ? Self.increasing : Self.plain).map { ($0, 1) }
            }
        choice = .steps(
            weighted.map { Step($0.0, probability, magnitude) }, weights: weighted.map(\.1), count: count)
    }

    /// The changed image; `filter` nil draws bilinear or bicubic for each geometric operation.
    func apply(_ image: Image, filter: Resampling?, fill: [UInt8], random: inout RandomGenerator) -> Image {
        var result = image
        for step in draw(&random) {
            // `< probability` so that a probability of 1 always holds.
            guard Double(random.uniform()) < step.probability else { continue }
            let magnitude = max(0, min(maximum, drawMagnitude(step.magnitude, &random)))
            let negative = step.operation.isSigned && random.uniform() < 0.5
            let chosen = filter ?? (random.uniform() < 0.5 ? .bilinear : .bicubic)
            result = step.operation.apply(
                result, argument: step.operation.argument(magnitude: magnitude, negative: negative), filter: chosen,
                fill: fill, random: &random)
        }
        return result
    }

    private func drawMagnitude(_ mean: Double, _ random: inout RandomGenerator) -> Double {
        if deviation >= 100 { return Double(random.uniform()) * mean }
        return deviation > 0 ? mean + deviation * Double(random.normal()) : mean
    }

    private func draw(_ random: inout RandomGenerator) -> [Step] {
        switch choice {
        case .sequences(let sequences): return sequences[random.integer(below: sequences.count)]
        case .steps(let steps, let weights, let count):
            return (0..<count).map { _ in
                var ticket = random.integer(below: weights.reduce(0, +))
                return steps[
                    weights.firstIndex { weight in
                        ticket -= weight
                        return ticket < 0
                    }!]
            }
        }
    }
}
