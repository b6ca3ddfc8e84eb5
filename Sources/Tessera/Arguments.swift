/// A named setting with a value it cannot have.
public struct ArgumentError: Error, Equatable, CustomStringConvertible {
    /// The field, with the section it is in: `config.embed_dim`.
    public let field: String
    public let found: String
    public let expected: String

    /// - Parameters:
    ///   - field: may come from a file, as `found` may: of both, one line of reasonable length is kept
    public init(field: String, found: String, expected: String) {
        self.field = field.onOneLine()
        self.found = found.onOneLine()
        self.expected = expected
    }

    public var description: String { "\(field): expected \(expected), found \(found)" }
}

/// The members of a JSON object, read by name and type, such as the arguments of a model's constructor.
///
/// Every getter notes the name it was asked for, so that ``finish()`` can refuse the members that nobody understood:
///
/// ```swift
/// let arguments = try Arguments(json, section: "config")
/// let width = try arguments.int("embed_dim", default: 192, in: 1...16384)
/// let patch = try arguments.pair("patch_size", default: (16, 16))
/// try arguments.finish()
/// ```
///
/// A member that is `null` counts as absent. All getters throw ``ArgumentError``.
public final class Arguments {
    private let members: [String: JSON]
    private let section: String
    private var known: Set<String> = []

    /// - Throws: ``ArgumentError`` if `json` is not an object.
    public init(_ json: JSON, section: String) throws {
        guard let members = json.members else {
            throw ArgumentError(field: section, found: json.summary, expected: "an object")
        }
        self.members = Dictionary(members.map { ($0.key, $0.value) }, uniquingKeysWith: { first, _ in first })
        self.section = section
    }

    /// - Throws: `JSON.SyntaxError` if `text` is not JSON, ``ArgumentError`` if it is not an object.
    public convenience init(parsing text: String, section: String) throws {
        try self.init(JSON(parsing: text), section: section)
    }

    /// Whether there is a value, null not counted.
    public func has(_ name: String) -> Bool { value(name) != nil }

    public func int(_ name: String, default absent: Int? = nil, in range: ClosedRange<Int>? = nil) throws -> Int {
        try required(name, optionalInt(name, in: range) ?? absent, "a whole number")
    }

    public func optionalInt(_ name: String, in range: ClosedRange<Int>? = nil) throws -> Int? {
        try value(name).map { try int($0, name, in: range) }
    }

    public func double(
        _ name: String, default absent: Double? = nil, in range: ClosedRange<Double>? = nil
    ) throws -> Double {
        try required(name, optionalDouble(name, in: range) ?? absent, "a number")
    }

    public func optionalDouble(_ name: String, in range: ClosedRange<Double>? = nil) throws -> Double? {
        try value(name).map { try double($0, name, in: range) }
    }

    public func bool(_ name: String, default absent: Bool? = nil) throws -> Bool {
        let found = try value(name).map { json in
            try json.bool ?? refuse(name, json.summary, "true or false")
        }
        return try required(name, found ?? absent, "true or false")
    }

    public func string(_ name: String, default absent: String? = nil) throws -> String {
        try required(name, optionalString(name) ?? absent, "a string")
    }

    public func optionalString(_ name: String) throws -> String? {
        try value(name).map { try $0.string ?? refuse(name, $0.summary, "a string") }
    }

    /// One of the names of `choices`.
    public func choice<Choice: RawRepresentable<String> & CaseIterable>(
        _ name: String, of choices: Choice.Type = Choice.self, default absent: Choice? = nil
    ) throws -> Choice {
        let names = Choice.allCases.map(\.rawValue).joined(separator: ", ")
        guard let text = try optionalString(name) else { return try required(name, absent, "one of \(names)") }
        return try Choice(rawValue: text) ?? refuse(name, "\"\(text)\"", "one of \(names)")
    }

    public func ints(
        _ name: String, count: Int? = nil, default absent: [Int]? = nil, in range: ClosedRange<Int>? = nil
    ) throws -> [Int] {
        let found = try list(name, count: count, of: "whole numbers") { try int($0, $1, in: range) }
        return try required(name, found ?? absent, "a list of whole numbers")
    }

    public func doubles(
        _ name: String, count: Int? = nil, default absent: [Double]? = nil, in range: ClosedRange<Double>? = nil
    ) throws -> [Double] {
        let found = try list(name, count: count, of: "numbers") { try double($0, $1, in: range) }
        return try required(name, found ?? absent, "a list of numbers")
    }

    public func bools(_ name: String, count: Int? = nil, default absent: [Bool]? = nil) throws -> [Bool] {
        let found = try list(name, count: count, of: "true or false") { json, field in
            try json.bool ?? refuse(field, json.summary, "true or false")
        }
        return try required(name, found ?? absent, "a list of true or false")
    }

    public func strings(_ name: String, count: Int? = nil, default absent: [String]? = nil) throws -> [String] {
        let found = try list(name, count: count, of: "strings") { json, field in
            try json.string ?? refuse(field, json.summary, "a string")
        }
        return try required(name, found ?? absent, "a list of strings")
    }

