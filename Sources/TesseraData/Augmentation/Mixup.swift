import Tessera

/// Mixup (Zhang et al. 2017, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) over a batch, as timm
/// applies them: the partner of a sample is the one at the mirrored place of the batch.
///
/// With λ ~ Beta(α, α), mixup makes `λ·x + (1-λ)·x'`; cutmix replaces a box of 1-λ of the area by x' and takes λ from the
/// box's true area. The target is `λ·y + (1-λ)·y'` over one-hot labels smoothed to `s/C` off and `1 - s + s/C` on.
public struct Mixup: Codable, Sendable, Equatable {
    /// Who shares a λ: the whole batch, the two samples of a pair, or nobody.
    public enum Mode: String, Codable, Sendable {
        case batch, pair, elem
    }

    /// α of mixup; 0 turns it off.
    public var mixupAlpha: Double
    /// α of cutmix; 0 turns it off.
    public var cutmixAlpha: Double
    /// How often anything is mixed at all.
    public var probability: Double
    /// How often cutmix is chosen when both are on.
    public var switchProbability: Double
    public var mode: Mode
    public var labelSmoothing: Double

    public init(
        mixupAlpha: Double = 0.8, cutmixAlpha: Double = 1, probability: Double = 1, switchProbability: Double = 0.5,
        mode: Mode = .batch, labelSmoothing: Double = 0.1
    ) {
        self.mixupAlpha = mixupAlpha
        self.cutmixAlpha = cutmixAlpha
        self.probability = probability
        self.switchProbability = switchProbability
        self.mode = mode
        self.labelSmoothing = labelSmoothing
    }

    /// What happens to one sample.
    enum Draw: Equatable {
        case nothing
        case mix(Float)
        /// Rows and columns that come from the partner.
        case cut(rows: Range<Int>, columns: Range<Int>)
    }

    /// Mixes the images of a batch and sets its targets. A batch of odd size is not mixed, only its targets are set.
    func apply(to batch: Batch, classes: Int, random: inout RandomGenerator) {
        let count = batch.count
        var draws = [Draw](repeating: .nothing, count: count)
        if count % 2 == 0 && count > 0 {
            switch mode {
            case .batch: draws = Array(repeating: draw(batch.height, batch.width, &random), count: count)
            case .elem: draws = draws.map { _ in draw(batch.height, batch.width, &random) }
            case .pair:
                for i in 0..<count / 2 {
                    draws[i] = draw(batch.height, batch.width, &random)
                    draws[count - 1 - i] = draws[i]
                }
            }
        }
        var weights: [Float] = []
        for view in batch.sample(0) {
            weights = Self.mix(
                view.baseAddress!, height: batch.height, width: batch.width, channels: batch.channels, draws: draws)
        }
        batch.targets = Self.targets(
            labels: batch.labels, weights: weights, classes: classes, smoothing: Float(labelSmoothing))
    }

    private func draw(_ height: Int, _ width: Int, _ random: inout RandomGenerator) -> Draw {
        guard Double(random.uniform()) < probability else { return .nothing }
        let cut: Bool
        switch (mixupAlpha > 0, cutmixAlpha > 0) {
        case (true, true): cut = Double(random.uniform()) < switchProbability
        case (false, true): cut = true
        case (true, false): cut = false
        case (false, false): return .nothing
        }
        let lambda = cut ? random.beta(cutmixAlpha, cutmixAlpha) : random.beta(mixupAlpha, mixupAlpha)
        return cut ? Self.box(lambda, height, width, &random) : .mix(Float(lambda))
    }

    private static func box(_ lambda: Double, _ height: Int, _ width: Int, _ random: inout RandomGenerator) -> Draw {
        func side(_ length: Int) -> Range<Int> {
            let cut = Int(Double(length) * (1 - lambda).squareRoot())
            let centre = random.integer(below: length)
            return max(0, centre - cut / 2)..<min(length, centre + (cut + 1) / 2)
        }
        let rows = side(height)
        return .cut(rows: rows, columns: side(width))
    }

    /// Mixes samples in place and returns for each the weight λ of its own label.
    static func mix(
        _ images: UnsafeMutablePointer<Float>, height: Int, width: Int, channels: Int, draws: [Draw]
    ) -> [Float] {
        let count = draws.count
        let size = height * width * channels
        // A pair is mixed together, element by element, since each partner needs what the other was before.
        for i in 0..<count / 2 {
            let j = count - 1 - i
            let (a, b) = (images + i * size, images + j * size)
            for y in 0..<height {
                for x in 0..<width {
                    for k in (y * width + x) * channels..<(y * width + x + 1) * channels {
                        let (own, other) = (a[k], b[k])
                        a[k] = mixed(own, other, draws[i], y, x)
                        b[k] = mixed(other, own, draws[j], y, x)
                    }
                }
            }
        }
        return draws.map { draw in
            switch draw {
            case .nothing: 1
            case .mix(let lambda): lambda
            case .cut(let rows, let columns): 1 - Float(rows.count * columns.count) / Float(height * width)
            }
        }
    }

    @inline(__always)
    private static func mixed(_ own: Float, _ other: Float, _ draw: Draw, _ y: Int, _ x: Int) -> Float {
        switch draw {
        case .nothing: own
        case .mix(let lambda): own * lambda + other * (1 - lambda)
        case .cut(let rows, let columns): rows.contains(y) && columns.contains(x) ? other : own
        }
    }

    /// Soft targets `[count, classes]`: each label with its weight, the mirrored sample's label with the rest.
    static func targets(labels: [Int32], weights: [Float], classes: Int, smoothing: Float) -> [Float] {
        let off = smoothing / Float(classes)
        let on = 1 - smoothing + off
        var targets = [Float](repeating: off, count: labels.count * classes)
        for (i, weight) in weights.enumerated() {
            let (own, other) = (Int(labels[i]), Int(labels[labels.count - 1 - i]))
            targets[i * classes + own] = own == other ? on : weight * on + (1 - weight) * off
            if own != other { targets[i * classes + other] = weight * off + (1 - weight) * on }
        }
        return targets
    }
}
