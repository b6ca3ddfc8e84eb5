import Tessera

/// Elements in memory of PyTorch, which several tensors may share.
struct TorchStorage {
    /// Its name in the file.
    let key: String
    let type: Safetensors.ElementType
    /// Elements.
    let count: Int
    /// Where it begins in the named memory, in elements: old files have views of storages.
    var offset = 0
}

/// A strided view of a storage. Every element of it lies in the storage.
struct TorchTensor {
    let storage: TorchStorage
    let offset: Int
    let sizes: [Int]
    let strides: [Int]

    var shape: Shape { Shape(sizes) }
}

/// The constructors that a PyTorch checkpoint needs, by the meaning they have for its data. None of them runs anything.
enum TorchConstructors {
    static let dictionaries: Set = [
        "collections.OrderedDict", "collections.defaultdict", "builtins.dict", "yacs.config.CfgNode",
    ]
    static let sequences: Set = [
        "torch.Size", "builtins.list", "builtins.tuple", "builtins.set", "builtins.frozenset", "__builtin__.set",
        "__builtin__.list", "__builtin__.frozenset",
    ]
    /// What checkpoints hold besides weights, such as the arguments of the run: kept apart, and not looked at.
    static let records: Set = [
        "argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.PurePosixPath",
        "pathlib.WindowsPath", "torch.device", "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
        "_codecs.encode",
    ]
    static let tensors: Set = [
        "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
    ]
    /// Their first argument is the tensor.
    static let parameters: Set = [
        "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
    ]
    /// A constructor and its arguments among the arguments.
    static let indirect = "torch._tensor._rebuild_from_type_v2"
    /// What that constructor makes is a tensor, whatever its class.
    static let tensorClasses: Set = ["torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"]
    static let untyped: Set = ["torch.storage.UntypedStorage", "torch.storage._UntypedStorage", "torch.UntypedStorage"]

    static func element(ofStorage name: String) -> Safetensors.ElementType? {
        let name = name.hasPrefix("torch.cuda.") ? "torch." + name.dropFirst("torch.cuda.".count) : name
        return switch name {
        case "torch.DoubleStorage": .float64
        case "torch.FloatStorage": .float32
        case "torch.HalfStorage": .float16
        case "torch.BFloat16Storage": .bfloat16
        case "torch.LongStorage": .int64
        case "torch.IntStorage": .int32
        case "torch.ShortStorage": .int16
        case "torch.CharStorage": .int8
        case "torch.ByteStorage": .uint8
        case "torch.BoolStorage": .bool
        default: untyped.contains(name) ? .uint8 : nil
        }
    }

    static func element(ofType name: String) -> Safetensors.ElementType? {
        switch name {
        case "torch.float64": .float64
        case "torch.float32": .float32
        case "torch.float16": .float16
        case "torch.bfloat16": .bfloat16
        case "torch.int64": .int64
        case "torch.int32": .int32
        case "torch.int16": .int16
        case "torch.int8": .int8
        case "torch.uint8": .uint8
        case "torch.bool": .bool
        default: nil
        }
    }

    static func knows(_ name: String) -> Bool {
        [dictionaries, sequences, records, tensors, parameters, tensorClasses].contains { $0.contains(name) }
            || name == indirect || element(ofStorage: name) != nil || element(ofType: name) != nil
    }
}

extension PickleMachine {
    /// - Throws: ``FormatError`` with the name if it is none that a checkpoint needs.
    func known(_ name: String) throws -> PickleValue {
        guard TorchConstructors.knows(name) else {
            throw FormatError(
                file: cursor.file, subject: "pickle", found: "\(name.prefix(200)), which was not run",
                expected: "tensors and plain data alone")
        }
        return .name(name)
    }

    mutating func construct(_ name: String, _ arguments: [PickleValue]) throws -> PickleValue {
        if TorchConstructors.tensors.contains(name) { return .tensor(try tensor(name, arguments)) }
        if TorchConstructors.parameters.contains(name) {
            guard let value = arguments.first, case .tensor = value else { throw refuse("no tensor", "one in \(name)") }
            return value
        }
        if name == TorchConstructors.indirect {
            guard arguments.count >= 3, case .name(let inner) = arguments[0], inner != name,
                let innerArguments = sequence(arguments[2])
            else { throw refuse("other arguments", "a constructor and its arguments in \(name)") }
            return try construct(inner, innerArguments)
        }
        if TorchConstructors.dictionaries.contains(name) {
            // Python 2 gave the members as a list of pairs.
            let pairs = arguments.first.flatMap { sequence($0) } ?? []
            let members = pairs.compactMap { sequence($0) }.filter { $0.count == 2 }
            return make(.dictionary, members.flatMap { $0 })
        }
        if TorchConstructors.sequences.contains(name) {
            return make(.tuple, arguments.first.flatMap { sequence($0) } ?? [])
        }
        guard TorchConstructors.records.contains(name) else {
            throw refuse("a call of \(name)", "a constructor of data")
        }
        return make(.record, arguments)
    }

