import Tessera

extension ONNXModel {
    /// Writes the model to a file; floats go into a second one, `path` with `.data` behind it, if they shall lie beside
    /// the graph.
    ///
    /// - Parameter externalData: floats beside the graph; by default where one message could not hold them
    /// - Throws: `SystemError`.
    public func write(to path: String, externalData: Bool? = nil) throws {
        let isExternal = externalData ?? (weightBytes > ONNXModel.largestMessage)
        let dataPath = path + ".data"
        var offset = 0
        let initializers = constants.map { constant in
            let initializer = Initializer(
                constant, externalName: isExternal ? ONNXModel.name(of: dataPath) : nil, &offset)
            return initializer
        }
        if isExternal {
            try AtomicFile.write(to: dataPath) { file in
                for initializer in initializers where initializer.isExternal {
                    try file.write([UInt8](repeating: 0, count: initializer.padding))
                    try initializer.writeData(to: &file)
                }
            }
        }
        var head = header
        let graph = graphStart
        let length = graph.bytes.count + initializers.reduce(0) { $0 + $1.length }
        head.begin(7, length: length)
        try AtomicFile.write(to: path) { file in
            try file.write(head.bytes)
            try file.write(graph.bytes)
            for initializer in initializers {
                try file.write(initializer.head)
                if !initializer.isExternal { try initializer.writeData(to: &file) }
            }
        }
    }

    /// Protocol buffers end at 2 GiB; the nodes take a part of it.
    private static let largestMessage = 1_900_000_000

    private var weightBytes: Int {
        constants.reduce(0) { sum, constant in
            if case .integers = constant.tensor { sum } else { sum + constant.tensor.byteCount }
        }
    }

    private static func name(of path: String) -> String {
        String(path[(path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex)...])
    }

    /// `ModelProto` but its graph.
    private var header: ProtobufWriter {
        var model = ProtobufWriter()
        model.add(1, UInt64(8))
        model.add(2, producer)
        var operators = ProtobufWriter()
        operators.add(1, "")
        operators.add(2, UInt64(operatorVersion))
        model.add(8, operators.bytes)
        for (key, value) in metadata {
            var entry = ProtobufWriter()
            entry.add(1, key)
            entry.add(2, value)
            model.add(14, entry.bytes)
        }
        return model
    }

    /// `GraphProto` but its constants.
    private var graphStart: ProtobufWriter {
        var graph = ProtobufWriter()
        for node in nodes { graph.add(1, node.message) }
        graph.add(2, producer)
        for input in inputs { graph.add(11, input.message) }
        for output in outputs { graph.add(12, output.message) }
        return graph
    }

    /// `TensorProto` of a constant, as the graph holds it.
    private struct Initializer {
        private let tensor: ONNXTensor
        /// Everything in front of data that lie in the model's file; else everything.
        let head: [UInt8]
        /// Zeros in front of data that lie in a file of their own.
        private(set) var padding = 0
        let isExternal: Bool

        /// Where data may begin, so that they can be mapped.
        private static let alignment = 64
        /// Smaller arrays stay with the graph, where tools look for shapes and axes.
        private static let smallestExternal = 1024

        init(_ constant: ONNXConstant, externalName: String?, _ offset: inout Int) {
            tensor = constant.tensor
            var message = tensor.messageStart(constant.name)
            let bytes = tensor.byteCount
            if let externalName, bytes >= Initializer.smallestExternal {
                isExternal = true
                let start = (offset + Initializer.alignment - 1) / Initializer.alignment * Initializer.alignment
                padding = start - offset
                offset = start + bytes
                for (key, value) in [("location", externalName), ("offset", "\(start)"), ("length", "\(bytes)")] {
                    var entry = ProtobufWriter()
                    entry.add(1, key)
                    entry.add(2, value)
                    message.add(13, entry.bytes)
                }
                message.add(14, UInt64(1))
            } else {
                isExternal = false
                message.begin(9, length: bytes)
            }
            var start = ProtobufWriter()
            start.begin(5, length: message.bytes.count + (isExternal ? 0 : bytes))
            head = start.bytes + message.bytes
        }

