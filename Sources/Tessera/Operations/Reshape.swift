/// The same elements under another shape: moves nothing.
struct Reshape: Operation {
    static let name = "reshape"
    let target: Shape

    func shape(_ inputs: [Shape]) -> Shape {
        precondition(inputs[0].count == target.count, "shape \(inputs[0]) cannot be read as \(target)")
        return target
    }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        Tensor(shape: shape, storage: inputs[0].storage)
    }

    func backward(_ context: BackwardContext) -> [Tensor?] { [context.gradient.reshaped(context.inputShapes[0])] }

    func cost(_ inputs: [Shape], _ output: Shape) -> Cost { Cost(multiplyAdds: 0, bytes: 0) }
}

extension Tensor {
    /// The same elements under another shape, without a copy.
    public func reshaped(_ shape: Shape) -> Tensor {
        shape == self.shape ? self : apply(Reshape(target: shape), [self])
    }
}
