import CKernels

/// The axes in another order.
package struct Transpose: Operation {
    package static let name = "transpose"
    /// The result's axis i is the input's axis `order[i]`.
    package let order: [Int]

    package func shape(_ inputs: [Shape]) -> Shape {
        precondition(
            order.sorted() == Array(0..<inputs[0].rank) && order.count <= 8,
            "transposed: \(order) does not reorder the axes of \(inputs[0])")
        return Shape(order.map { inputs[0][$0] })
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        let extents = inputs[0].shape
        withExtendedLifetime((inputs, output)) {
            tk_permute(
                inputs[0].pointer, output.mutablePointer, extents.dimensions.map(Int64.init),
                order.indices.map { Int64(extents.stride($0)) }, order.map(Int32.init), Int32(order.count))
        }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        var inverse = order
        for (to, from) in order.enumerated() { inverse[from] = to }
        return [context.gradient.transposed(inverse)]
    }
}

/// Tensors one after the other along an axis.
package struct Concatenate: Operation {
    package static let name = "concatenate"
    package let axis: Int

    package func shape(_ inputs: [Shape]) -> Shape {
        let sum = inputs.reduce(0) { $0 + $1[axis] }
        let result = inputs[0].replacing(axis, with: sum)
        for input in inputs {
            precondition(
                input.replacing(axis, with: sum) == result, "concatenate: \(inputs) differ beside axis \(axis)")
        }
        return result
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        let row = shape.dimensions[axis...].reduce(1, *)
        var offset = 0
        for input in inputs {
            let run = input.shape.dimensions[axis...].reduce(1, *)
            copyRows(input.pointer, run, output.mutablePointer + offset, row, run, row == 0 ? 0 : shape.count / row)
            offset += run
        }
        withExtendedLifetime((inputs, output)) {}
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        var start = 0
        return zip(context.inputShapes, context.wanted).map { shape, isWanted in
            defer { start += shape[axis] }
            return isWanted ? context.gradient.sliced(axis: axis, from: start, to: start + shape[axis]) : nil
        }
    }
}

/// A range along an axis.
package struct Slice: Operation {
    package static let name = "slice"
    package let axis: Int
    package let range: Range<Int>

    package init(axis: Int, range: Range<Int>) { (self.axis, self.range) = (axis, range) }

    package func shape(_ inputs: [Shape]) -> Shape {
        precondition(
            range.lowerBound >= 0 && range.upperBound <= inputs[0][axis],
            "sliced: \(range) of axis \(axis) of \(inputs[0])")
        return inputs[0].replacing(axis, with: range.count)
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        let row = inputs[0].shape.dimensions[axis...].reduce(1, *)
        let run = shape.dimensions[axis...].reduce(1, *)
        let start = range.lowerBound * inputs[0].shape.stride(axis)
        copyRows(inputs[0].pointer + start, row, output.mutablePointer, run, run, run == 0 ? 0 : shape.count / run)
        withExtendedLifetime((inputs, output)) {}
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let shape = context.inputShapes[0]
        let result = Tensor(zeros: shape)
        let row = shape.dimensions[axis...].reduce(1, *)
        let run = context.gradient.shape.dimensions[axis...].reduce(1, *)
        let start = range.lowerBound * shape.stride(axis)
        copyRows(
            context.gradient.pointer, run, result.mutablePointer + start, row, run,
            run == 0 ? 0 : context.gradient.count / run)
        withExtendedLifetime((context, result)) {}
        return [result]
    }
}

/// Copies `rows` runs of `run` floats between rows of other lengths.
private func copyRows(
    _ from: UnsafePointer<Float>, _ fromRow: Int, _ to: UnsafeMutablePointer<Float>, _ toRow: Int, _ run: Int,
    _ rows: Int
) {
    for row in 0..<rows { (to + row * toRow).update(from: from + row * fromRow, count: run) }
}

/// The same values repeated along axes of extent 1, or along new leading axes.
package struct Broadcast: Operation {
    package static let name = "broadcast"
    package let target: Shape

    package func shape(_ inputs: [Shape]) -> Shape {
        precondition(Shape.broadcast(inputs[0], target) == target, "broadcast: \(inputs[0]) to \(target)")
        return target
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        Tensor(zeros: shape) + inputs[0]
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        [context.gradient.summed(to: context.inputShapes[0])]
    }
}

extension Tensor {
    /// The axes in another order: the result's axis i is this tensor's axis `order[i]`.
    public func transposed(_ order: [Int]) -> Tensor {
        let order = order.map(shape.normalized)
        return order == Array(0..<rank) ? self : apply(Transpose(order: order), [self])
    }

    /// The part from `start` up to, but not including, `end` along an axis.
    public func sliced(axis: Int, from start: Int, to end: Int) -> Tensor {
        let axis = shape.normalized(axis)
        return start == 0 && end == shape[axis] ? self : apply(Slice(axis: axis, range: start..<end), [self])
    }

    /// Parts of the given extents along an axis.
    /// - Precondition: the sizes sum up to the axis.
    public func split(axis: Int, sizes: [Int]) -> [Tensor] {
        precondition(sizes.reduce(0, +) == shape[axis], "split: \(sizes) of axis \(axis) of \(shape)")
        var start = 0
        return sizes.map { size in
            defer { start += size }
            return sliced(axis: axis, from: start, to: start + size)
        }
    }

    /// A map `[batch, height, width, channels · side²]` with each place spread over side × side places:
    /// `[batch, height · side, width · side, channels]`. The channels are ordered [channel][row][column].
    ///
    /// "Real-Time Single Image and Video Super-Resolution" (2016), arXiv 1609.05158.
    public func pixelShuffled(_ side: Int) -> Tensor {
        let (batch, height, width, channels) = (shape[0], shape[1], shape[2], shape[3] / (side * side))
        precondition(
            shape[3] == channels * side * side, "pixelShuffled: \(side)² does not divide the channels of \(shape)")
        return reshaped([batch, height, width, channels, side, side]).transposed([0, 1, 4, 2, 5, 3])
            .reshaped([batch, height * side, width * side, channels])
    }

    /// The same values repeated to fill `shape`.
    public func broadcast(to shape: Shape) -> Tensor {
        shape == self.shape ? self : apply(Broadcast(target: shape), [self])
    }
}

/// Tensors one after the other along an axis; the other axes are equal.
public func concatenate(_ tensors: [Tensor], axis: Int) -> Tensor {
    precondition(!tensors.isEmpty, "concatenate: no tensors")
    return tensors.count == 1 ? tensors[0] : apply(Concatenate(axis: tensors[0].shape.normalized(axis)), tensors)
}
