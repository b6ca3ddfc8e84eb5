import Tessera

extension ONNXFunction {
    static let indexOperators: [String: Operator] = [
        "Slice": { operands in
            var value = try operands[0]
            let starts = try operands.integers(1, or: "starts") ?? []
            let ends = try operands.integers(2, or: "ends") ?? []
            let axes = try operands.integers(3, or: "axes") ?? Array(starts.indices)
            let steps = operands.has(4) ? try operands.integers(4) : [Int](repeating: 1, count: starts.count)
            try operands.require(
                starts.count == ends.count && starts.count == axes.count && starts.count == steps.count,
                "lists of different lengths", "bounds for each axis")
            for index in starts.indices {
                let axis = try operands.axis(axes[index], rank: value.rank)
                let extent = value.shape[axis]
                let step = steps[index]
                try operands.require(step != 0, "step 0", "another")
                let (low, high) = step > 0 ? (0, extent) : (-1, extent - 1)
                func place(_ bound: Int) -> Int { min(max(bound < 0 ? bound + extent : bound, low), high) }
                // Far below zero is before the start, also for a walk backwards.
                let end = step < 0 && ends[index] < -extent ? -1 : place(ends[index])
                let places = Array(stride(from: place(starts[index]), to: end, by: step))
                let memoryAxis = value.order.axes[axis]
                let part =
                    step == 1
                    ? value.memory.sliced(axis: memoryAxis, from: places.first ?? 0, to: (places.last ?? -1) + 1)
                    : value.memory.gathered(places.map(Int32.init), axis: memoryAxis)
                value = ImportedValue(part, value.order, isWhole: value.isWhole)
            }
            return [value]
        },
        "Split": { operands in
            let value = try operands[0]
            let axis = try operands.axis(operands.integer("axis", 0), rank: value.rank)
            let extent = value.shape[axis]
            let count = try operands.integer("num_outputs", operands.node.outputs.count)
            try operands.require((1...1 << 12).contains(count), "\(count) parts", "at least one")
            let equal = (extent + count - 1) / count
            let sizes =
                try operands.integers(1, or: "split")
                ?? (0..<count).map { max(0, min(equal, extent - $0 * equal)) }
            try operands.require(
                sizes.allSatisfy { $0 >= 0 && $0 <= extent } && sizes.reduce(0, +) == extent, "parts \(sizes)",
                "parts of \(extent)")
            return value.memory.split(axis: value.order.axes[axis], sizes: sizes).map {
                ImportedValue($0, value.order, isWhole: value.isWhole)
            }
        },
        "Gather": { operands in
            let value = try operands[0]
            let axis = try operands.axis(operands.integer("axis", 0), rank: value.rank)
            let indices = try operands[1]
            let extent = value.shape[axis]
            let places = try operands.integers(1).map { $0 < 0 ? $0 + extent : $0 }
            try operands.require(
                places.allSatisfy { $0 >= 0 && $0 < extent }, "an index outside of \(extent)", "one inside")
            var target = value.shape.dimensions
            target.replaceSubrange(axis...axis, with: indices.shape.dimensions)
            let shape = try operands.shape(target)
            let part = value.memory.gathered(places.map(Int32.init), axis: value.order.axes[axis])
            return [ImportedValue(part, value.order, isWhole: value.isWhole).reshaped(shape)]
        },
        "Pad": { operands in
            var value = try operands[0]
            let mode = try operands.text("mode", "constant")
            let amounts = try operands.integers(1, or: "pads") ?? []
            let axes = operands.has(3) ? try operands.integers(3) : Array(0..<value.rank)
            try operands.require(amounts.count == 2 * axes.count, "pads \(amounts)", "two for each axis")
            let fill = operands.has(2) ? try operands.scalar(2) : try operands.float("value", 0)
            for (index, axis) in axes.enumerated() {
                let axis = try operands.axis(axis, rank: value.rank)
                let (before, after) = (amounts[index], amounts[index + axes.count])
                if before == 0, after == 0 { continue }
                let extent = value.shape[axis]
                _ = try operands.shape(value.shape.replacing(axis, with: 1).dimensions + [extent + before + after])
                value = ImportedValue(
                    try operands.padded(value.memory, value.order.axes[axis], before, after, mode, fill), value.order,
                    isWhole: value.isWhole)
            }
            return [value]
        },
    ]
}

extension ONNXOperands {
    /// Elements before and after those along an axis; negative amounts take some away.
    fileprivate func padded(
        _ x: Tensor, _ axis: Int, _ before: Int, _ after: Int, _ mode: String, _ fill: Float
    ) throws -> Tensor {
        let extent = x.shape[axis]
        try require(
            extent + before + after > 0 && before > -extent && after > -extent, "pads \(before), \(after)", "a rest")
        let kept = x.sliced(axis: axis, from: max(0, -before), to: extent - max(0, -after))
        let amounts = (before: max(0, before), after: max(0, after))
        let size = kept.shape[axis]
        switch mode {
        case "constant": return kept.padded([(axis, amounts.before, amounts.after)], value: fill)
        case "edge", "reflect":
            try require(
                mode == "edge" || max(amounts.before, amounts.after) < size, "pads \(amounts)", "less than \(size)")
            let places = (-amounts.before..<size + amounts.after).map { place in
                mode == "edge"
                    ? min(max(place, 0), size - 1) : place < 0 ? -place : place < size ? place : 2 * (size - 1) - place
            }
            return kept.gathered(places.map(Int32.init), axis: axis)
        default: throw refuse("mode \(mode)", "constant, edge or reflect")
        }
    }
}
