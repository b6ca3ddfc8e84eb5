import Tessera
import TesseraRuntime

extension Attention: ONNXExportable {
    /// Products of matrices around a softmax, as runtimes recognise it.
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) throws -> ExportedValue
    {
        export(inputs, output, in: nil, to: &builder)
    }

    /// - Parameter codes: how the operands of both products become codes
    fileprivate func export(
        _ inputs: [ExportedValue], _ output: BatchShape, in codes: Quantization.Attention?,
        to builder: inout ONNXBuilder
    ) -> ExportedValue {
        let (q, k, v): (ExportedValue, ExportedValue, ExportedValue)
        if isPacked {
            let parts = builder.thirds(inputs[0])
            (q, k, v) = (parts[0], parts[1], parts[2])
        } else {
            (q, k, v) = (inputs[0], inputs[1], inputs[2])
        }
        let queries = builder.rounded(builder.byHead(q, heads, keysLast: false), codes?.q)
        let keys = builder.rounded(builder.byHead(k, heads, keysLast: true), codes?.k)
        let values = builder.rounded(builder.byHead(v, heads, keysLast: false), codes?.v)
        var scores = builder.add("MatMul", [queries, keys])
        if scale != 1 { scores = builder.add("Mul", [scores, builder.scalar(scale)]) }
        if hasBias, let bias = inputs.last {
            let extents = [output[0], heads, output[1], k.shape[1]]
            let whole = ExportedValue(
                scores, .plain(4), BatchShape(shape: Shape(extents), axis: output.axis))
            scores = builder.pointwise("Add", [whole, bias], whole.shape).name
        }
        let weights = builder.rounded(builder.add("Softmax", [scores], ["axis": .integer(-1)]), codes?.weights)
        let mixed = builder.add("MatMul", [weights, values])
        let rows = builder.add("Transpose", [mixed], ["perm": .integers([0, 2, 1, 3])])
        return ExportedValue(
            builder.add("Reshape", [rows, builder.integers(output.extents)]), .plain(3), output)
    }
}

extension QueryAttention: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) throws -> ExportedValue
    {
        guard queries == 0..<output[1] else {
            throw ONNXExportError(subject: Self.name, reason: "was cut for this runtime")
        }
        return attention.export(inputs, output, in: quantization, to: &builder)
    }
}

extension ONNXBuilder {
    /// Queries, keys and values that lie side by side.
    fileprivate mutating func thirds(_ x: ExportedValue) -> [ExportedValue] {
        let part = x.shape[2] / 3
        let name = memory(x)
        return (0..<3).map { index in
            let bounds = [[index * part], [(index + 1) * part], [2]].map { integers($0) }
            return ExportedValue(
                add("Slice", [name] + bounds), .plain(3),
                BatchShape(shape: x.shape.shape.replacing(2, with: part), axis: x.shape.axis))
        }
    }

    /// `[batch, tokens, heads · size]` → `[batch, heads, tokens, size]`, or with the tokens last.
    fileprivate mutating func byHead(_ x: ExportedValue, _ heads: Int, keysLast: Bool) -> String {
        let size = x.shape[2] / heads
        var extents = x.shape.extents
        extents[2...2] = [heads, size]
        let parts = add("Reshape", [memory(x), integers(extents)])
        return add("Transpose", [parts], ["perm": .integers(keysLast ? [0, 2, 3, 1] : [0, 2, 1, 3])])
    }
}
