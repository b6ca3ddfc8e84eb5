import Tessera

extension ONNXFunction {
    static let reductionOperators: [String: Operator] = [
        "ReduceMean": reduction { $0.mean(axes: $1, keepingAxes: true) },
        "ReduceSum": reduction { $0.sum(axes: $1, keepingAxes: true) },
        "ReduceMax": reduction { $0.max(axes: $1, keepingAxes: true) },
        "ReduceMin": reduction { -(-$0).max(axes: $1, keepingAxes: true) },
        "ReduceL2": reduction { $0.squared().sum(axes: $1, keepingAxes: true).squareRoot() },
        "ReduceSumSquare": reduction { $0.squared().sum(axes: $1, keepingAxes: true) },
        "ReduceProd": { operands in
            let numbers = try operands.known(0)
            try operands.require(numbers.rank <= 1 && !operands.has(1), "\(numbers.shape)", "a list of numbers")
            let product = Tensor(numbers.scalars.reduce(1, *))
            let keeps = try operands.flag("keepdims", true)
            return [ImportedValue(keeps ? product.reshaped([1]) : product, isWhole: try operands[0].isWhole)]
        },
        "GlobalAveragePool": overPlaces { $0.mean(axes: $1, keepingAxes: true) },
        "GlobalMaxPool": overPlaces { $0.max(axes: $1, keepingAxes: true) },
        "Softmax": softmax { $0.softmax(axis: $1) }, "LogSoftmax": softmax { $0.logSoftmax(axis: $1) },
    ]

    private static func reduction(_ body: @escaping @Sendable (Tensor, [Int]) -> Tensor) -> Operator {
        { operands in
            let value = try operands[0]
            let given = try operands.integers(1, or: "axes") ?? []
            if given.isEmpty, try operands.flag("noop_with_empty_axes") { return [value] }
            let axes = given.isEmpty ? Array(0..<value.rank) : try operands.axes(given, rank: value.rank)
            try operands.require(axes.allSatisfy { value.shape[$0] > 0 }, "\(value.shape)", "something to reduce")
            let memory = body(value.memory, axes.map { value.order.axes[$0] }.sorted())
            let kept = ImportedValue(memory, value.order, isWhole: value.isWhole)
            if try operands.flag("keepdims", true) { return [kept] }
            let left = kept.shape.dimensions.indices.filter { !axes.contains($0) }
            return [kept.reshaped(Shape(left.map { kept.shape[$0] }))]
        }
    }

    private static func overPlaces(_ body: @escaping @Sendable (Tensor, [Int]) -> Tensor) -> Operator {
        { operands in
            let value = try operands.value(0, rank: 3...8)
            let places = (2..<value.rank).map { value.order.axes[$0] }.sorted()
            try operands.require(value.shape.count > 0, "\(value.shape)", "places")
            return [ImportedValue(body(value.memory, places), value.order)]
        }
    }

    private static func softmax(_ body: @escaping @Sendable (Tensor, Int) -> Tensor) -> Operator {
        { operands in
            let value = try operands.value(0, rank: 1...8)
            let axis = try operands.axis(operands.integer("axis", operands.version < 13 ? 1 : -1), rank: value.rank)
            if operands.version >= 13 || axis == value.rank - 1 {
                return [ImportedValue(body(value.memory, value.order.axes[axis]), value.order)]
            }
            // Before version 13, over everything from the axis on.
            let outer = value.shape.dimensions[..<axis].reduce(1, *)
            let rows = value.reshaped([outer, value.shape.dimensions[axis...].reduce(1, *)]).tensor
            return [ImportedValue(body(rows, 1)).reshaped(value.shape)]
        }
    }

    static let normalizationOperators: [String: Operator] = [
        "LayerNormalization": { operands in
            let value = try operands.value(0, rank: 1...8)
            let axis = try operands.axis(operands.integer("axis", -1), rank: value.rank)
            let channels = value.shape.dimensions[axis...].reduce(1, *)
            func vector(_ index: Int) throws -> Tensor? {
                guard operands.has(index) else { return nil }
                let vector = try operands[index].tensor
                try operands.require(vector.count == channels, "\(vector.shape)", "\(channels) values")
                return vector.reshaped([channels])
            }
            let rows = value.reshaped(Shape(value.shape.dimensions[..<axis] + [channels])).tensor
            let result = layerNorm(
                rows, weight: try vector(1), bias: try vector(2), epsilon: try operands.float("epsilon", 1e-5))
            return [ImportedValue(result.reshaped(value.shape))]
        },
        "BatchNormalization": { operands in
            let value = try operands.value(0, rank: 2...8)
            let order = AxisOrder.channelsLast(value.rank)
            func vector(_ index: Int) throws -> Tensor { try operands.channels(index, value.shape[1]) }
            let result = batchNorm(
                value.memory(order), mean: try vector(3), variance: try vector(4), weight: try vector(1),
                bias: try vector(2), epsilon: try operands.float("epsilon", 1e-5))
            return [ImportedValue(result, order)]
        },
        "InstanceNormalization": { operands in
            let value = try operands.value(0, rank: 3...8)
            return try normalizedGroups(operands, value, value.shape[1], ofGroups: false)
        },
        "GroupNormalization": { operands in
            let value = try operands.value(0, rank: 3...8)
            let groups = try operands.integer("num_groups", 1)
            return try normalizedGroups(operands, value, groups, ofGroups: operands.version < 21)
        },
    ]

    /// Scale and shift belong to channels; those of the first version of group normalisation to groups.
    private static func normalizedGroups(
        _ operands: ONNXOperands, _ value: ImportedValue, _ groups: Int, ofGroups: Bool
    ) throws -> [ImportedValue] {
        let channels = value.shape[1]
        try operands.require(groups > 0 && channels % groups == 0, "\(groups) groups of \(channels)", "equal groups")
        func vector(_ index: Int) throws -> Tensor {
            guard ofGroups, groups != channels else { return try operands.channels(index, channels) }
            let each = try operands.channels(index, groups).reshaped([groups, 1])
            return each.broadcast(to: [groups, channels / groups]).reshaped([channels])
        }
        let order = AxisOrder.channelsLast(value.rank)
        let result = groupNorm(
            value.memory(order), groups: groups, weight: try vector(1), bias: try vector(2),
            epsilon: try operands.float("epsilon", 1e-5))
        return [ImportedValue(result, order)]
    }
}

extension ONNXOperands {
    /// A constant for each channel.
    func channels(_ index: Int, _ count: Int) throws -> Tensor {
        let vector = try known(index)
        try require(vector.shape == [count], "\(vector.shape)", "[\(count)]")
        return vector
    }
}

extension AxisOrder {
    /// Of `[batch, channels, places...]`, for memory with the channels last.
    static func channelsLast(_ rank: Int) -> AxisOrder { AxisOrder([0, rank - 1] + Array(1..<rank - 1)) }
}
