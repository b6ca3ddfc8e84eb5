import CKernels

/// max(x / 2 − t, 0)² over the last axis, with the t that makes them sum to one.
struct Entmax: Operation {
    static let name = "entmax"

    func shape(_ inputs: [Shape]) -> Shape { inputs[0] }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        let columns = shape[-1]
        withExtendedLifetime((inputs, output)) {
            tk_entmax(
                inputs[0].pointer, output.mutablePointer, columns == 0 ? 0 : Int64(shape.count / columns),
                Int64(columns))
        }
        if saved.isNeeded { saved.tensors = [output] }
        return output
    }

    /// With s = √y: dx = s · (g − Σ s g / Σ s).
    func backward(_ context: BackwardContext) -> [Tensor?] {
        let (g, s) = (context.gradient, context.saved[0].squareRoot())
        let mean = (s * g).sum(axes: [-1], keepingAxes: true) / s.sum(axes: [-1], keepingAxes: true)
        return [s * (g - mean)]
    }
}

extension Tensor {
    /// 1.5-entmax over the last axis: a softmax that gives small values no weight at all.
    ///
    /// "Sparse Sequence-to-Sequence Models" (2019), arXiv 1905.05702. The result is max(x / 2 − t, 0)², where t makes its
    /// sum one.
    public func entmax() -> Tensor { apply(Entmax(), [self]) }
}
