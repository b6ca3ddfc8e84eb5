import Tessera

/// A constant tensor of an ONNX model, `TensorProto`: where its elements are.
struct ONNXTensor {
    private(set) var name = ""
    private(set) var shape: Shape = []
    private(set) var type: Safetensors.ElementType?
    /// The elements, row-major and little-endian, in the model's file or, with a location, in another.
    private(set) var data: Range<Int>?
    /// The file beside the model that holds the data.
    private(set) var location: String?

    /// - Throws: ``FormatError`` if the message is damaged or the shape cannot be.
    init(_ file: String, _ bytes: UnsafeRawBufferPointer, in range: Range<Int>) throws {
        var fields = ProtobufFields(file, bytes, in: range)
        var extents: [Int] = []
        var typeCode: UInt64 = 0
        var external: [String: String] = [:]
        func text(_ range: Range<Int>) -> String { String(decoding: bytes[range], as: UTF8.self) }
        while let (number, value) = try fields.next() {
            switch (number, value) {
            case (1, .integer(let extent)): extents.append(Int(clamping: extent))
            case (1, .bytes(let list)):
                extents += try ProtobufFields.integers(file, bytes, in: list).map { Int(clamping: $0) }
            case (2, .integer(let code)): typeCode = code
            // Floats and doubles in fields of their own are packed as they would be in raw data.
            case (4, .bytes(let data)), (9, .bytes(let data)), (10, .bytes(let data)): self.data = data
            case (8, .bytes(let range)): name = text(range)
            case (13, .bytes(let range)):
                var entry = ProtobufFields(file, bytes, in: range)
                var parts: [Int: String] = [:]
                while let (number, value) = try entry.next() {
                    if case .bytes(let range) = value { parts[number] = text(range) }
                }
                external[parts[1] ?? ""] = parts[2] ?? ""
            default: break
            }
        }
        type = ONNXTensor.types[typeCode]
        // Every partial product must fit: Shape multiplies without a check.
        let product = extents.reduce(Optional(8)) { product, extent in
            product.flatMap { product in
                let (next, overflow) = product.multipliedReportingOverflow(by: max(extent, 1))
                return overflow ? nil : next
            }
        }
        guard product != nil, extents.count <= 16 else {
            throw FormatError(
                file: file, subject: "tensor \(name)", found: "\(extents)", expected: "a size that 64 bits can hold")
        }
        shape = Shape(extents)
        guard let location = external["location"] else { return }
        guard !location.contains("/"), let start = Int(external["offset"] ?? "0"), start >= 0,
            start <= Int.max - shape.count * 8
        else {
            throw FormatError(
                file: file, subject: "tensor \(name)", found: "data in \(location) at \(external["offset"] ?? "0")",
                expected: "data in a file beside the model")
        }
        self.location = location
        data = start..<start + shape.count * (type?.size ?? 0)
    }

    /// `TensorProto.DataType`.
    private static let types: [UInt64: Safetensors.ElementType] = [
        1: .float32, 2: .uint8, 3: .int8, 5: .int16, 6: .int32, 7: .int64, 9: .bool, 10: .float16, 11: .float64,
        16: .bfloat16,
    ]
}
