import Tessera

/// A forward pass as data: operations over values, in the order of execution, for one image.
///
/// A model in evaluation mode treats the images of a batch independently, so the graph of one image is the graph of any
/// number of them. Whatever depends on parameters alone (a resampled position table, a broadcast class token) is
/// computed while tracing and appears as a constant.
///
/// Passes rewrite a graph into another that computes the same: every node, fused or not, is an operation that can be
/// evaluated eagerly.
public struct Graph {
    /// The place of a value in ``values``.
    public typealias ValueID = Int

    public struct Value {
        public let shape: Shape
        /// Parameters, and what was computed from them; nil for what depends on the image.
        public let constant: Tensor?
    }

    public struct Node {
        public var operation: any Operation
        public var inputs: [ValueID]
        public var output: ValueID
    }

    public private(set) var values: [Value] = []
    public var nodes: [Node] = []
    public let input: ValueID
    public var outputs: [ValueID] = []

    /// Traces `function` on an abstract image of shape `[1, ...]`.
    /// - Precondition: all parameters have values.
    public init(input shape: Shape, tracing function: (Tensor) throws -> [Tensor]) rethrows {
        values = [Value(shape: shape, constant: nil)]
        input = 0
        let image = Tape.leaf(Tensor(abstract: shape))
        let tape = Tape(.trace)
        let results = try tape.record { try function(image) }
        var known: [ObjectIdentifier: ValueID] = [ObjectIdentifier(image.node!): input]
        var constants: [ConstantKey: ValueID] = [:]
        func value(of tensor: Tensor) -> ValueID {
            if let storage = tensor.storage {
                let key = ConstantKey(storage: ObjectIdentifier(storage), shape: tensor.shape)
                if let known = constants[key] { return known }
                constants[key] = addConstant(tensor.detached)
                return constants[key]!
            }
            guard let node = tensor.node, let id = known[ObjectIdentifier(node)] else {
                preconditionFailure("a graph is traced from a model whose parameters have values")
            }
            return id
        }
        for node in tape.nodes where node.inputs.contains(where: \.isAbstract) {
            let inputs = node.inputs.map(value)
            let output = addValue(node.output)
            nodes.append(Node(operation: node.operation!, inputs: inputs, output: output))
            known[ObjectIdentifier(node)] = output
        }
        outputs = results.map(value)
    }

    private struct ConstantKey: Hashable {
        let storage: ObjectIdentifier
        let shape: Shape
    }

    public mutating func addConstant(_ tensor: Tensor) -> ValueID {
        values.append(Value(shape: tensor.shape, constant: tensor))
        return values.count - 1
    }

    public mutating func addValue(_ shape: Shape) -> ValueID {
        values.append(Value(shape: shape, constant: nil))
        return values.count - 1
    }

    package func shape(_ id: ValueID) -> Shape { values[id].shape }
    func constant(_ id: ValueID) -> Tensor? { values[id].constant }

    /// The node that computes each value, nil for constants and the input.
    var producers: [Int?] {
        var producers = [Int?](repeating: nil, count: values.count)
        for (index, node) in nodes.enumerated() { producers[node.output] = index }
        return producers
    }

    /// How many operands and outputs of the graph each value is.
    var useCounts: [Int] {
        var counts = [Int](repeating: 0, count: values.count)
        for node in nodes { for id in node.inputs { counts[id] += 1 } }
        for id in outputs { counts[id] += 1 }
        return counts
    }

    /// Runs the operations on one image, one after the other: what every rewrite must preserve.
    /// - Parameter observe: sees every node's place and the values of its inputs.
    public func evaluate(_ image: Tensor, observe: (Int, [Tensor]) -> Void = { _, _ in }) -> [Tensor] {
        var lastUse: [ValueID: Int] = [:]
        for (index, node) in nodes.enumerated() { for id in node.inputs { lastUse[id] = index } }
        for id in outputs { lastUse[id] = nodes.count }
        var computed: [ValueID: Tensor] = [input: image]
        func tensor(_ id: ValueID) -> Tensor { values[id].constant ?? computed[id]! }
        return Tape.pause {
            for (index, node) in nodes.enumerated() {
                let inputs = node.inputs.map(tensor)
                observe(index, inputs)
                computed[node.output] = node.operation.evaluate(inputs)
                for id in node.inputs where lastUse[id] == index { computed[id] = nil }
            }
            return outputs.map(tensor)
        }
    }
}

extension Operation {
    /// The result, with nothing kept for a gradient.
    func evaluate(_ inputs: [Tensor]) -> Tensor {
        var saved = Saved.nothing
        return forward(inputs, shape(inputs.map(\.shape)), &saved)
    }
}
