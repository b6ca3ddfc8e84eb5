import Foundation
import Tessera
import Testing

@Suite struct RandomTests {
    static func moments(_ count: Int, _ draw: () -> Double) -> (mean: Double, variance: Double) {
        let values = (0..<count).map { _ in draw() }
        let mean = values.reduce(0, +) / Double(count)
        return (mean, values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(count))
    }

    @Test func uniformMoments() {
        var generator = RandomGenerator(seed: 1)
        var (low, high) = (Float(1), Float(0))
        let (mean, variance) = Self.moments(100_000) {
            let value = generator.uniform()
            (low, high) = (min(low, value), max(high, value))
            return Double(value)
        }
        #expect(low >= 0 && high < 1)
        // Four standard errors: √(1/12 / n) for the mean, √(1/180 / n) for the variance.
        #expect(abs(mean - 0.5) < 0.00365)
        #expect(abs(variance - 0.083333) < 0.00094)
    }

    @Test func normalMoments() {
        var generator = RandomGenerator(seed: 2)
        let (mean, variance) = Self.moments(100_000) { Double(generator.normal()) }
        #expect(abs(mean) < 0.01265)
        #expect(abs(variance - 1) < 0.0179)
        let tails = (0..<100_000).filter { _ in abs(generator.normal()) > 1.959964 }.count
        #expect(abs(tails - 5000) < 276)
    }

    @Test func truncatedNormalStaysInside() {
        var generator = RandomGenerator(seed: 3)
        let (mean, variance) = Self.moments(50_000) {
            let value = generator.truncatedNormal(standardDeviation: 1, bound: 2)
            #expect(abs(value) <= 2)
            return Double(value)
        }
        // The variance of a standard normal cut at ±2 is 0.7737.
        #expect(abs(mean) < 0.016 && abs(variance - 0.7737) < 0.02)
    }

    @Test func streamsResumeAndRepeat() {
        var generator = RandomGenerator(seed: 4)
        _ = (0..<10).map { _ in generator.next() }
        var resumed = generator
        #expect((0..<5).map { _ in generator.next() } == (0..<5).map { _ in resumed.next() })
        var (again, other) = (RandomGenerator(seed: 4), RandomGenerator(seed: 5))
        again.counter = 10
        var first = RandomGenerator(seed: 4)
        first.counter = 10
        #expect(again.next() == first.next())
        #expect(first.next() != other.next())
    }

    @Test func forksAreIndependent() {
        var parent = RandomGenerator(seed: 6)
        var (a, b, named) = (parent.fork(1), parent.fork(2), parent.fork("weight"))
        #expect(parent.counter == 0)
        let count = 50_000
        func draws(_ generator: inout RandomGenerator) -> [Double] {
            (0..<count).map { _ in Double(generator.uniform()) - 0.5 }
        }
        let streams = [draws(&parent), draws(&a), draws(&b), draws(&named)]
        for i in 0..<4 {
            for j in 0..<i {
                let correlation = zip(streams[i], streams[j]).reduce(0) { $0 + $1.0 * $1.1 } * 12 / Double(count)
                #expect(abs(correlation) < 0.0179)
            }
        }
        var repeated = RandomGenerator(seed: 6).fork("weight")
        #expect(Double(repeated.uniform()) - 0.5 == streams[3][0])
    }

    @Test func permutationsAreUniform() {
        var generator = RandomGenerator(seed: 7)
        var counts: [[Int]: Int] = [:]
        for _ in 0..<12_000 { counts[generator.permutation(3), default: 0] += 1 }
        #expect(counts.count == 6)
        for (order, count) in counts {
            #expect(order.sorted() == [0, 1, 2])
            // Four standard deviations of a binomial count: √(12000 · 1/6 · 5/6) = 40.8.
            #expect(abs(count - 2000) < 163)
        }
        #expect(generator.permutation(0).isEmpty && generator.permutation(1) == [0])
        #expect(generator.permutation(1000).sorted() == Array(0..<1000))
    }

    @Test(arguments: [(0.8, 0.8), (2, 5), (0.2, 1)]) func betaMoments(_ alpha: Double, _ beta: Double) {
        var generator = RandomGenerator(seed: 8)
        let (mean, variance) = Self.moments(40_000) {
            let value = generator.beta(alpha, beta)
            #expect(value >= 0 && value <= 1)
            return value
        }
        let sum = alpha + beta
        let expected = alpha * beta / (sum * sum * (sum + 1))
        let (center, error) = (alpha / sum, (expected / 40_000).squareRoot())
        #expect(abs(mean - center) < 4 * error)
        #expect(abs(variance - expected) < 0.05 * expected)
    }
}
