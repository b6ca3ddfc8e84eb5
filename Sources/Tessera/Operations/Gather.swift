import CKernels

/// Picks positions along an axis.
package struct Gather: DirectOperation, AccumulatingOperation {
    package static let name = "gather"
    package let indices: [Int32]
    package let axis: Int

    package func shape(_ inputs: [Shape]) -> Shape {
        let extent = inputs[0][axis]
        precondition(
            indices.allSatisfy { $0 >= 0 && $0 < extent }, "gathered: an index is outside axis \(axis) of \(inputs[0])")
        return inputs[0].replacing(axis, with: indices.count)
    }

    package func compute(_ inputs: [Tensor], into output: Tensor) {
        let x = inputs[0]
        let (outer, extent, inner) = x.shape.around(axis)
        withExtendedLifetime((x, output)) {
            tk_gather(x.pointer, indices, output.mutablePointer, outer, extent, Int64(indices.count), inner)
        }
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let result = Tensor(uninitialized: context.inputShapes[0])
        scatter(context.gradient, to: result, adds: false)
        return [result]
    }

    package func accumulate(_ context: BackwardContext, into sum: Tensor) {
        scatter(context.gradient, to: sum, adds: true)
    }

    private func scatter(_ gradient: Tensor, to result: Tensor, adds: Bool) {
        let (outer, extent, inner) = result.shape.around(axis)
        withExtendedLifetime((gradient, result)) {
            tk_gather_backward(
                gradient.pointer, indices, adds, result.mutablePointer, outer, extent, Int64(indices.count), inner)
        }
    }
}

extension Tensor {
    /// The given positions along an axis, in the given order. The gradients of a position that occurs more than once
    /// are added up in the order of the indices.
    public func gathered(_ indices: [Int32], axis: Int) -> Tensor {
        apply(Gather(indices: indices, axis: shape.normalized(axis)), [self])
    }
}
