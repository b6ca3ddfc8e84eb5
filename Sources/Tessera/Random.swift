import Foundation

/// A counter-based random generator: the n-th number depends on the key and on n alone, so a stream can be saved as two
/// integers, resumed anywhere, and forked into independent streams without drawing from it.
///
/// The mixing function is SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
public struct RandomGenerator: RandomNumberGenerator, Sendable, Codable, Equatable {
    /// Names the stream.
    public let key: UInt64
    /// How many numbers have been drawn.
    public var counter: UInt64 = 0

    public init(seed: UInt64) { key = Self.mix(seed &+ 0x5445_5353_4552_4131) }

    private init(key: UInt64) { self.key = key }

    /// An independent stream for each label; forking draws nothing from this one.
    public func fork(_ label: UInt64) -> RandomGenerator {
        RandomGenerator(key: Self.mix(key ^ Self.mix(label &+ 0x9E37_79B9_7F4A_7C15)))
    }

    /// An independent stream named by text, such as a parameter's key.
    public func fork(_ label: String) -> RandomGenerator {
        fork(label.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 })
    }

    public mutating func next() -> UInt64 {
        counter &+= 1
        return Self.mix(key &+ counter &* 0x9E37_79B9_7F4A_7C15)
    }

    /// Uniform in 0 ..< 1, with 24 random bits: every value is an exact `Float`.
    public mutating func uniform() -> Float { Float(next() >> 40) * 0x1p-24 }

    /// Uniform in `low` ..< `high`.
    public mutating func uniform(_ low: Float, _ high: Float) -> Float { low + (high - low) * uniform() }

    /// Standard normal, by the Box-Muller transform (two uniforms a number, no state kept between calls).
    public mutating func normal() -> Float {
        let radius = (-2 * Foundation.log(Double(uniform()) + 0x1p-25)).squareRoot()
        return Float(radius * Foundation.cos(2 * Double.pi * Double(uniform())))
    }

    /// Normal with mean 0, cut at ±`bound` (in the unit of `standardDeviation`) by drawing again.
    public mutating func truncatedNormal(standardDeviation: Float, bound: Float) -> Float {
        while true {
            let value = normal() * standardDeviation
            if abs(value) <= bound { return value }
        }
    }

    /// An integer in 0 ..< `count`, unbiased.
    public mutating func integer(below count: Int) -> Int { Int.random(in: 0..<count, using: &self) }

    /// A permutation of 0 ..< `count` (Fisher-Yates).
    public mutating func permutation(_ count: Int) -> [Int] {
        var order = Array(0..<count)
        for i in stride(from: count - 1, to: 0, by: -1) { order.swapAt(i, integer(below: i + 1)) }
        return order
    }

    /// Beta(α, β), through two gamma variates (Marsaglia and Tsang 2000).
    public mutating func beta(_ alpha: Double, _ beta: Double) -> Double {
        let x = gamma(alpha)
        let y = gamma(beta)
        return x + y > 0 ? x / (x + y) : 0.5
    }

    private mutating func gamma(_ shape: Double) -> Double {
        if shape < 1 { return gamma(shape + 1) * pow(Double(uniform()) + 0x1p-25, 1 / shape) }
        let d = shape - 1.0 / 3
        let c = 1 / (9 * d).squareRoot()
        while true {
            let x = Double(normal())
            let v = pow(1 + c * x, 3)
            guard v > 0 else { continue }
            let u = Double(uniform()) + 0x1p-25
            if Foundation.log(u) < 0.5 * x * x + d - d * v + d * Foundation.log(v) { return d * v }
        }
    }

    private static func mix(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