    /// Gives an object its state: a record keeps it, what else has one does not need it.
    mutating func build(_ value: PickleValue, _ state: PickleValue) throws {
        switch value {
        case .tensor: break
        case .object(let place): if heap[place].kind == .record { heap[place].elements.append(state) }
        default: throw refuse("a state for what has none", "an object on the stack")
        }
    }

    /// What lies outside of the pickle: `("storage", type, key, device, elements)`, in old files with a view,
    /// `(key, offset, elements)` or none.
    func persistent(_ identity: PickleValue) throws -> TorchStorage {
        guard let parts = sequence(identity), parts.count >= 5, case .text("storage") = parts[0] else {
            throw refuse("an unknown reference", "a storage (of a saved state dictionary, not of a whole module)")
        }
        guard case .name(let name) = parts[1], let type = TorchConstructors.element(ofStorage: name) else {
            throw refuse("a storage of another type", "one of whole numbers or floats")
        }
        guard case .text(let key) = parts[2], case .integer(let count) = parts[4],
            (0...1 << 56).contains(count)
        else {
            throw refuse("a storage without key or size", "both")
        }
        guard parts.count > 5, let view = sequence(parts[5]) else {
            return TorchStorage(key: key, type: type, count: count)
        }
        guard view.count == 3, case .integer(let offset) = view[1], case .integer(let size) = view[2], offset >= 0,
            size >= 0, offset <= count, size <= count - offset
        else { throw refuse("a view outside of its storage", "one inside") }
        return TorchStorage(key: key, type: type, count: size, offset: offset)
    }

    /// `_rebuild_tensor_v2(storage, offset, sizes, strides, requires gradient, hooks)`; version 3 adds the type of the
    /// elements of an untyped storage after that.
    private func tensor(_ name: String, _ arguments: [PickleValue]) throws -> TorchTensor {
        guard arguments.count >= 4, case .storage(var storage) = arguments[0], case .integer(let offset) = arguments[1],
            let sizes = extents(arguments[2]), let strides = extents(arguments[3])
        else { throw refuse("other arguments", "storage, offset, sizes and strides in \(name)") }
        if name.hasSuffix("_v3") {
            guard arguments.count >= 7, case .name(let dtype) = arguments[6],
                let type = TorchConstructors.element(ofType: dtype)
            else { throw refuse("no type of elements", "one of whole numbers or floats in \(name)") }
            storage = TorchStorage(
                key: storage.key, type: type, count: storage.count * storage.type.size / type.size)
        }
        guard sizes.count == strides.count, offset >= 0, let last = lastElement(sizes, strides),
            offset <= storage.count, last <= storage.count - offset
        else {
            throw refuse(
                "a tensor \(sizes) with strides \(strides) at \(offset)",
                "one inside its storage of \(storage.count) elements")
        }
        return TorchTensor(storage: storage, offset: offset, sizes: sizes, strides: strides)
    }

    private func extents(_ value: PickleValue) -> [Int]? {
        sequence(value).flatMap { elements in
            let extents = elements.compactMap { if case .integer(let extent) = $0, extent >= 0 { extent } else { nil } }
            return extents.count == elements.count && extents.count <= 16 ? extents : nil
        }
    }

    /// How many elements of the storage a tensor spans, nil if 64 bits cannot hold that or the tensor's own count.
    private func lastElement(_ sizes: [Int], _ strides: [Int]) -> Int? {
        var (count, span) = (1, 1)
        for (size, stride) in zip(sizes, strides) {
            // Every partial product must fit, whatever zeros follow.
            let (product, overflow) = count.multipliedReportingOverflow(by: max(size, 1))
            let (reach, far) = max(size - 1, 0).multipliedReportingOverflow(by: stride)
            let (sum, beyond) = span.addingReportingOverflow(reach)
            guard !overflow, !far, !beyond, product <= Int.max / 8 else { return nil }
            (count, span) = (product, sum)
        }
        return sizes.contains(0) ? 0 : span
    }
}
