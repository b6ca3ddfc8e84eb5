import Tessera

/// The elements of an array as they lie in a file: row-major, little-endian.
struct StoredArray {
    let file: MappedFile
    let type: Safetensors.ElementType
    let bytes: UnsafeRawBufferPointer
    /// Tells a value that float32 cannot hold from which array it is.
    let refuse: (_ found: String, _ expected: String) -> FormatError

    /// The array as floats, converted if it is stored in another type: float64 is rounded. Aligned float32 is borrowed.
    ///
    /// - Throws: what `refuse` makes if a whole number has no equal float.
    /// - Precondition: the bytes hold the shape's count of elements.
    func tensor(_ shape: Shape) throws -> Tensor {
        precondition(bytes.count == shape.count * type.size, "\(bytes.count) bytes for \(type) \(shape)")
        switch type {
        case .float32: return borrowed(shape)
        case .float64: return read(shape, Float64.self) { Float($0) }
        case .float16: return read(shape, UInt16.self) { Float(Float16(bitPattern: $0)) }
        case .bfloat16: return read(shape, UInt16.self) { Float(bitPattern: UInt32($0) << 16) }
        case .int16: return read(shape, Int16.self) { Float($0) }
        case .int8: return read(shape, Int8.self) { Float($0) }
        case .uint8: return read(shape, UInt8.self) { Float($0) }
        case .bool: return read(shape, UInt8.self) { $0 == 0 ? 0 : 1 }
        case .int32: return try read(shape, Int32.self) { try exact($0) }
        case .int64: return try read(shape, Int64.self) { try exact($0) }
        }
    }

    /// Every element, in order.
    func elements<Stored, Element>(_ type: Stored.Type, _ convert: (Stored) throws -> Element) rethrows -> [Element] {
        try (0..<bytes.count / self.type.size).map {
            try convert(bytes.loadUnaligned(fromByteOffset: $0 * self.type.size, as: type))
        }
    }

    private func borrowed(_ shape: Shape) -> Tensor {
        guard let base = bytes.baseAddress, !bytes.isEmpty, Int(bitPattern: base) % MemoryLayout<Float>.alignment == 0
        else { return read(shape, UInt32.self) { Float(bitPattern: $0) } }
        return Tensor(borrowing: base.assumingMemoryBound(to: Float.self), shape, owner: file)
    }

    private func read<Stored>(
        _ shape: Shape, _ type: Stored.Type, _ convert: (Stored) throws -> Float
    ) rethrows -> Tensor {
        try Tensor(shape) { scalars in
            for index in scalars.indices {
                scalars[index] = try convert(bytes.loadUnaligned(fromByteOffset: index * self.type.size, as: type))
            }
        }
    }

    private func exact(_ value: some BinaryInteger) throws -> Float {
        guard let float = Float(exactly: value) else { throw refuse("\(value)", "whole numbers that float32 can hold") }
        return float
    }
}
