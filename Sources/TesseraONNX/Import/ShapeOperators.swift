import Tessera

extension ONNXFunction {
    static let shapeOperators: [String: Operator] = [
        "Shape": { operands in
            let shape = try operands[0].shape
            func bound(_ name: String, _ standard: Int) throws -> Int {
                let place = try operands.integer(name, standard)
                return min(max(place < 0 ? place + shape.rank : place, 0), shape.rank)
            }
            let (start, end) = (try bound("start", 0), try bound("end", shape.rank))
            return [ImportedValue(Array(shape.dimensions[start..<max(start, end)]))]
        },
        "Size": { [ImportedValue([try $0[0].shape.count], [])] },
        "Reshape": { operands in
            let value = try operands[0]
            let keepsZeros = try operands.flag("allowzero")
            var extents = try operands.integers(1)
            for (axis, extent) in extents.enumerated() where extent == 0 && !keepsZeros {
                try operands.require(axis < value.rank, "a zero at axis \(axis)", "an axis of \(value.shape)")
                extents[axis] = value.shape[axis]
            }
            return [value.reshaped(try operands.completed(extents, value.shape))]
        },
        "Flatten": { operands in
            let value = try operands[0]
            let axis = try operands.integer("axis", 1)
            let place = axis < 0 ? axis + value.rank : axis
            try operands.require((0...value.rank).contains(place), "axis \(axis)", "an axis of \(value.shape)")
            let outer = value.shape.dimensions[..<place].reduce(1, *)
            return [value.reshaped([outer, value.shape.dimensions[place...].reduce(1, *)])]
        },
        "Squeeze": { operands in
            let value = try operands[0]
            let given = try operands.integers(1, or: "axes")
            let ones = value.shape.dimensions.indices.filter { value.shape[$0] == 1 }
            let axes = try given.map { try operands.axes($0, rank: value.rank) } ?? ones
            try operands.require(Set(axes).isSubset(of: ones), "axes \(axes) of \(value.shape)", "axes of extent 1")
            let kept = value.shape.dimensions.enumerated().filter { !axes.contains($0.offset) }
            return [value.reshaped(Shape(kept.map(\.element)))]
        },
        "Unsqueeze": { operands in
            let value = try operands[0]
            let given = try operands.integers(1, or: "axes") ?? []
            var extents = value.shape.dimensions
            for axis in try operands.axes(given, rank: value.rank + given.count) { extents.insert(1, at: axis) }
            return [value.reshaped(try operands.shape(extents))]
        },
        "Transpose": { operands in
            let value = try operands[0]
            let order = try operands.integers("perm") ?? Array((0..<value.rank).reversed())
            try operands.require(order.sorted() == Array(0..<value.rank), "perm \(order)", "an order of \(value.shape)")
            return [ImportedValue(value.memory, value.order.transposed(order), isWhole: value.isWhole)]
        },
        "Expand": { operands in
            let value = try operands[0]
            let target = try operands.broadcast([value.shape, operands.shape(operands.integers(1))])
            let missing = [Int](repeating: 1, count: target.rank - value.rank)
            let leading = value.reshaped(Shape(missing + value.shape.dimensions))
            let memory = leading.memory.broadcast(to: leading.order.inMemory(target))
            return [ImportedValue(memory, leading.order, isWhole: value.isWhole)]
        },
        "Tile": { operands in
            let value = try operands[0]
            let repeats = try operands.integers(1)
            try operands.require(
                repeats.count == value.rank, "repeats \(repeats)", "one for each axis of \(value.shape)")
            _ = try operands.shape(zip(repeats, value.shape.dimensions).map { max(0, $0) * $1 })
            var tensor = value.tensor
            for (axis, count) in repeats.enumerated() {
                try operands.require(count > 0, "repeats \(repeats)", "at least one")
                if count == 1 { continue }
                let dimensions = tensor.shape.dimensions
                let (before, run) = (dimensions[..<axis].reduce(1, *), dimensions[axis...].reduce(1, *))
                tensor = tensor.reshaped([before, 1, run]).broadcast(to: [before, count, run])
                    .reshaped(tensor.shape.replacing(axis, with: count * dimensions[axis]))
            }
            return [ImportedValue(tensor, isWhole: value.isWhole)]
        },
        "Concat": { operands in
            let values = try operands.values.indices.map { try operands[$0] }
            let axis = try operands.axis(operands.integer("axis", 0), rank: try operands[0].rank)
            let order = values.first { !$0.order.isPlain && !$0.isKnown }?.order ?? .plain(values[0].rank)
            for value in values {
                try operands.require(
                    value.rank == values[0].rank
                        && value.shape.replacing(axis, with: 1) == values[0].shape.replacing(axis, with: 1),
                    "\(values.map(\.shape))", "shapes that differ along axis \(axis) only")
            }
            let memory = concatenate(values.map { $0.memory(order) }, axis: order.axes[axis])
            return [ImportedValue(memory, order, isWhole: values.allSatisfy(\.isWhole))]
        },
        "DepthToSpace": { operands in
            let value = try operands.value(0, rank: 4...4)
            let (side, mode) = (try operands.integer("blocksize", 1), try operands.text("mode", "DCR"))
            let shape = value.shape
            try operands.require(
                side > 0 && side <= 1024 && shape[1] % (side * side) == 0, "\(shape)", "channels for blocks")
            let channels = shape[1] / (side * side)
            let isRowFirst = mode == "DCR"
            let parts = isRowFirst ? [side, side, channels] : [channels, side, side]
            let split = value.reshaped(Shape([shape[0]] + parts + [shape[2], shape[3]])).tensor
            let order = isRowFirst ? [0, 3, 4, 1, 5, 2] : [0, 1, 4, 2, 5, 3]
            return [
                ImportedValue(
                    split.transposed(order).reshaped([shape[0], channels, shape[2] * side, shape[3] * side]))
            ]
        },
        "SpaceToDepth": { operands in
            let value = try operands.value(0, rank: 4...4)
            let (side, shape) = (try operands.integer("blocksize", 1), value.shape)
            try operands.require(
                side > 0 && side <= 1024 && shape[2] % side == 0 && shape[3] % side == 0, "\(shape)", "blocks that fit")
            let (rows, columns) = (shape[2] / side, shape[3] / side)
            let split = value.tensor.reshaped([shape[0], shape[1], rows, side, columns, side])
            return [
                ImportedValue(
                    split.transposed([0, 3, 5, 1, 2, 4]).reshaped([shape[0], shape[1] * side * side, rows, columns]))
            ]
        },
        "Constant": { operands in
            switch operands.node.attributes.first?.value {
            case .tensor(let tensor): return [ImportedValue(tensor)]
            case .float(let value): return [ImportedValue(Tensor(value))]
            case .floats(let values): return [ImportedValue(Tensor(values, [values.count]))]
            case .integer(let value): return [ImportedValue([value], [])]
            case .integers(let values): return [ImportedValue(values)]
            default: throw operands.refuse("no value", "numbers")
            }
        },
        "ConstantOfShape": { operands in
            let shape = try operands.shape(operands.integers(0))
            guard case .tensor(let tensor)? = operands.node.attributes["value"] else {
                return [ImportedValue(Tensor(zeros: shape))]
            }
            let value = ImportedValue(tensor)
            try operands.require(value.memory.count == 1, "a value of shape \(tensor.shape)", "one number")
            return [ImportedValue(Tensor(repeating: value.memory.scalars[0], shape), isWhole: value.isWhole)]
        },
        "Range": { operands in
            let (start, end, step) = (try operands.scalar(0), try operands.scalar(1), try operands.scalar(2))
            let count: Float = max(0, ((end - start) / step).rounded(.up))
            try operands.require(count <= 0x1p24 && step != 0, "\(count) elements", "at most 2²⁴")
            let values = (0..<Int(count)).map { start + Float($0) * step }
            return [ImportedValue(Tensor(values, [values.count]), isWhole: try operands[0].isWhole)]
        },
    ]
}

extension ONNXOperands {
    /// A shape with as many elements as another, in which one −1 stands for what is missing.
    func completed(_ extents: [Int], _ from: Shape) throws -> Shape {
        var extents = extents
        let open = extents.indices.filter { extents[$0] == -1 }
        try require(open.count <= 1, "shape \(extents)", "one −1")
        if let axis = open.first {
            extents[axis] = 1
            let rest = try shape(extents).count
            try require(rest > 0 && from.count % rest == 0, "shape \(extents)", "one for the elements of \(from)")
            extents[axis] = from.count / rest
        }
        let result = try shape(extents)
        try require(result.count == from.count, "shape \(result)", "one for the elements of \(from)")
        return result
    }
}
