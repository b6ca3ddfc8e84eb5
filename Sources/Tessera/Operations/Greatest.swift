import CKernels

/// The greatest along one axis, which stays with extent 1.
package struct Greatest: Operation {
    package static let name = "max"
    package let axis: Int

    package func shape(_ inputs: [Shape]) -> Shape { inputs[0].replacing(axis, with: 1) }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let (x, output) = (inputs[0], Tensor(uninitialized: shape))
        let (outer, count, inner) = x.shape.around(axis)
        withExtendedLifetime((x, output)) { tk_greatest(x.pointer, output.mutablePointer, outer, count, inner) }
        if saved.isNeeded { saved.tensors = [x, output] }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let (x, y) = (context.saved[0], context.saved[1])
        let result = Tensor(uninitialized: x.shape)
        let (outer, count, inner) = x.shape.around(axis)
        withExtendedLifetime((context, result)) {
            tk_greatest_backward(
                x.pointer, y.pointer, context.gradient.pointer, result.mutablePointer, outer, count, inner)
        }
        return [result]
    }
}

extension Shape {
    /// The shape as three extents: before, at, and behind an axis.
    func around(_ axis: Int) -> (outer: Int64, count: Int64, inner: Int64) {
        let axis = normalized(axis)
        let (before, behind) = (dimensions[..<axis].reduce(1, *), dimensions[(axis + 1)...].reduce(1, *))
        return (Int64(before), Int64(dimensions[axis]), Int64(behind))
    }
}

extension Tensor {
    /// The greatest over `axes` (negative ones count from the end), which disappear unless they are kept with extent 1.
    ///
    /// The gradient goes to the first of equals.
    public func max(axes: [Int], keepingAxes: Bool = false) -> Tensor {
        let axes = Set(axes.map(shape.normalized))
        // The last axis first: a tie is then decided for the first element in memory.
        let kept = axes.sorted(by: >).reduce(self) { apply(Greatest(axis: $1), [$0]) }
        let left = kept.shape.dimensions.indices.filter { !axes.contains($0) }
        return keepingAxes ? kept : kept.reshaped(Shape(left.map { kept.shape[$0] }))
    }
}