        /// Bytes in the graph.
        var length: Int { head.count + (isExternal ? 0 : tensor.byteCount) }

        func writeData(to file: inout FileWriter) throws {
            switch tensor {
            case .floats(let tensor): try tensor.withUnsafeBuffer { try file.write(UnsafeRawBufferPointer($0)) }
            case .integers(let values, _): try values.withUnsafeBytes { try file.write($0) }
            case .codes(let values, _): try values.withUnsafeBytes { try file.write($0) }
            }
        }
    }
}

extension ONNXTensor {
    fileprivate var byteCount: Int {
        switch self {
        case .floats(let tensor): 4 * tensor.count
        case .integers(let values, _): 8 * values.count
        case .codes(let values, _): values.count
        }
    }

    /// `TensorProto.DataType`
    private var elementType: UInt64 {
        switch self {
        case .floats: 1
        case .codes: 3
        case .integers: 7
        }
    }

    /// `TensorProto` of a nameless tensor.
    fileprivate var message: [UInt8] {
        var message = messageStart("")
        switch self {
        case .floats(let tensor): message.add(9, tensor.withUnsafeBuffer { Array(UnsafeRawBufferPointer($0)) })
        case .integers(let values, _): message.add(9, values.withUnsafeBytes { Array($0) })
        case .codes(let values, _): message.add(9, values.withUnsafeBytes { Array($0) })
        }
        return message.bytes
    }

    /// `TensorProto` but its data.
    fileprivate func messageStart(_ name: String) -> ProtobufWriter {
        var message = ProtobufWriter()
        for extent in shape.dimensions { message.add(1, UInt64(extent)) }
        message.add(2, elementType)
        message.add(8, name)
        return message
    }
}

extension ONNXNode {
    fileprivate var message: [UInt8] {
        var message = ProtobufWriter()
        for input in inputs { message.add(1, input) }
        for output in outputs { message.add(2, output) }
        message.add(3, name)
        message.add(4, operation)
        if !domain.isEmpty { message.add(7, domain) }
        for (name, attribute) in attributes.sorted(by: { $0.key < $1.key }) {
            message.add(5, attribute.message(name))
        }
        return message.bytes
    }
}

extension ONNXAttribute {
    /// `AttributeProto`
    fileprivate func message(_ name: String) -> [UInt8] {
        var message = ProtobufWriter()
        message.add(1, name)
        func whole(_ value: Int) -> UInt64 { UInt64(bitPattern: Int64(value)) }
        switch self {
        case .float(let value):
            message.add(2, value)
            message.add(20, UInt64(1))
        case .integer(let value):
            message.add(3, whole(value))
            message.add(20, UInt64(2))
        case .text(let value):
            message.add(4, value)
            message.add(20, UInt64(3))
        case .floats(let values):
            for value in values { message.add(7, value) }
            message.add(20, UInt64(6))
        case .integers(let values):
            for value in values { message.add(8, whole(value)) }
            message.add(20, UInt64(7))
        case .tensor(let tensor):
            message.add(5, tensor.message)
            message.add(20, UInt64(4))
        }
        return message.bytes
    }
}

extension ONNXValueInfo {
    /// `ValueInfoProto` of floats.
    fileprivate var message: [UInt8] {
        var dimensions = ProtobufWriter()
        for extent in shape {
            var dimension = ProtobufWriter()
            switch extent {
            case .fixed(let extent): dimension.add(1, UInt64(extent))
            case .named(let name): dimension.add(2, name)
            }
            dimensions.add(1, dimension.bytes)
        }
        var (tensor, type, message) = (ProtobufWriter(), ProtobufWriter(), ProtobufWriter())
        tensor.add(1, UInt64(1))
        tensor.add(2, dimensions.bytes)
        type.add(1, tensor.bytes)
        message.add(1, name)
        message.add(2, type.bytes)
        return message.bytes
    }
}
