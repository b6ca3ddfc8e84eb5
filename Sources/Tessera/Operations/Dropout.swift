import CKernels

/// x · mask / (1 − rate), the mask drawn again in the backward pass instead of kept. What is held in bfloat16 stays so.
struct DropoutOperation: Operation {
    static let name = "dropout"
    let rate: Float
    let seed: UInt64

    func shape(_ inputs: [Shape]) -> Shape { inputs[0] }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor { masked(inputs[0]) }

    func backward(_ context: BackwardContext) -> [Tensor?] { [masked(context.gradient)] }

    private func masked(_ x: Tensor) -> Tensor {
        let (pointer, isRounded) = x.operand
        let output = isRounded ? Tensor(uninitializedRounded: x.shape) : Tensor(uninitialized: x.shape)
        withExtendedLifetime((x, output)) {
            tk_dropout(pointer, output.target.pointer, isRounded, Int64(x.count), rate, seed)
        }
        return output
    }
}

/// Sets elements to zero with probability `rate` and divides the others by 1 − `rate`.
///
/// "Dropout" (2014), JMLR 15. The mask is a function of `seed` and the element's index.
/// - Precondition: 0 ≤ `rate` < 1.
public func dropout(_ x: Tensor, rate: Float, seed: UInt64) -> Tensor {
    precondition(rate >= 0 && rate < 1, "dropout: a rate of \(rate)")
    return rate == 0 ? x : apply(DropoutOperation(rate: rate, seed: seed), [x])
}

extension Tensor {
    /// The sum of all squares, in double precision.
    public var sumOfSquares: Double { withExtendedLifetime(self) { tk_sum_of_squares(pointer, Int64(count)) } }
}
