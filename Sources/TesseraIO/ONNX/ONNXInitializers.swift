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
    private let file: MappedFile
    private let tensors: [String: (tensor: ONNXTensor, isTransposed: Bool)]

    /// Whether a file looks like an ONNX model: a message that begins with the version of the format, and no length
    /// of a header as safetensors files have.
    static func begins(_ bytes: UnsafeRawBufferPointer) -> Bool {
        bytes.count > 8 && bytes[0] == 0x08 && (1...64).contains(bytes[1]) && bytes[8] != UInt8(ascii: "{")
    }

    /// - Throws: ``SystemError``; ``FormatError`` if the file is damaged or has no graph.
    public init(_ path: String) throws { try self.init(path, try MappedFile(path)) }

    init(_ path: String, _ file: MappedFile) throws {
        (self.path, self.file) = (path, file)
        let graph = try Graph(path, file.bytes)
        var tensors: [String: (tensor: ONNXTensor, isTransposed: Bool)] = [:]
        for tensor in graph.initializers where tensor.type != nil {
            let (name, isTransposed) = graph.name(of: tensor)
            if tensors[name] == nil { tensors[name] = (tensor, isTransposed) }
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
        guard let (tensor, isTransposed) = tensors[name], let type = tensor.type else {
            throw refuse("no such tensor", "a tensor of this name")
        }
        let source = try tensor.location.map { try MappedFile("\(parent(of: path))/\($0)") } ?? file
        guard let data = tensor.data, data.upperBound <= source.bytes.count,
            data.count == tensor.shape.count * type.size
        else {
            throw refuse("\(tensor.data?.count ?? 0) bytes", "\(tensor.shape.count * type.size) for \(tensor.shape)")
        }
        let bytes = UnsafeRawBufferPointer(rebasing: source.bytes[data])
        let values = try StoredArray(file: source, type: type, bytes: bytes, refuse: refuse).tensor(tensor.shape)
        return isTransposed ? values.transposed([1, 0]) : values
    }

    private struct Node {
        var inputs: [String] = []
        var outputs: [String] = []
        var name = ""
        var operation = ""

        /// The module that the node was traced in, `/encoder/layer.0/MatMul` as `encoder.layer.0`; nil if it does not
        /// say.
        var scope: String? {
            guard name.hasPrefix("/") else { return nil }
            return name.split(separator: "/").dropLast().joined(separator: ".")
        }
    }

    /// `GraphProto`, as far as it names weights.
    private struct Graph {
        private(set) var initializers: [ONNXTensor] = []
        /// The first node that uses a value.
        private var users: [String: Node] = [:]

        init(_ path: String, _ bytes: UnsafeRawBufferPointer) throws {
            var model = ProtobufFields(path, bytes, in: 0..<bytes.count)
            var place: Range<Int>?
            while let (number, value) = try model.next() {
                if number == 7, case .bytes(let range) = value { place = range }
            }
            guard let place else { throw FormatError(file: path, found: "no graph", expected: "an ONNX model") }
            var fields = ProtobufFields(path, bytes, in: place)
            while let (number, value) = try fields.next() {
                guard case .bytes(let range) = value else { continue }
                if number == 5 { initializers.append(try ONNXTensor(path, bytes, in: range)) }
                if number == 1 {
                    let node = try Graph.node(path, bytes, in: range)
                    for input in node.inputs where users[input] == nil { users[input] = node }
                }
            }
        }

        private static func node(
            _ path: String, _ bytes: UnsafeRawBufferPointer, in range: Range<Int>
        ) throws -> Node {
            var fields = ProtobufFields(path, bytes, in: range)
            var node = Node()
            while let (number, value) = try fields.next() {
                guard case .bytes(let range) = value else { continue }
                func text() -> String { String(decoding: bytes[range], as: UTF8.self) }
                switch number {
                case 1: node.inputs.append(text())
                case 2: node.outputs.append(text())
                case 3: node.name = text()
                case 4: node.operation = text()
                default: break
                }
            }
            return node
        }

        func name(of tensor: ONNXTensor) -> (String, isTransposed: Bool) {
            guard tensor.name.contains("::"), let user = users[tensor.name] else { return (tensor.name, false) }
            guard user.operation == "MatMul", tensor.shape.rank == 2 else {
                return (user.scope.map { "\($0).\(user.operation)" } ?? tensor.name, false)
            }
            let sum = user.outputs.first.flatMap { users[$0] }
            let bias = sum?.operation == "Add" ? sum?.inputs.first { $0.hasSuffix(".bias") } : nil
            if let bias { return (bias.dropLast("bias".count) + "weight", true) }
            return user.scope.map { ("\($0).weight", true) } ?? (tensor.name, false)
        }
    }
}
