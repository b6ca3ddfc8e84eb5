import Tessera

extension ONNXModel {
    /// Reads a model, its constants as floats or whole numbers.
    ///
    /// Constants may lie in files beside it. What is of no use to a forward pass is passed over.
    /// - Throws: `SystemError`; `FormatError` if a file is damaged or holds what this library cannot.
    public init(_ path: String) throws { try self.init(path, MappedFile(path)) }

    init(_ path: String, _ file: MappedFile) throws {
        var reader = ONNXReader(path: path, file: file)
        self = try reader.model()
    }
}

/// Reads the messages of a model's file.
private struct ONNXReader {
    private let path: String
    private let file: MappedFile
    private var otherFiles: [String: MappedFile] = [:]

    /// More of them, and the lists would be out of proportion to the file.
    private static let mostNodes = 1 << 18
    private static let mostOperands = 1 << 12

    init(path: String, file: MappedFile) { (self.path, self.file) = (path, file) }

    private func refuse(_ subject: String, _ found: String, _ expected: String) -> FormatError {
        FormatError(file: path, subject: subject, found: found, expected: expected)
    }

    private func text(_ range: Range<Int>) -> String { String(decoding: file.bytes[range], as: UTF8.self) }

    /// Calls `body` with the number and value of each field of a message.
    private func read(_ range: Range<Int>, _ body: (Int, ProtobufFields.Value) throws -> Void) throws {
        var fields = ProtobufFields(path, file.bytes, in: range)
        while let (number, value) = try fields.next() { try body(number, value) }
    }

    /// `ModelProto`
    mutating func model() throws -> ONNXModel {
        var model = ONNXModel()
        var graph: Range<Int>?
        try read(0..<file.bytes.count) { number, value in
            switch (number, value) {
            case (2, .bytes(let range)): model.producer = text(range)
            case (7, .bytes(let range)): graph = range
            case (8, .bytes(let range)):
                var (domain, version) = ("", 0)
                try read(range) { number, value in
                    if case (1, .bytes(let range)) = (number, value) { domain = text(range) }
                    if case (2, .integer(let number)) = (number, value) { version = Int(clamping: number) }
                }
                if domain.isEmpty || domain == "ai.onnx" { model.operatorVersion = version }
            case (14, .bytes(let range)):
                let entry = try self.entry(range)
                model.metadata.append((entry.key, entry.value))
            default: break
            }
        }
        guard let graph else { throw refuse("", "no graph", "an ONNX model") }
        try read(graph: graph, into: &model)
        return model
    }

    /// `StringStringEntryProto`
    private func entry(_ range: Range<Int>) throws -> (key: String, value: String) {
        var entry = (key: "", value: "")
        try read(range) { number, value in
            guard case .bytes(let range) = value else { return }
            if number == 1 { entry.key = text(range) }
            if number == 2 { entry.value = text(range) }
        }
        return entry
    }

    /// `GraphProto`
    private mutating func read(graph: Range<Int>, into model: inout ONNXModel) throws {
        var fields = ProtobufFields(path, file.bytes, in: graph)
        while let (number, value) = try fields.next() {
            guard case .bytes(let range) = value else { continue }
            switch number {
            case 1:
                guard model.nodes.count < ONNXReader.mostNodes else {
                    throw refuse("", "too many nodes", "at most \(ONNXReader.mostNodes)")
                }
                model.nodes.append(try node(range))
            case 5:
                let (name, tensor) = try self.tensor(range)
                model.constants.append(ONNXConstant(name: name, tensor: tensor))
            case 11: model.inputs.append(try valueInfo(range))
            case 12: model.outputs.append(try valueInfo(range))
            case 15: throw refuse("", "a sparse constant", "dense ones")
            default: break
            }
        }
    }

    /// `NodeProto`
    private mutating func node(_ range: Range<Int>) throws -> ONNXNode {
        var node = ONNXNode(operation: "", inputs: [], outputs: [])
        var fields = ProtobufFields(path, file.bytes, in: range)
        while let (number, value) = try fields.next() {
            guard case .bytes(let range) = value else { continue }
            switch number {
            case 1: node.inputs.append(text(range))
            case 2: node.outputs.append(text(range))
            case 3: node.name = text(range)
            case 4: node.operation = text(range)
            case 5:
                let (name, attribute) = try self.attribute(range)
                if let attribute { node.attributes[name] = attribute }
            case 7: node.domain = text(range)
            default: break
            }
            guard node.inputs.count + node.outputs.count <= ONNXReader.mostOperands else {
                throw refuse("node \(node.name)", "too many operands", "at most \(ONNXReader.mostOperands)")
            }
        }
        return node
    }

