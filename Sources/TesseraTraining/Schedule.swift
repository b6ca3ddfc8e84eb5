import Foundation

/// Learning rates over time, in the unit of the caller: epochs or updates.
public enum Schedule {
    /// timm's cosine with warm-up.
    ///
    /// t < warm-up: start + t · (base − start) / warm-up; then min + ½ (base − min)(1 + cos(π t / total)); from `total`
    /// on: min. The cosine counts from 0, not from the end of the warm-up, unless `prefixed`.
    public struct Cosine: Codable, Sendable, Equatable {
        public var base: Double
        public var minimum: Double
        public var total: Double
        public var warmup: Double
        public var warmupStart: Double
        public var prefixed: Bool

        public init(
            base: Double, minimum: Double, total: Double, warmup: Double, warmupStart: Double, prefixed: Bool = false
        ) {
            (self.base, self.minimum, self.total) = (base, minimum, total)
            (self.warmup, self.warmupStart, self.prefixed) = (warmup, warmupStart, prefixed)
        }

        public func callAsFunction(_ t: Double) -> Double {
            if t < warmup { return warmupStart + t * (base - warmupStart) / warmup }
            let time = prefixed ? t - warmup : t
            guard time < total else { return minimum }
            return minimum + 0.5 * (base - minimum) * (1 + cos(.pi * time / total))
        }
    }

    /// MAE's cosine, by fractional epoch: linear from 0 to base, then a cosine over what is left.
    public static func mae(_ epoch: Double, base: Double, minimum: Double, warmup: Double, total: Double) -> Double {
        if epoch < warmup { return base * epoch / warmup }
        return minimum + (base - minimum) * 0.5 * (1 + cos(.pi * (epoch - warmup) / (total - warmup)))
    }

    /// Layer-wise decay (BEiT, MAE): the factor of layer `i` of 0 ... depth + 1 is decay^(depth + 1 − i); 0 is the
    /// embedding, 1 ... depth the blocks, depth + 1 the head.
    public static func layerScales(decay: Double, depth: Int) -> [Double] {
        (0...depth + 1).map { pow(decay, Double(depth + 1 - $0)) }
    }
}
