import Tessera
import TesseraRuntime

/// A graph of which is known along which axis of each value the images of a batch lie.
///
/// The function is traced with two numbers of images; the axis is where the shapes differ.
struct BatchedGraph {
    /// Of ``batch`` images.
    let graph: Graph
    private let axes: [Int?]

    /// A prime that no model has as an extent by accident of its arithmetic.
    static let batch = 11
    private static let otherBatch = 13

    /// - Parameter annotate: what is to be marked in the graph before anything is folded
    /// - Throws: ``ONNXExportError`` if the function does something else for another number of images.
    init(image: Shape, annotate: (inout Graph) -> Void, tracing function: (Tensor) -> [Tensor]) throws {
        func trace(_ batch: Int) -> Graph {
            var graph = Graph(input: image.replacing(0, with: batch), tracing: function)
            annotate(&graph)
            return graph.folded()
        }
        let other = trace(BatchedGraph.otherBatch)
        graph = trace(BatchedGraph.batch)
        guard graph.values.count == other.values.count, graph.nodes.count == other.nodes.count,
            zip(graph.nodes, other.nodes).allSatisfy({ $0.inputs == $1.inputs && $0.output == $1.output })
        else { throw ONNXExportError(subject: "the model", reason: "its operations depend on the number of images") }
        axes = try zip(graph.values, other.values).map { try BatchedGraph.axis($0.shape, $1.shape) }
    }

    private static func axis(_ shape: Shape, _ other: Shape) throws -> Int? {
        let varying = shape.dimensions.indices.filter { shape.rank != other.rank || shape[$0] != other[$0] }
        guard let axis = varying.first else { return nil }
        guard varying.count == 1, shape[axis] * otherBatch == other[axis] * batch else {
            throw ONNXExportError(subject: "the model", reason: "shape \(shape) becomes \(other) with more images")
        }
        return axis
    }

    func shape(_ id: Graph.ValueID) -> BatchShape { BatchShape(shape: graph.values[id].shape, axis: axes[id]) }
}

/// The shape of a value for ``BatchedGraph/batch`` images, and the axis that grows with their number.
struct BatchShape {
    let shape: Shape
    let axis: Int?

    var rank: Int { shape.rank }
    subscript(axis: Int) -> Int { shape[axis] }

    /// The extent along the axis of the batch for each image.
    var imageExtent: Int { axis.map { shape[$0] / BatchedGraph.batch } ?? 1 }

    /// The extents, −1 for the one that grows with the batch.
    var extents: [Int] { shape.dimensions.enumerated().map { $0 == axis ? -1 : $1 } }
}

/// A model that cannot be said in ONNX.
public struct ONNXExportError: Error, Equatable, CustomStringConvertible {
    /// The operation, by its name in traces.
    public let subject: String
    public let reason: String

    public var description: String { "ONNX export: \(subject): \(reason)" }
}
