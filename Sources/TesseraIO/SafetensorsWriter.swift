import Tessera

extension Safetensors {
    /// The types that floats can be stored as.
    public enum FloatType: String, Sendable, CaseIterable {
        case float32, bfloat16, float16

        fileprivate var element: ElementType {
            switch self {
            case .float32: .float32
            case .bfloat16: .bfloat16
            case .float16: .float16
            }
        }
    }

    /// Writes a file atomically. The same arguments give the same bytes: the data lies in the order of `tensors`.
    ///
    /// 16-bit types are rounded to the nearest, ties to even.
    /// - Parameter bytes: arrays of type U8 that follow the tensors
    /// - Throws: ``SystemError`` if the file cannot be written, ``FormatError`` if two tensors have one name.
    @discardableResult
    public static func write(
        _ tensors: [(String, Tensor)], bytes: [(name: String, shape: Shape, content: [UInt8])] = [],
        metadata: [String: String] = [:], as type: FloatType = .float32, to path: String,
        on files: some FileSystem = .system
    ) throws -> FileDigest {
        let arrays = tensors.map { ($0.0, type.element, $0.1.shape) } + bytes.map { ($0.name, .uint8, $0.shape) }
        let header = try SafetensorsHeader.encode(arrays, metadata: metadata, path: path)
        return try AtomicFile.write(to: path, on: files) { writer in
            try writer.write(header)
            for (_, tensor) in tensors {
                switch type {
                case .float32: try tensor.withUnsafeBuffer { try writer.write(UnsafeRawBufferPointer($0)) }
                case .bfloat16: try writer.write(tensor, roundedBy: bfloat16)
                case .float16: try writer.write(tensor) { Float16($0).bitPattern }
                }
            }
            for array in bytes { try writer.write(array.content) }
        }
    }
}

extension FileWriter {
    /// Converts in pieces, so that a large tensor is not held twice.
    fileprivate mutating func write(_ tensor: Tensor, roundedBy convert: (Float) -> UInt16) throws {
        try tensor.withUnsafeBuffer { scalars in
            for start in stride(from: 0, to: scalars.count, by: 1 << 16) {
                let piece = scalars[start..<min(start + 1 << 16, scalars.count)].map { convert($0).littleEndian }
                try piece.withUnsafeBytes { try write($0) }
            }
        }
    }
}

/// The upper half of the float, rounded to nearest even. NaN stays NaN even if only its lower half says so.
private func bfloat16(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    if value.isNaN { return UInt16(bits >> 16) | 0x40 }
    return UInt16(truncatingIfNeeded: (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
}
