/// The binary version of CIFAR-10 and CIFAR-100: records of one label byte (CIFAR-100: a coarse and a fine one) and
/// 3072 bytes of pixels, 32x32, one colour plane after the other.
enum CIFAR: Sendable {
    case ten, hundred

    private static let side = 32
    private static let imageBytes = 3 * side * side

    private var labelBytes: Int { self == .ten ? 1 : 2 }
    private var recordBytes: Int { labelBytes + Self.imageBytes }
    private var classes: Int { self == .ten ? 10 : 100 }

    static let trainFiles10 = (1...5).map { "data_batch_\($0).bin" }
    static let classNames10 = [
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ]

    /// Reads one or several files as one data set. Class names are those of the `meta` text file, when it is there.
    ///
    /// - Throws: `DataError` for a file that is not a whole number of records, or a label out of range.
    func read(_ paths: [String], names: String? = nil) throws -> PackedDataset {
        var labels: [UInt8] = []
        var pixels: [UInt8] = []
        for path in paths {
            let bytes = try Files.read(path)
            guard !bytes.isEmpty, bytes.count % recordBytes == 0 else {
                throw DataError(path, "has \(bytes.count) bytes; expected a multiple of \(recordBytes) (CIFAR records)")
            }
            for start in stride(from: 0, to: bytes.count, by: recordBytes) {
                let label = bytes[start + labelBytes - 1]
                guard Int(label) < classes else {
                    throw DataError(
                        path, "label \(label) in record \(start / recordBytes); there are \(classes) classes")
                }
                labels.append(label)
                interleave(bytes[(start + labelBytes)..<(start + recordBytes)], into: &pixels)
            }
        }
        return PackedDataset(
            classNames: try names.flatMap(readNames) ?? defaultNames, labels: labels, height: Self.side,
            width: Self.side, channels: 3, pixels: pixels, source: paths[0])
    }

    private func interleave(_ planes: ArraySlice<UInt8>, into pixels: inout [UInt8]) {
        let plane = Self.side * Self.side
        for i in planes.startIndex..<planes.startIndex + plane {
            pixels.append(planes[i])
            pixels.append(planes[i + plane])
            pixels.append(planes[i + 2 * plane])
        }
    }

    private var defaultNames: [String] { self == .ten ? Self.classNames10 : (0..<classes).map(String.init) }

    private func readNames(_ path: String) throws -> [String]? {
        guard Files.exists(path), try Files.size(of: path) < 1 << 16 else { return nil }
        let lines = String(decoding: try Files.read(path), as: UTF8.self).split(whereSeparator: \.isNewline)
        return lines.count == classes ? lines.map(String.init) : nil
    }
}
