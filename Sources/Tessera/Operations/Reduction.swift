import CKernels

/// The sum over some axes, times a factor (1 / count for a mean).
package struct Sum: Operation {
    package static let name = "sum"
    package let axes: [Int]
    package let keepsAxes: Bool
    package let isMean: Bool

    private func kept(_ input: Shape) -> Shape { axes.reduce(input) { $0.replacing($1, with: 1) } }

    package func shape(_ inputs: [Shape]) -> Shape {
        let kept = kept(inputs[0])
        if keepsAxes { return kept }
        return Shape(kept.dimensions.enumerated().filter { !axes.contains($0.offset) }.map(\.element))
    }

    private func factor(_ input: Shape) -> Float {
        isMean ? 1 / Float(max(1, axes.reduce(1) { $0 * input[$1] })) : 1
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        // Axes that lie side by side are one axis; from the last group to the first, each sum shortens the tensor.
        var current = inputs[0]
        let scale = factor(current.shape)
        var groups: [ClosedRange<Int>] = []
        for axis in axes {
            if let last = groups.last, last.upperBound + 1 == axis {
                groups[groups.count - 1] = last.lowerBound...axis
            } else {
                groups.append(axis...axis)
            }
        }
        for (index, group) in groups.reversed().enumerated() {
            let extents = current.shape.dimensions
            let outer = extents[..<group.lowerBound].reduce(1, *)
            let middle = extents[group].reduce(1, *)
            let inner = extents[(group.upperBound + 1)...].reduce(1, *)
            let output = Tensor(uninitialized: group.reduce(current.shape) { $0.replacing($1, with: 1) })
            withExtendedLifetime((current, output)) {
                tk_sum(
                    current.pointer, output.mutablePointer, Int64(outer), Int64(middle), Int64(inner),
                    index == 0 ? scale : 1)
            }
            current = output
        }
        return Tensor(shape: shape, storage: groups.isEmpty ? (current * scale).storage : current.storage)
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let input = context.inputShapes[0]
        let gradient = context.gradient.reshaped(kept(input))
        let scaled = isMean ? gradient * factor(input) : gradient
        return [scaled.broadcast(to: input)]
    }
}

extension Tensor {
    /// The sum over `axes` (negative ones count from the end), which disappear unless they are kept with extent 1.
    public func sum(axes: [Int], keepingAxes: Bool = false) -> Tensor { reduced(axes, keepingAxes, isMean: false) }

    /// The mean over `axes`.
    public func mean(axes: [Int], keepingAxes: Bool = false) -> Tensor { reduced(axes, keepingAxes, isMean: true) }

    /// The sum of all elements, a scalar.
    public func sum() -> Tensor { sum(axes: Array(0..<rank)) }

    /// The mean of all elements, a scalar.
    public func mean() -> Tensor { mean(axes: Array(0..<rank)) }

    private func reduced(_ axes: [Int], _ keepingAxes: Bool, isMean: Bool) -> Tensor {
        let positive = Set(axes.map(shape.normalized)).sorted()
        return apply(Sum(axes: positive, keepsAxes: keepingAxes, isMean: isMean), [self])
    }
}
