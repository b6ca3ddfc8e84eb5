import CCodecs

/// The idx format of the MNIST family: a big-endian header (two zero bytes, element type, rank, one 32-bit size for each
/// dimension), then the elements; plain or inside gzip. Only unsigned bytes (type 8) of rank 1 to 3 are read.
struct IDXFile {
    let dimensions: [Int]
    let values: [UInt8]

    /// - Throws: `DataError` when the header is not idx, or the content is not exactly as long as the header says.
    init(contentsOf path: String) throws { try self.init(decoding: Files.read(path), name: path) }

    init(decoding bytes: [UInt8], name: String) throws {
        let content = Content(bytes: bytes, isGzip: bytes.starts(with: [0x1F, 0x8B]), name: name)
        let start = try content.prefix(4, exactly: false)
        guard start[0] == 0, start[1] == 0 else { throw DataError(name, "not an idx file: it does not start with 0 0") }
        guard start[2] == 8 else {
            throw DataError(name, "idx element type \(start[2]); only 8 (unsigned byte) is supported")
        }
        let rank = Int(start[3])
        guard (1...3).contains(rank) else { throw DataError(name, "idx rank \(rank); 1 to 3 are supported") }
        let headerSize = 4 + 4 * rank
        let header = try content.prefix(headerSize, exactly: false)
        dimensions = (0..<rank).map { d in header[4 + 4 * d..<8 + 4 * d].reduce(0) { $0 << 8 | Int($1) } }

        var size = 1
        for dimension in dimensions {
            let (product, overflow) = size.multipliedReportingOverflow(by: dimension)
            // Deflate cannot shrink more than 1032 times, so a larger promise is a lie: do not allocate for it.
            guard !overflow, product <= bytes.count.multipliedReportingOverflow(by: 1040).partialValue else {
                throw DataError(name, "the header promises \(dimensions) elements; the file has \(bytes.count) bytes")
            }
            size = product
        }
        values = Array(try content.prefix(headerSize + size, exactly: true)[headerSize...])
    }

    /// The bytes of the file after decompression, taken in measured portions.
    private struct Content {
        let bytes: [UInt8]
        let isGzip: Bool
        let name: String

        /// The first `count` bytes; with `exactly`, there must be no more.
        func prefix(_ count: Int, exactly: Bool) throws -> [UInt8] {
            guard isGzip else {
                guard bytes.count >= count, !exactly || bytes.count == count else {
                    throw DataError(name, "has \(bytes.count) bytes; its header asks for \(count)")
                }
                return Array(bytes[..<count])
            }
            var status = TC_GZIP_CORRUPT
            let output = [UInt8](unsafeUninitializedCapacity: count) { buffer, produced in
                status = tc_gunzip(bytes, bytes.count, buffer.baseAddress, count, &produced)
            }
            switch status {
            case TC_GZIP_ENDED where output.count == count, TC_GZIP_MORE where !exactly: return output
            case TC_GZIP_ENDED:
                throw DataError(name, "has \(output.count) bytes unpacked; its header asks for \(count)")
            case TC_GZIP_MORE: throw DataError(name, "has more than the \(count) bytes that its header asks for")
            case TC_GZIP_TRUNCATED: throw DataError(name, "the gzip stream is truncated")
            default: throw DataError(name, "the gzip stream is corrupt")
            }
        }
    }
}

extension PackedDataset {
    /// Images (rank 3: count, height, width) with their labels (rank 1: count).
    init(idxImages: String, idxLabels: String, classNames known: [String]? = nil) throws {
        let images = try IDXFile(contentsOf: idxImages)
        let labels = try IDXFile(contentsOf: idxLabels)
        guard images.dimensions.count == 3, images.dimensions.allSatisfy({ $0 > 0 }) else {
            throw DataError(idxImages, "dimensions \(images.dimensions); expected images x height x width")
        }
        guard labels.dimensions == [images.dimensions[0]] else {
            throw DataError(
                idxLabels, "dimensions \(labels.dimensions); expected [\(images.dimensions[0])], one for each image")
        }
        let classes = Int(labels.values.max()!) + 1
        if let known, classes > known.count {
            throw DataError(idxLabels, "label \(classes - 1); the data set has \(known.count) classes")
        }
        self.init(
            classNames: known ?? (0..<classes).map(String.init), labels: labels.values,
            height: images.dimensions[1], width: images.dimensions[2], channels: 1, pixels: images.values,
            source: idxImages)
    }
}
