import Tessera

/// The weights of an ONNX model under the names that they had in PyTorch.
///
/// PyTorch's exporter keeps a parameter's name, except that of a linear layer's weight, which it transposes and calls
/// `onnx::MatMul_123`. Its name is then that of the bias that is added to the product, and without a bias the place of
/// the product in the module. Other anonymous constants are called by the place and kind of what uses them:
/// `embeddings.Concat`.
public struct ONNXInitializers: WeightSource {
    public let path: String
    public let shapes: [String: Shape]
    private let tensors: [String: (tensor: ONNXTensor, isTransposed: Bool)]

    /// Whether a file looks like an ONNX model: a message that begins with the version of the format, and no length
    /// of a header as safetensors files have.
    static func begins(_ bytes: UnsafeRawBufferPointer) -> Bool {
        bytes.count > 8 && bytes[0] == 0x08 && (1...64).contains(bytes[1]) && bytes[8] != UInt8(ascii: "{")
    }

    /// - Throws: ``SystemError``; ``FormatError`` if the file is damaged or has no graph.
    public init(_ path: String) throws { try self.init(path, try MappedFile(path)) }

    init(_ path: String, _ file: MappedFile) throws {
        self.path = path
        let model = try ONNXModel(path, file)
        // The first node that uses a value.
        var users: [String: ONNXNode] = [:]
        for node in model.nodes {
            for input in node.inputs where users[input] == nil { users[input] = node }
        }
        var tensors: [String: (tensor: ONNXTensor, isTransposed: Bool)] = [:]
        for constant in model.constants {
            let (name, isTransposed) = ONNXInitializers.name(of: constant, users)
            if tensors[name] == nil { tensors[name] = (constant.tensor, isTransposed) }
        }
        self.tensors = tensors
        shapes = tensors.mapValues { entry in
            entry.isTransposed ? [entry.tensor.shape[1], entry.tensor.shape[0]] : entry.tensor.shape
        }
    }

    public func tensor(_ name: String) throws -> Tensor {
        func refuse(_ found: String, _ expected: String) -> FormatError {
            FormatError(file: path, subject: "tensor \(name)", found: found, expected: expected)
        }
        guard let (tensor, isTransposed) = tensors[name] else {
            throw refuse("no such tensor", "a tensor of this name")
        }
        let values: Tensor
        switch tensor {
        case .floats(let floats): values = floats
        case .codes(let codes, let shape): values = Tensor(codes.map(Float.init), shape)
        case .integers(let integers, let shape):
            values = try Tensor(
                integers.map { integer in
                    guard let float = Float(exactly: integer) else {
                        throw refuse("\(integer)", "whole numbers that float32 can hold")
                    }
                    return float
                }, shape)
        }
        return isTransposed ? values.transposed([1, 0]) : values
    }

    private static func name(of constant: ONNXConstant, _ users: [String: ONNXNode]) -> (String, isTransposed: Bool) {
        guard constant.name.contains("::"), let user = users[constant.name] else { return (constant.name, false) }
        guard user.operation == "MatMul", constant.tensor.shape.rank == 2 else {
            return (scope(of: user).map { "\($0).\(user.operation)" } ?? constant.name, false)
        }
        let sum = user.outputs.first.flatMap { users[$0] }
        let bias = sum?.operation == "Add" ? sum?.inputs.first { $0.hasSuffix(".bias") } : nil
        if let bias { return (bias.dropLast("bias".count) + "weight", true) }
        return scope(of: user).map { ("\($0).weight", true) } ?? (constant.name, false)
    }

    /// The module that a node was traced in, `/encoder/layer.0/MatMul` as `encoder.layer.0`; nil if it does not say.
    private static func scope(of node: ONNXNode) -> String? {
        guard node.name.hasPrefix("/") else { return nil }
        return node.name.split(separator: "/").dropLast().joined(separator: ".")
    }
}
