/// What a pickle says. Values that hold others lie in the machine's heap and are referred to by their place, so nesting
/// and cycles, however deep, cost nothing to make or to forget.
enum PickleValue {
    case none
    case bool(Bool)
    case integer(Int)
    case float(Double)
    case text(String)
    case bytes([UInt8])
    /// A function or class by its name, such as `collections.OrderedDict`.
    case name(String)
    indirect case storage(TorchStorage)
    indirect case tensor(TorchTensor)
    case object(Int)
}

/// Reads a pickle, Python's format for object graphs, without Python: a program for a stack machine, of which protocols
/// 2 to 5 are understood (PEP 307, 3154, 574).
///
/// A pickle can name any function and have it called, which makes it a program of its author. This machine knows the
/// few constructors that a checkpoint needs, ``TorchConstructors``, each by a meaning of its own, and refuses every
/// other name where it is mentioned.
struct PickleMachine {
    /// Something that holds values. In a dictionary, keys and values alternate.
    struct Object {
        enum Kind {
            case tuple, list, dictionary
            /// A plain object of a class: its arguments, then its state.
            case record
        }

        let kind: Kind
        var elements: [PickleValue]
    }

    /// Bounds the memory that a small file can ask for; a checkpoint has about 40 steps a tensor.
    private static let maximumSteps = 4_000_000

    var heap: [Object] = []
    private(set) var cursor: ByteCursor
    /// The storages that were mentioned.
    private(set) var storageTypes: [String: Safetensors.ElementType] = [:]
    private var stack: [PickleValue] = []
    private var marks: [Int] = []
    private var memo: [Int: PickleValue] = [:]
    private var steps = 0

    init(_ cursor: ByteCursor) { self.cursor = cursor }

    /// Runs one pickle to its end, after which the cursor stands behind it.
    /// - Throws: ``FormatError``.
    mutating func run() throws -> PickleValue {
        (stack, marks, memo) = ([], [], [:])
        while true {
            steps += 1
            guard steps <= PickleMachine.maximumSteps else {
                throw refuse("more than \(PickleMachine.maximumSteps) steps", "a checkpoint")
            }
            let opcode = try cursor.integer(UInt8.self)
            if opcode == UInt8(ascii: ".") { return try pop() }
            try step(opcode)
        }
    }

    func refuse(_ found: String, _ expected: String) -> FormatError {
        FormatError(file: cursor.file, subject: "pickle at byte \(cursor.position)", found: found, expected: expected)
    }

    /// The elements of a tuple or list; nil for anything else.
    func sequence(_ value: PickleValue) -> [PickleValue]? {
        guard case .object(let place) = value, [.tuple, .list].contains(heap[place].kind) else { return nil }
        return heap[place].elements
    }

    /// The members of a dictionary whose keys are texts; none for anything else.
    func members(_ value: PickleValue) -> [(key: String, value: PickleValue)] {
        guard case .object(let place) = value, heap[place].kind == .dictionary else { return [] }
        let elements = heap[place].elements
        return stride(from: 0, to: elements.count - 1, by: 2).compactMap { index in
            guard case .text(let key) = elements[index] else { return nil }
            return (key, elements[index + 1])
        }
    }

    mutating func make(_ kind: Object.Kind, _ elements: [PickleValue] = []) -> PickleValue {
        heap.append(Object(kind: kind, elements: elements))
        return .object(heap.count - 1)
    }