    /// `AttributeProto`; nil for kinds that no known operator has.
    private mutating func attribute(_ range: Range<Int>) throws -> (String, ONNXAttribute?) {
        var (name, kind) = ("", 0)
        var single: ONNXAttribute?
        var floats: [Float] = []
        var integers: [Int] = []
        func whole(_ value: UInt64) -> Int { Int(Int64(bitPattern: value)) }
        var fields = ProtobufFields(path, file.bytes, in: range)
        while let (number, value) = try fields.next() {
            switch (number, value) {
            case (1, .bytes(let range)): name = text(range)
            case (2, .fixed32(let bits)): single = .float(Float(bitPattern: bits))
            case (3, .integer(let value)): single = .integer(whole(value))
            case (4, .bytes(let range)): single = .text(text(range))
            case (5, .bytes(let range)): single = .tensor(try tensor(range).tensor)
            case (7, .fixed32(let bits)): floats.append(Float(bitPattern: bits))
            case (7, .bytes(let range)): floats += self.floats(range)
            case (8, .integer(let value)): integers.append(whole(value))
            case (8, .bytes(let range)):
                integers += try ProtobufFields.integers(path, file.bytes, in: range).map(whole)
            case (20, .integer(let value)): kind = Int(clamping: value)
            default: break
            }
        }
        switch kind {
        case 6: return (name, .floats(floats))
        case 7: return (name, .integers(integers))
        // Old files do not say the kind.
        case 0 where single == nil: return (name, floats.isEmpty ? .integers(integers) : .floats(floats))
        // A zero need not be written.
        case 1: return (name, single ?? .float(0))
        case 2: return (name, single ?? .integer(0))
        default: return (name, single)
        }
    }

    private func floats(_ range: Range<Int>) -> [Float] {
        (0..<range.count / 4).map { index in
            let place = range.lowerBound + 4 * index
            return Float(
                bitPattern: UInt32(littleEndian: file.bytes.loadUnaligned(fromByteOffset: place, as: UInt32.self)))
        }
    }

    /// `ValueInfoProto`
    private func valueInfo(_ range: Range<Int>) throws -> ONNXValueInfo {
        var info = ONNXValueInfo(name: "", shape: [])
        try read(range) { number, value in
            guard case .bytes(let range) = value else { return }
            if number == 1 { info.name = text(range) }
            // type, its tensor_type, its shape, its dimensions
            if number == 2 {
                try read(range) { number, value in
                    guard number == 1, case .bytes(let range) = value else { return }
                    try read(range) { number, value in
                        guard number == 2, case .bytes(let range) = value else { return }
                        try read(range) { number, value in
                            guard number == 1, case .bytes(let range) = value else { return }
                            info.shape.append(try extent(range))
                        }
                    }
                }
            }
        }
        return info
    }

    private func extent(_ range: Range<Int>) throws -> ONNXValueInfo.Extent {
        var extent = ONNXValueInfo.Extent.named("")
        try read(range) { number, value in
            if case (1, .integer(let value)) = (number, value) { extent = .fixed(Int(clamping: value)) }
            if case (2, .bytes(let range)) = (number, value) { extent = .named(text(range)) }
        }
        return extent
    }
}

