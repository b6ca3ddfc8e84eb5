import CKernels

/// exp(x) / Σ exp(x) over the last axis, or its logarithm.
package struct Softmax: Operation {
    package static let name = "softmax"
    package let isLogarithm: Bool

    package func shape(_ inputs: [Shape]) -> Shape { inputs[0] }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let columns = shape[-1]
        let rows = columns == 0 ? 0 : shape.count / columns
        let output = Tensor(uninitialized: shape)
        withExtendedLifetime((inputs, output)) {
            let (x, y) = (inputs[0].pointer, output.mutablePointer)
            if isLogarithm {
                tk_log_softmax(x, y, Int64(rows), Int64(columns))
            } else {
                tk_softmax(x, y, Int64(rows), Int64(columns))
            }
        }
        if saved.isNeeded { saved.tensors = [output] }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let (g, y) = (context.gradient, context.saved[0])
        if isLogarithm { return [g - y.exp() * g.sum(axes: [-1], keepingAxes: true)] }
        return [y * (g - (g * y).sum(axes: [-1], keepingAxes: true))]
    }
}

extension Tensor {
    /// exp(x) / Σ exp(x) along an axis.
    public func softmax(axis: Int) -> Tensor { alongLast(axis) { apply(Softmax(isLogarithm: false), [$0]) } }

    /// x − log Σ exp(x) along an axis.
    public func logSoftmax(axis: Int) -> Tensor { alongLast(axis) { apply(Softmax(isLogarithm: true), [$0]) } }

    /// Swaps `axis` with the last one around `body`.
    private func alongLast(_ axis: Int, _ body: (Tensor) -> Tensor) -> Tensor {
        let axis = shape.normalized(axis)
        guard axis != rank - 1 else { return body(self) }
        var order = Array(0..<rank)
        order.swapAt(axis, rank - 1)
        return body(transposed(order)).transposed(order)
    }
}
