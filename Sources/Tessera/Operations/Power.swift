import CKernels

/// x to a constant power, element by element.
package struct Power: Operation {
    package static let name = "power"
    package let exponent: Float

    package func shape(_ inputs: [Shape]) -> Shape { inputs[0] }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let (x, output) = (inputs[0], Tensor(uninitialized: shape))
        withExtendedLifetime((x, output)) { tk_power(x.pointer, exponent, output.mutablePointer, Int64(x.count)) }
        if saved.isNeeded { saved.tensors = [x] }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        [context.gradient * context.saved[0].power(exponent - 1) * exponent]
    }
}

extension Tensor {
    /// xᵖ for a constant p.
    public func power(_ exponent: Float) -> Tensor { apply(Power(exponent: exponent), [self]) }
}