extension ONNXReader {
    /// `TensorProto`
    private mutating func tensor(_ range: Range<Int>) throws -> (name: String, tensor: ONNXTensor) {
        var (name, code, extents) = ("", 0, [Int]())
        var raw: Range<Int>?
        var whole: [Int] = []
        var external: [String: String] = [:]
        func signed(_ value: UInt64) -> Int { Int(Int64(bitPattern: value)) }
        try read(range) { number, value in
            switch (number, value) {
            case (1, .integer(let extent)): extents.append(Int(clamping: extent))
            case (1, .bytes(let list)):
                extents += try ProtobufFields.integers(path, file.bytes, in: list).map { Int(clamping: $0) }
            case (2, .integer(let value)): code = Int(clamping: value)
            // Packed floats and doubles lie as they would in raw data.
            case (4, .bytes(let range)), (9, .bytes(let range)), (10, .bytes(let range)): raw = range
            case (5, .integer(let value)), (7, .integer(let value)): whole.append(signed(value))
            case (5, .bytes(let list)), (7, .bytes(let list)):
                whole += try ProtobufFields.integers(path, file.bytes, in: list).map(signed)
            case (8, .bytes(let range)): name = text(range)
            case (13, .bytes(let range)):
                let entry = try self.entry(range)
                external[entry.key] = entry.value
            default: break
            }
        }
        let subject = "tensor \(name)"
        guard let type = ONNXReader.types[code] else {
            throw refuse(subject, "elements of type \(code)", "floats or whole numbers")
        }
        guard extents.count <= 8, let count = ONNXReader.product(extents) else {
            throw refuse(subject, "\(extents)", "up to 8 extents whose product 32 bits can hold")
        }
        let shape = Shape(extents)
        if !whole.isEmpty, type.isWhole {
            guard whole.count == count else {
                throw refuse(subject, "\(whole.count) elements", "\(count) for \(shape)")
            }
            return (name, .integers(whole, shape))
        }
        var source = file
        if let location = external["location"] {
            (source, raw) = try self.external(location, external, subject, bytes: count * type.size)
        }
        let bytes = raw ?? 0..<0
        guard bytes.count == count * type.size else {
            throw refuse(subject, "\(bytes.count) bytes", "\(count * type.size) for \(shape)")
        }
        let array = StoredArray(
            file: source, type: type, bytes: UnsafeRawBufferPointer(rebasing: source.bytes[bytes]),
            refuse: { [path] in FormatError(file: path, subject: subject, found: $0, expected: $1) })
        return (name, type.isWhole ? .integers(array.integers, shape) : .floats(try array.tensor(shape)))
    }

    /// The place of data in a file beside the model's.
    private mutating func external(
        _ location: String, _ entries: [String: String], _ subject: String, bytes: Int
    ) throws -> (MappedFile, Range<Int>) {
        guard !location.contains("/"), !location.contains("\0"), location != "..", location != "." else {
            throw refuse(subject, "data in \(location)", "data in a file beside the model")
        }
        let folder = parent(of: path)
        let source = try otherFiles[location] ?? MappedFile("\(folder)/\(location)")
        otherFiles[location] = source
        guard let start = Int(entries["offset"] ?? "0"), start >= 0, start <= source.bytes.count - bytes else {
            throw refuse(
                subject, "data at \(entries["offset"] ?? "0") of the \(source.bytes.count) bytes of \(location)",
                "\(bytes) bytes inside of it")
        }
        return (source, start..<start + bytes)
    }

    /// `TensorProto.DataType`
    private static let types: [Int: Safetensors.ElementType] = [
        1: .float32, 2: .uint8, 3: .int8, 5: .int16, 6: .int32, 7: .int64, 9: .bool, 10: .float16, 11: .float64,
        16: .bfloat16,
    ]

    private static func product(_ extents: [Int]) -> Int? {
        // With zeros left out, so that no partial product of a shape can overflow.
        let product = extents.reduce(Optional(1)) { product, extent in
            product.flatMap { product in
                let (next, overflow) = product.multipliedReportingOverflow(by: max(1, extent))
                return overflow || next > Int32.max ? nil : next
            }
        }
        return product.map { extents.contains(0) ? 0 : $0 }
    }
}

extension Safetensors.ElementType {
    fileprivate var isWhole: Bool {
        switch self {
        case .float64, .float32, .float16, .bfloat16: false
        case .int64, .int32, .int16, .int8, .uint8, .bool: true
        }
    }
}

extension StoredArray {
    fileprivate var integers: [Int] {
        switch type {
        case .int64: elements(Int64.self) { Int($0) }
        case .int32: elements(Int32.self) { Int($0) }
        case .int16: elements(Int16.self) { Int($0) }
        case .int8: elements(Int8.self) { Int($0) }
        case .uint8: elements(UInt8.self) { Int($0) }
        default: elements(UInt8.self) { $0 == 0 ? 0 : 1 }
        }
    }
}
