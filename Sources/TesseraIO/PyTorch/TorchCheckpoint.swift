import Tessera

/// The weights in a file of `torch.save`: the zip archive of PyTorch 1.6 and newer, or the format before it.
///
/// Only data is read. What else a pickle can ask for is refused by its name, see ``PickleMachine``. Half, bfloat16,
/// float64 and whole numbers become floats; storages may be shared, strided and transposed.
public struct TorchCheckpoint: WeightSource {
    public let path: String
    /// The wrappers around the weights, such as `["model"]`.
    public let section: [String]
    public let shapes: [String: Shape]
    private let file: MappedFile
    private let tensors: [String: TorchTensor]
    /// Where each storage's bytes are.
    private let storages: [String: Range<Int>]

    /// The number with which the old format begins, 0x1950a86a20f9469cfc6c, as a pickle.
    private static let magic: [UInt8] = [
        0x80, 0x02, 0x8A, 0x0A, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19, 0x2E,
    ]

    static func begins(_ bytes: UnsafeRawBufferPointer) -> Bool {
        ZipArchive.begins(bytes) || (bytes.count >= 2 && bytes[0] == 0x80 && (2...5).contains(bytes[1]))
    }

    /// - Parameter section: which part to take, such as `model_ema`; nil: the usual one
    /// - Throws: ``SystemError``; ``FormatError`` with what is wrong or not allowed.
    public init(_ path: String, section: String? = nil) throws {
        try self.init(path, try MappedFile(path), section: section)
    }

    init(_ path: String, _ file: MappedFile, section: String?) throws {
        (self.path, self.file) = (path, file)
        let (machine, root, storages) =
            ZipArchive.begins(file.bytes)
            ? try Self.readArchive(path, file.bytes) : try Self.readOldFormat(path, file.bytes)
        self.storages = storages
        var search = StateDictionarySearch(machine)
        guard let found = search.run(root, section: section) else {
            throw FormatError(
                file: path, subject: section ?? "", found: "no tensors under names", expected: "a state dictionary")
        }
        (tensors, self.section) = (found.tensors, found.wrappers)
        shapes = tensors.mapValues(\.shape)
    }

    /// `NAME/data.pkl` says what there is, `NAME/data/KEY` are the storages.
    private static func readArchive(
        _ path: String, _ bytes: UnsafeRawBufferPointer
    ) throws -> (PickleMachine, PickleValue, [String: Range<Int>]) {
        let files = try ZipArchive(path: path, bytes: bytes).files
        guard let name = files.keys.filter({ $0 == "data.pkl" || $0.hasSuffix("/data.pkl") }).min() else {
            throw FormatError(file: path, found: "an archive without data.pkl", expected: "a PyTorch checkpoint")
        }
        let folder = name.dropLast("data.pkl".count)
        if files["\(folder)constants.pkl"] != nil {
            throw FormatError(
                file: path, found: "a TorchScript program", expected: "a saved state dictionary, without code")
        }
        if let order = files["\(folder)byteorder"], bytes[order].elementsEqual("big".utf8) {
            throw FormatError(file: path, subject: "byteorder", found: "big", expected: "little")
        }
        var machine = PickleMachine(ByteCursor(file: path, bytes: bytes, in: files[name]!))
        let root = try machine.run()
        let prefix = "\(folder)data/"
        let storages = files.filter { $0.key.hasPrefix(prefix) }.map { ($0.key.dropFirst(prefix.count), $0.value) }
        return (machine, root, Dictionary(uniqueKeysWithValues: storages.map { (String($0.0), $0.1) }))
    }

