/// The same elements under another shape: moves nothing.
package struct Reshape: Operation {
    package static let name = "reshape"
    package let target: Shape

    package init(target: Shape) { self.target = target }

    package func shape(_ inputs: [Shape]) -> Shape {
        precondition(inputs[0].count == target.count, "shape \(inputs[0]) cannot be read as \(target)")
        return target
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        Tensor(shape: shape, storage: inputs[0].storage)
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        [context.gradient.reshaped(context.inputShapes[0])]
    }

    package func cost(_ inputs: [Shape], _ output: Shape) -> Cost { Cost(multiplyAdds: 0, bytes: 0) }
}

extension Tensor {
    /// The same elements under another shape, without a copy.
    public func reshaped(_ shape: Shape) -> Tensor {
        shape == self.shape ? self : apply(Reshape(target: shape), [self])
    }
}
