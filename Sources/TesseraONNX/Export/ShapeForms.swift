import Tessera
import TesseraIO

extension Reshape: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        builder.reshape(inputs[0], output)
    }
}

extension Transpose: ONNXExportable {
    /// Moves nothing yet.
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        ExportedValue(inputs[0].name, inputs[0].order.transposed(order), output)
    }
}

extension Broadcast: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let (names, order) = builder.aligned(inputs, output)
        let shape = builder.dynamicList(order.inMemory(output.extents), factor: output.imageExtent)
        return ExportedValue(builder.add("Expand", [names[0], shape]), order, output)
    }
}

extension Concatenate: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) throws -> ExportedValue
    {
        guard output.axis != axis else {
            throw ONNXExportError(subject: Self.name, reason: "joins images of a batch")
        }
        let order = inputs.first { $0.constant == nil && !$0.order.isPlain }?.order ?? .plain(output.rank)
        let names = inputs.map { builder.memory($0, order) }
        return ExportedValue(builder.add("Concat", names, ["axis": .integer(order.axes[axis])]), order, output)
    }
}

extension Slice: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) throws -> ExportedValue
    {
        guard output.axis != axis, inputs[0].shape.axis != axis else {
            throw ONNXExportError(subject: Self.name, reason: "cuts a batch of images")
        }
        let order = inputs[0].order
        let bounds = [[range.lowerBound], [range.upperBound], [order.axes[axis]]].map { builder.integers($0) }
        return ExportedValue(builder.add("Slice", [inputs[0].name] + bounds), order, output)
    }
}

extension Gather: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) throws -> ExportedValue
    {
        guard inputs[0].shape.axis != axis else {
            throw ONNXExportError(subject: Self.name, reason: "picks from a batch of images")
        }
        let order = inputs[0].order
        let places = builder.integers(indices.map(Int.init))
        return ExportedValue(
            builder.add("Gather", [inputs[0].name, places], ["axis": .integer(order.axes[axis])]), order, output)
    }
}

extension Sum: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let x = inputs[0]
        let places = axes.map { x.order.axes[$0] }.sorted()
        let keeps: ONNXAttribute = .integer(keepsAxes ? 1 : 0)
        let name =
            isMean
            ? builder.add("ReduceMean", [x.name], ["axes": .integers(places), "keepdims": keeps])
            : builder.add("ReduceSum", [x.name, builder.integers(places)], ["keepdims": keeps])
        if keepsAxes { return ExportedValue(name, x.order, output) }
        // The places that are left move up.
        let left = x.order.axes.enumerated().filter { !axes.contains($0.offset) }.map(\.element)
        let ranks = left.map { place in left.count { $0 < place } }
        return ExportedValue(name, AxisOrder(ranks), output)
    }
}

extension Greatest: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let x = inputs[0]
        let axes: ONNXAttribute = .integers([x.order.axes[axis]])
        return ExportedValue(
            builder.add("ReduceMax", [x.name], ["axes": axes, "keepdims": .integer(1)]), x.order, output)
    }
}
