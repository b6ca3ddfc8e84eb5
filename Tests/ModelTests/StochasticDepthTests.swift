import Tessera
import TesseraNN
import Testing

/// Branches that run only on the samples that keep them, against all of them times a mask.
@Suite struct StochasticDepthTests {
    private struct Result {
        var output: Tensor
        var gradients: [Tensor]
        /// How many samples the branch ran on.
        var ran: [Int]
    }

    private func run(seed: UInt64, rate: Float, skips: Bool) throws -> Result {
        var random = RandomGenerator(seed: 9)
        func leaf(_ shape: Shape) -> Tensor {
            Tape.leaf(Tensor((0..<shape.count).map { _ in random.uniform(-1, 1) }, shape))
        }
        let leaves = [leaf([5, 4, 8]), leaf([8, 8]), leaf([8])]
        let (path, tape) = (DropPath(rate), Tape())
        var ran: [Int] = []
        func branch(_ x: Tensor, _ residual: Tensor?) -> Tensor {
            ran.append(x.shape[0])
            return linear(
                layerNorm(x, weight: nil, bias: nil, epsilon: 1e-3), weight: leaves[1], bias: leaves[2],
                residual: residual)
        }
        let output = TrainingPass(RandomGenerator(seed: seed)).run {
            tape.record {
                // Twice, so that a gradient is added to one that is there.
                var x = leaves[0] * 1
                for _ in 0..<2 {
                    x = skips ? path.adding(to: x, branch) : x + path(branch(x, nil))
                }
                return x
            }
        }
        let cotangent = Tensor((0..<output.count).map { Float($0 % 7) - 3 }, output.shape)
        let gradients = tape.gradients(of: output, cotangent: cotangent)
        return Result(output: output, gradients: try leaves.map { try #require(gradients[$0]) }, ran: ran)
    }

    @Test func droppedBranchesAreZeroAndNotComputed() throws {
        var counts: Set<Int> = []
        for (seed, rate) in (0..<12).flatMap({ seed in [0.2, 0.5, 0.9].map { (seed, Float($0)) } }) {
            let (skipped, masked) = (
                try run(seed: UInt64(seed), rate: rate, skips: true),
                try run(seed: UInt64(seed), rate: rate, skips: false)
            )
            #expect(relativeError(skipped.output, masked.output) <= 1e-6)
            for (a, b) in zip(skipped.gradients, masked.gradients) {
                let difference = (a - b).scalars.reduce(0) { max($0, abs($1)) }
                #expect(difference <= 1e-5 * max(1, b.scalars.reduce(0) { max($0, abs($1)) }), "\(seed), \(rate)")
            }
            #expect(masked.ran == [5, 5])
            counts.formUnion(skipped.ran)
        }
        // All of them, some, and the one that stands in where all are dropped.
        #expect(counts == [1, 2, 3, 4, 5])
    }

    /// Outside training the residual reaches the branch, which adds it in its last product.
    @Test func nothingIsDroppedOutsideTraining() {
        let x = Tensor(repeating: 2, [3, 4])
        let y = DropPath(0.9).adding(to: x) { samples, residual in
            #expect(samples.shape == [3, 4] && residual != nil)
            return samples * 3 + residual!
        }
        #expect(y.scalars == [Float](repeating: 8, count: 12))
        #expect(DropPath(0.9).adding(to: x) { $0 * 3 }.scalars == y.scalars)
    }
}