    /// Two whole numbers, or one that stands for both: `16` or `[16, 16]`.
    public func pair(
        _ name: String, default absent: (Int, Int)? = nil, in range: ClosedRange<Int>? = nil
    ) throws -> (Int, Int) {
        guard let json = value(name) else { return try required(name, absent, "a whole number or a pair of them") }
        if json.array == nil {
            let side = try int(json, name, in: range)
            return (side, side)
        }
        let sides = try ints(name, count: 2, in: range)
        return (sides[0], sides[1])
    }

    /// The arguments inside an object, nil when it is absent. They are finished on their own.
    public func nested(_ name: String) throws -> Arguments? {
        try value(name).map { try Arguments($0, section: path(name)) }
    }

    /// Any value at all, for a caller with rules of its own.
    public func json(_ name: String) -> JSON? { value(name) }

    /// Refuses members that no getter was asked for.
    /// - Throws: ``ArgumentError`` that names the first in alphabetical order and the nearest known names.
    public func finish() throws {
        guard let unknown = members.keys.filter({ !known.contains($0) }).min() else { return }
        let near = nearestNames(to: unknown, in: known.sorted())
        let advice = near.isEmpty ? known.sorted() : near
        throw ArgumentError(
            field: path(unknown), found: "an unknown name",
            expected: near.isEmpty ? "one of \(advice.joined(separator: ", "))" : near.joined(separator: " or "))
    }

    private func value(_ name: String) -> JSON? {
        known.insert(name)
        let value = members[name]
        return value == .null ? nil : value
    }

    private func int(_ json: JSON, _ field: String, in range: ClosedRange<Int>?) throws -> Int {
        let value = try json.int ?? refuse(field, json.summary, "a whole number")
        guard range?.contains(value) ?? true else {
            return try refuse(field, "\(value)", "\(range!.lowerBound) to \(range!.upperBound)")
        }
        return value
    }

    private func double(_ json: JSON, _ field: String, in range: ClosedRange<Double>?) throws -> Double {
        let value = try json.double ?? refuse(field, json.summary, "a number")
        guard range?.contains(value) ?? true else {
            return try refuse(field, "\(value)", "\(range!.lowerBound) to \(range!.upperBound)")
        }
        return value
    }

    private func list<Element>(
        _ name: String, count: Int?, of kind: String, _ element: (JSON, String) throws -> Element
    ) throws -> [Element]? {
        guard let json = value(name) else { return nil }
        let expected = "a list of \(count.map { "\($0) " } ?? "")\(kind)"
        guard let elements = json.array, elements.count == count ?? elements.count else {
            return try refuse(name, json.summary, expected)
        }
        return try elements.enumerated().map { try element($1, "\(name)[\($0)]") }
    }

    private func required<Value>(_ name: String, _ value: Value?, _ expected: String) throws -> Value {
        try value ?? refuse(name, "nothing", expected)
    }

    private func refuse<Value>(_ name: String, _ found: String, _ expected: String) throws -> Value {
        throw ArgumentError(field: path(name), found: found, expected: expected)
    }

    private func path(_ name: String) -> String { section.isEmpty ? name : "\(section).\(name)" }
}

/// Up to three names that `name` may have been meant to be, the nearest first: those that differ in a third of their
/// letters or fewer (insertions, deletions, replacements and swaps of neighbours, Damerau 1964), and those that begin
/// with it. Case, `-` and `_` do not count.
public func nearestNames(to name: String, in names: [String]) -> [String] {
    let wanted = folded(name)
    guard !wanted.isEmpty else { return [] }
    let near = names.enumerated().compactMap { index, candidate -> (distance: Int, index: Int)? in
        let letters = folded(candidate)
        let distance = editDistance(wanted, letters)
        if distance <= max(2, min(wanted.count, letters.count) / 3), distance < wanted.count {
            return (distance, index)
        }
        return wanted.count > 2 && letters.starts(with: wanted) ? (distance, index) : nil
    }
    return near.sorted { $0 < $1 }.prefix(3).map { names[$0.index] }
}

/// Lower-case letters to compare names by; the length is bounded because the comparison is quadratic in it.
private func folded(_ name: String) -> [Character] {
    name.prefix(100).lowercased().map { $0 == "-" ? "_" : $0 }
}

private func editDistance(_ a: [Character], _ b: [Character]) -> Int {
    var previous = [Int](repeating: 0, count: b.count + 1)
    var row = Array(0...b.count)
    for i in 1...max(1, a.count) where i <= a.count {
        var next = [i] + [Int](repeating: 0, count: b.count)
        for j in 1...max(1, b.count) where j <= b.count {
            next[j] = min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1))
            if i > 1, j > 1, a[i - 1] == b[j - 2], a[i - 2] == b[j - 1] { next[j] = min(next[j], previous[j - 2] + 1) }
        }
        (previous, row) = (row, next)
    }
    return row[b.count]
}