    /// Five pickles (magic number, version, machine, content, names of the storages), then the storages, each behind
    /// its count of elements.
    private static func readOldFormat(
        _ path: String, _ bytes: UnsafeRawBufferPointer
    ) throws -> (PickleMachine, PickleValue, [String: Range<Int>]) {
        guard bytes.starts(with: magic) else {
            throw FormatError(
                file: path, found: "a pickle that torch.save did not write", expected: "a PyTorch checkpoint")
        }
        var machine = PickleMachine(ByteCursor(file: path, bytes: bytes, in: magic.count..<bytes.count))
        guard case .integer(1001) = try machine.run() else { throw machine.refuse("another version", "version 1001") }
        let system = try machine.run()
        for (key, value) in machine.members(system) where key == "little_endian" {
            guard case .bool(false) = value else { continue }
            throw FormatError(file: path, subject: "byteorder", found: "big", expected: "little")
        }
        let root = try machine.run()
        let list = try machine.run()
        guard let names = machine.sequence(list) else {
            throw machine.refuse("no list", "the names of the storages")
        }
        let sizes = machine.storageTypes
        var cursor = machine.cursor
        var storages: [String: Range<Int>] = [:]
        for name in names {
            guard case .text(let key) = name, let type = sizes[key] else {
                throw machine.refuse("a storage that nothing uses", "the names of the storages above")
            }
            let count = try cursor.integer(UInt64.self)
            let (size, overflow) = count.multipliedReportingOverflow(by: UInt64(type.size))
            storages[key] = try cursor.take(overflow ? UInt64.max : size)
        }
        return (machine, root, storages)
    }

    public func tensor(_ name: String) throws -> Tensor {
        func refuse(_ found: String, _ expected: String) -> FormatError {
            FormatError(file: path, subject: "tensor \(name)", found: found, expected: expected)
        }
        guard let tensor = tensors[name] else { throw refuse("no such tensor", "a tensor of this name") }
        let storage = tensor.storage
        guard let place = storages[storage.key] else { throw refuse("no storage \(storage.key)", "one in the file") }
        let size = storage.type.size
        guard place.count / size >= storage.offset + storage.count else {
            throw refuse(
                "a storage of \(place.count) bytes", "\(storage.offset + storage.count) elements of \(size) bytes")
        }
        let shape = tensor.shape
        // Views that repeat elements can be far larger than the file.
        guard shape.count <= max(storage.count, Self.largestRepetition) else {
            throw refuse("\(shape) made of \(storage.count) elements", "at most \(Self.largestRepetition)")
        }
        guard shape.count > 0 else { return Tensor(zeros: shape) }
        let span = 1 + zip(tensor.sizes, tensor.strides).reduce(0) { $0 + ($1.0 - 1) * $1.1 }
        let start = place.lowerBound + (storage.offset + tensor.offset) * size
        let bytes = UnsafeRawBufferPointer(rebasing: file.bytes[start..<start + span * size])
        let stored = StoredArray(file: file, type: storage.type, bytes: bytes, refuse: refuse)
        if tensor.isContiguous { return try stored.tensor(shape) }
        return try stored.tensor([span]).withUnsafeBuffer { elements in
            Tensor(shape) { tensor.gather(elements, into: $0) }
        }
    }

    private static let largestRepetition = 1 << 20
}

extension TorchTensor {
    /// Whether the elements lie in the order of the indices, without gaps.
    fileprivate var isContiguous: Bool {
        var step = 1
        for (size, stride) in zip(sizes, strides).reversed() where size != 1 {
            guard stride == step else { return false }
            step *= size
        }
        return true
    }

    /// Walks all indices, the last fastest.
    fileprivate func gather(
        _ elements: UnsafeBufferPointer<Float>, into scalars: UnsafeMutableBufferPointer<Float>
    ) {
        var index = [Int](repeating: 0, count: sizes.count)
        var place = 0
        for position in scalars.indices {
            scalars[position] = elements[place]
            for axis in sizes.indices.reversed() {
                index[axis] += 1
                place += strides[axis]
                if index[axis] < sizes[axis] { break }
                place -= sizes[axis] * strides[axis]
                index[axis] = 0
            }
        }
    }
}
