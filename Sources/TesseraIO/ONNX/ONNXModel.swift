import Tessera

/// A graph of operations in the Open Neural Network Exchange format: `ModelProto` and its `GraphProto`, as far as a
/// forward pass takes them.
public struct ONNXModel: Sendable {
    /// The version of the standard operators that the nodes mean.
    public var operatorVersion: Int
    public var producer: String
    /// What the producer noted, string to string.
    public var metadata: [(key: String, value: String)]
    /// In an order in which every node follows those whose results it uses.
    public var nodes: [ONNXNode]
    public var constants: [ONNXConstant]
    public var inputs: [ONNXValueInfo]
    public var outputs: [ONNXValueInfo]

    public init(
        operatorVersion: Int = 0, producer: String = "", metadata: [(key: String, value: String)] = [],
        nodes: [ONNXNode] = [], constants: [ONNXConstant] = [], inputs: [ONNXValueInfo] = [],
        outputs: [ONNXValueInfo] = []
    ) {
        (self.operatorVersion, self.producer, self.metadata) = (operatorVersion, producer, metadata)
        (self.nodes, self.constants, self.inputs, self.outputs) = (nodes, constants, inputs, outputs)
    }
}

/// One operation.
public struct ONNXNode: Sendable {
    public var operation: String
    public var name: String
    /// The operator set, empty for the standard.
    public var domain = ""
    /// An empty name leaves an optional operand out.
    public var inputs: [String]
    public var outputs: [String]
    public var attributes: [String: ONNXAttribute]

    public init(
        operation: String, name: String = "", inputs: [String], outputs: [String],
        attributes: [String: ONNXAttribute] = [:]
    ) {
        (self.operation, self.name, self.inputs, self.outputs) = (operation, name, inputs, outputs)
        self.attributes = attributes
    }
}

public enum ONNXAttribute: Sendable {
    case integer(Int)
    case float(Float)
    case text(String)
    case integers([Int])
    case floats([Float])
    case tensor(ONNXTensor)
}

/// A named array of the graph.
public struct ONNXConstant: Sendable {
    public var name: String
    public var tensor: ONNXTensor

    public init(name: String, tensor: ONNXTensor) { (self.name, self.tensor) = (name, tensor) }
}

/// Constant numbers: floats of any width, whole numbers and truth values, or codes of 8 bits.
public enum ONNXTensor: Sendable {
    case floats(Tensor)
    case integers([Int], Shape)
    /// Only written: those of a file are read as whole numbers.
    case codes([Int8], Shape)

    public var shape: Shape {
        switch self {
        case .floats(let tensor): tensor.shape
        case .integers(_, let shape), .codes(_, let shape): shape
        }
    }
}

/// An input or output of the graph, of floats.
public struct ONNXValueInfo: Sendable, Equatable {
    public enum Extent: Sendable, Equatable {
        case fixed(Int)
        case named(String)
    }

    public var name: String
    /// Empty where the file does not say.
    public var shape: [Extent]

    public init(name: String, shape: [Extent]) { (self.name, self.shape) = (name, shape) }
}
