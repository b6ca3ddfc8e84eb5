import CKernels

/// Sets whole samples (entries of the first axis) to zero with probability `rate` and divides the others by 1 − `rate`.
///
/// "Deep Networks with Stochastic Depth" (2016), arXiv 1603.09382.
/// - Precondition: 0 ≤ `rate` < 1.
public func dropPath(_ x: Tensor, rate: Float, seed: UInt64) -> Tensor {
    precondition(rate >= 0 && rate < 1, "dropPath: a rate of \(rate)")
    guard rate > 0 else { return x }
    var factors = [Float](repeating: 0, count: x.shape[0])
    for sample in samplesKept(of: x.shape[0], rate: rate, seed: seed) { factors[Int(sample)] = 1 / (1 - rate) }
    return x * Tensor(factors, Shape([x.shape[0]] + [Int](repeating: 1, count: x.rank - 1)))
}

/// The samples of which ``dropPath(_:rate:seed:)`` keeps what it is given, in ascending order.
package func samplesKept(of count: Int, rate: Float, seed: UInt64) -> [Int32] {
    var generator = RandomGenerator(seed: seed)
    return (0..<Int32(count)).filter { _ in generator.uniform() >= rate }
}

/// x, and a factor times a branch added to some of its samples.
struct AddSamples: Operation {
    static let name = "addSamples"
    let samples: [Int32]
    let factor: Float

    func shape(_ inputs: [Shape]) -> Shape {
        let (x, branch) = (inputs[0], inputs[1])
        precondition(
            branch == x.replacing(0, with: samples.count) && samples.allSatisfy { $0 >= 0 && $0 < x[0] },
            "addSamples: a branch of \(branch) for \(samples.count) samples of \(x)")
        return x
    }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        withExtendedLifetime((inputs, output)) {
            tk_add_entries(
                inputs[0].pointer, inputs[1].pointer, samples, factor, output.mutablePointer, Int64(shape[0]),
                Int64(samples.count), Int64(shape.count / max(1, shape[0])))
        }
        return output
    }

    func backward(_ context: BackwardContext) -> [Tensor?] {
        guard context.wanted[1] else { return [context.gradient, nil] }
        let (gradient, result) = (context.gradient, Tensor(uninitialized: context.inputShapes[1]))
        withExtendedLifetime((gradient, result)) {
            tk_add_entries_backward(
                gradient.pointer, samples, factor, result.mutablePointer, Int64(samples.count),
                Int64(result.count / max(1, samples.count)))
        }
        return [context.wanted[0] ? gradient : nil, result]
    }
}

extension Tensor {
    /// `factor` · `branch` added to the given samples (entries of the first axis); the others stay.
    ///
    /// - Parameters:
    ///   - branch: `[samples.count, ...]`
    ///   - samples: in ascending order, each once
    package func adding(_ branch: Tensor, times factor: Float, toSamples samples: [Int32]) -> Tensor {
        apply(AddSamples(samples: samples, factor: factor), [self, branch])
    }
}