    private mutating func step(_ opcode: UInt8) throws {
        switch opcode {
        case 0x80:  // PROTO
            let version = try cursor.integer(UInt8.self)
            guard (2...5).contains(version) else { throw refuse("protocol \(version)", "2 to 5") }
        case 0x95: _ = try cursor.take(8)  // FRAME: only a hint for buffering
        case UInt8(ascii: "("): marks.append(stack.count)
        case UInt8(ascii: "0"): _ = try pop()
        case UInt8(ascii: "1"): _ = try popToMark()
        case UInt8(ascii: "2"): stack.append(try top())

        case UInt8(ascii: "N"): stack.append(.none)
        case 0x88: stack.append(.bool(true))
        case 0x89: stack.append(.bool(false))
        case UInt8(ascii: "K"): stack.append(.integer(Int(try cursor.integer(UInt8.self))))
        case UInt8(ascii: "M"): stack.append(.integer(Int(try cursor.integer(UInt16.self))))
        case UInt8(ascii: "J"): stack.append(.integer(Int(try cursor.integer(Int32.self))))
        case 0x8A: stack.append(try long(Int(try cursor.integer(UInt8.self))))
        case 0x8B: stack.append(try long(Int(try cursor.integer(Int32.self))))
        case UInt8(ascii: "G"): stack.append(.float(Double(bitPattern: try cursor.integer(UInt64.self).byteSwapped)))

        case UInt8(ascii: "X"): stack.append(try text(UInt64(try cursor.integer(UInt32.self))))
        case 0x8C, UInt8(ascii: "U"): stack.append(try text(UInt64(try cursor.integer(UInt8.self))))
        case UInt8(ascii: "T"): stack.append(try text(UInt64(try cursor.integer(UInt32.self))))
        case 0x8D: stack.append(try text(try cursor.integer()))
        case UInt8(ascii: "B"): stack.append(try blob(UInt64(try cursor.integer(UInt32.self))))
        case UInt8(ascii: "C"): stack.append(try blob(UInt64(try cursor.integer(UInt8.self))))
        case 0x8E, 0x96: stack.append(try blob(try cursor.integer()))

        case UInt8(ascii: ")"): stack.append(make(.tuple))
        case UInt8(ascii: "]"): stack.append(make(.list))
        case UInt8(ascii: "}"): stack.append(make(.dictionary))
        case 0x8F: stack.append(make(.list))  // EMPTY_SET
        case UInt8(ascii: "t"), 0x91: stack.append(make(.tuple, try popToMark()))  // TUPLE, FROZENSET
        case 0x85, 0x86, 0x87: stack.append(make(.tuple, try pop(Int(opcode) - 0x84)))
        case UInt8(ascii: "a"): try extend(.list, [try pop()])
        case UInt8(ascii: "e"), 0x90: try extend(.list, try popToMark())
        case UInt8(ascii: "s"): try extend(.dictionary, try pop(2))
        case UInt8(ascii: "u"): try extend(.dictionary, try popToMark())

        case UInt8(ascii: "q"): memo[Int(try cursor.integer(UInt8.self))] = try top()
        case UInt8(ascii: "r"): memo[Int(try cursor.integer(UInt32.self))] = try top()
        case 0x94: memo[memo.count] = try top()
        case UInt8(ascii: "h"): try recall(Int(try cursor.integer(UInt8.self)))
        case UInt8(ascii: "j"): try recall(Int(try cursor.integer(UInt32.self)))

        case UInt8(ascii: "c"): stack.append(try known("\(try cursor.line()).\(try cursor.line())"))
        case 0x93:
            let parts = try pop(2)
            guard case .text(let module) = parts[0], case .text(let name) = parts[1] else {
                throw refuse("a name that is no text", "a module and a name in it")
            }
            stack.append(try known("\(module).\(name)"))
        case UInt8(ascii: "R"), 0x81:  // REDUCE, NEWOBJ: a constructor and its arguments
            let call = try pop(2)
            guard case .name(let name) = call[0], let arguments = sequence(call[1]) else {
                throw refuse("a call of what is no name", "the name of a constructor and its arguments")
            }
            stack.append(try construct(name, arguments))
        case UInt8(ascii: "b"):
            let state = try pop()
            try build(try top(), state)
        case UInt8(ascii: "Q"):
            let storage = try persistent(try pop())
            storageTypes[storage.key] = storage.type
            stack.append(.storage(storage))
        default:
            throw refuse("opcode 0x\(String(opcode, radix: 16))", "one that PyTorch writes (protocol 2 to 5)")
        }
    }

    private mutating func pop() throws -> PickleValue {
        guard stack.count > marks.last ?? 0, let value = stack.popLast() else {
            throw refuse("an empty stack", "a value on it")
        }
        return value
    }

    private mutating func pop(_ count: Int) throws -> [PickleValue] {
        guard stack.count - (marks.last ?? 0) >= count else { throw refuse("an empty stack", "\(count) values on it") }
        defer { stack.removeLast(count) }
        return Array(stack.suffix(count))
    }

    private mutating func popToMark() throws -> [PickleValue] {
        guard let mark = marks.popLast() else { throw refuse("no mark", "a mark on the stack") }
        defer { stack.removeLast(stack.count - mark) }
        return Array(stack[mark...])
    }

    private func top() throws -> PickleValue {
        guard stack.count > marks.last ?? 0, let value = stack.last else {
            throw refuse("an empty stack", "a value on it")
        }
        return value
    }

    private mutating func recall(_ index: Int) throws {
        guard let value = memo[index] else { throw refuse("no memo \(index)", "one that was written before") }
        stack.append(value)
    }

    /// Adds to the list or dictionary on top of the stack.
    private mutating func extend(_ kind: Object.Kind, _ elements: [PickleValue]) throws {
        guard case .object(let place) = try top(), heap[place].kind == kind,
            kind != .dictionary || elements.count.isMultiple(of: 2)
        else { throw refuse("elements for what cannot take them", "a \(kind) on the stack") }
        heap[place].elements += elements
    }

    private mutating func long(_ count: Int) throws -> PickleValue {
        guard (0...8).contains(count) else { throw refuse("a whole number of \(count) bytes", "at most 8") }
        let bytes = cursor.bytes[try cursor.take(count)]
        let isNegative = (bytes.last ?? 0) >= 0x80
        return .integer(bytes.reversed().reduce(isNegative ? -1 : 0) { $0 << 8 | Int($1) })
    }

    private mutating func text(_ count: UInt64) throws -> PickleValue {
        .text(String(decoding: cursor.bytes[try cursor.take(count)], as: UTF8.self))
    }

    private mutating func blob(_ count: UInt64) throws -> PickleValue {
        .bytes(Array(cursor.bytes[try cursor.take(count)]))
    }
}
