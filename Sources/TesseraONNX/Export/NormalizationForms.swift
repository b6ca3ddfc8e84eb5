import Tessera
import TesseraIO

extension LayerNormalization: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let weight = hasWeight ? inputs[1] : nil
        var names = [builder.memory(inputs[0])]
        names.append(
            weight.map { builder.memory($0) } ?? builder.constant(Tensor(repeating: 1, [output[output.rank - 1]])))
        if hasBias { names.append(builder.memory(inputs.last!)) }
        let attributes: [String: ONNXAttribute] = ["axis": .integer(-1), "epsilon": .float(epsilon)]
        return ExportedValue(builder.add("LayerNormalization", names, attributes), .plain(output.rank), output)
    }
}

extension FixedBatchNormalization: ONNXExportable {
    /// A scale and a shift of each channel: what could not be folded into the weights before.
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) throws -> ExportedValue
    {
        let constants = inputs.dropFirst().compactMap(\.constant)
        guard constants.count == inputs.count - 1 else {
            throw ONNXExportError(subject: Self.name, reason: "has statistics that depend on the image")
        }
        let (scale, shift) = Tape.pause {
            let inverse = 1 / (constants[1] + epsilon).squareRoot()
            let scale = hasWeight ? constants[2] * inverse : inverse
            return (scale, (hasBias ? constants.last! : Tensor(zeros: scale.shape)) - constants[0] * scale)
        }
        let vector = BatchShape(shape: scale.shape, axis: nil)
        let scaled = builder.pointwise("Mul", [inputs[0], ExportedValue(constant: scale, vector)], output)
        return builder.pointwise("Add", [scaled, ExportedValue(constant: shift, vector)], output)
    }
}

extension GroupNormalization: ONNXExportable {
    /// Each group is an instance of one channel: `[batch, groups, the rest]`.
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) throws -> ExportedValue
    {
        guard !spansBatch else {
            throw ONNXExportError(subject: Self.name, reason: "normalises over the images of a batch")
        }
        let rank = output.rank
        // One group is everything in any order; several want their channels first.
        let first = AxisOrder([0] + Array(2..<rank) + [1])
        let order = groups == 1 ? inputs[0].order : first
        let x = builder.memory(inputs[0], order)
        let rows = builder.add("Reshape", [x, builder.integers([0, groups, -1])])
        let (ones, zeros) = (Tensor(repeating: 1, [groups]), Tensor(zeros: [groups]))
        let y = builder.add(
            "InstanceNormalization", [rows, builder.constant(ones), builder.constant(zeros)],
            ["epsilon": .float(epsilon)])
        let shape = builder.integers(order.inMemory(output.extents))
        var result = ExportedValue(builder.add("Reshape", [y, shape]), order, output)
        if hasWeight { result = builder.pointwise("Mul", [result, inputs[1]], output) }
        if hasBias { result = builder.pointwise("Add", [result, inputs.last!], output) }
        return result
    }
}
