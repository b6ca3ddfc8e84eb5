import Tessera
import TesseraIO
import TesseraNN
import TesseraRuntime

/// An operation that says what it is in ONNX: nodes of the standard operators, version ``ONNXExporter/operatorVersion``.
protocol ONNXExportable: Operation {
    /// Adds nodes that compute the operation.
    /// - Parameter output: the shape of the result
    /// - Throws: ``ONNXExportError`` for attributes that no operator has.
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) throws -> ExportedValue
}

/// Writes a function of images as an ONNX graph for any number of images, `[batch, channels, height, width]`.
public enum ONNXExporter {
    /// The version of the standard operators that nodes are written in: the first that has layer normalisation.
    public static let operatorVersion = 17

    /// - Parameters:
    ///   - image: the shape of one image, `[1, height, width, channels]`
    ///   - outputs: the names of the function's results; maps are written with channels first
    ///   - parameters: parameters that keep their names in the file
    ///   - metadata: what the file shall say about the model
    ///   - annotate: marks products that compute in codes
    /// - Throws: ``ONNXExportError`` that names the operation that has no form.
    public static func export(
        image: Shape, outputs names: [String], parameters: [(key: String, parameter: Parameter)] = [],
        metadata: [(key: String, value: String)] = [], annotate: (inout Graph) -> Void = { _ in },
        tracing function: (Tensor) -> [Tensor]
    ) throws -> ONNXModel {
        let batched = try BatchedGraph(image: image, annotate: annotate, tracing: function)
        let graph = batched.graph
        var builder = ONNXBuilder(parameters: parameters)
        var values: [Graph.ValueID: ExportedValue] = [
            graph.input: ExportedValue(ONNXBuilder.input, .channelsFirst, batched.shape(graph.input))
        ]
        func value(_ id: Graph.ValueID) -> ExportedValue {
            values[id] ?? ExportedValue(constant: graph.values[id].constant!, batched.shape(id))
        }
        for node in graph.nodes {
            guard let operation = node.operation as? any ONNXExportable else {
                throw ONNXExportError(subject: type(of: node.operation).name, reason: "has no form in ONNX")
            }
            values[node.output] = try operation.export(
                node.inputs.map(value), batched.shape(node.output), to: &builder)
        }
        let outputs = zip(names, graph.outputs).map { name, id in
            let value = value(id)
            let order = value.shape.rank == 4 ? .channelsFirst : AxisOrder.plain(value.shape.rank)
            let memory = builder.memory(value, order)
            _ = builder.add("Identity", [memory], output: name)
            return info(name, order.inMemory(value.shape.extents))
        }
        return ONNXModel(
            operatorVersion: operatorVersion, producer: "tessera", metadata: metadata, nodes: builder.nodes,
            constants: builder.constants,
            inputs: [info(ONNXBuilder.input, [-1, image[3], image[1], image[2]])], outputs: outputs)
    }

    private static func info(_ name: String, _ extents: [Int]) -> ONNXValueInfo {
        ONNXValueInfo(name: name, shape: extents.map { $0 < 0 ? .named("batch") : .fixed($0) })
    }
}
