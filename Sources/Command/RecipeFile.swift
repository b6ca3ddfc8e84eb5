import ArgumentParser
import Foundation
import Tessera
import TesseraIO
import Yams

/// A YAML file of training flags: each key is a flag without its dashes. It is turned into flags before the command line
/// is parsed, so that a file can say exactly what a command line can, and both are checked by the same rules.
///
/// ```yaml
/// epochs: 300
/// lr: 55e-5
/// scale: [0.8, 1.0]
/// model-args: {stochastic_depth: 0.1}
/// ```
///
/// The file may come from a stranger: its size and nesting are limited, and anchors, from which a few bytes can grow
/// into gigabytes, are refused.
struct RecipeFile {
    enum Kind {
        case whole, number, text, flag, pair, wholes, settings

        var expectation: String {
            switch self {
            case .whole: "a whole number"
            case .number: "a number"
            case .text: "text"
            case .flag: "true or false"
            case .pair: "a list of two numbers"
            case .wholes: "a list of whole numbers"
            case .settings: "a mapping of names to values"
            }
        }
    }

    /// Every flag of `tessera train` but those that name a run to go on with or to delete.
    static let kinds: [String: Kind] = {
        let groups: [any ParsableArguments.Type] =
            [TrainCommand.self, TrainingInputs.self, RecipeOptions.self, ComputeOptions.self, ThreadOptions.self]
            + AllMethodFlags.types
        var kinds = groups.reduce(into: [:]) { $0.merge(Kind.flags(of: $1.init())) { first, _ in first } }
        for flag in ["recipe", "resume", "overwrite"] { kinds[flag] = nil }
        kinds["model-args"] = .settings
        return kinds
    }()

    static let maximumBytes = 1 << 14
    private static let maximumLineBytes = 1024
    private static let maximumBrackets = 32

    /// Each setting's key with the arguments that say it.
    private(set) var settings: [(key: String, arguments: [String])] = []

    /// The arguments of `tessera` with the recipe that they name written out behind them; what the command line says
    /// itself is left out of the file, so that it wins.
    ///
    /// - Throws: `SystemError`, `FormatError`
    static func expanding(_ arguments: [String]) throws -> [String] {
        guard arguments.first == "train", let place = arguments.lastIndex(where: { names($0, "recipe") }) else {
            return arguments
        }
        let inline = arguments[place].split(separator: "=", maxSplits: 1).dropFirst().first.map(String.init)
        guard let path = inline ?? arguments[(place + 1)...].first else { return arguments }
        return try arguments
            + RecipeFile(path).settings.filter { setting in !arguments.contains { names($0, setting.key) } }
            .flatMap(\.arguments)
    }

    private static func names(_ argument: String, _ flag: String) -> Bool {
        argument == "--" + flag || argument.hasPrefix("--\(flag)=")
    }

    /// - Throws: `SystemError`, `FormatError`
    init(_ path: String) throws {
        let file = URL(fileURLWithPath: path)
        let handle: FileHandle
        do { handle = try FileHandle(forReadingFrom: file) } catch {
            throw SystemError("open", path, code: access(path, R_OK) == 0 ? EISDIR : errno)
        }
        defer { try? handle.close() }
        let bytes: Data
        do { bytes = try handle.read(upToCount: Self.maximumBytes + 1) ?? Data() } catch {
            throw FormatError(file: path, found: "a file that cannot be read", expected: "YAML")
        }
        try self.init(parsing: bytes, name: path)
    }

    /// - Parameter name: what errors call the file
    /// - Throws: `FormatError` that names file, line and key
    init(parsing bytes: Data, name: String) throws {
        guard bytes.count <= Self.maximumBytes else {
            throw FormatError(file: name, found: "more", expected: "a recipe of at most \(Self.maximumBytes) bytes")
        }
        guard let text = String(data: bytes, encoding: .utf8) else {
            throw FormatError(file: name, found: "bytes that are not UTF-8", expected: "text")
        }
        try Self.checkBounds(text, name)
        let root: Yams.Node?
        do { root = try compose(yaml: text) } catch let error as YamlError { throw error.inFile(name) }
        guard let root else { return }
        guard case .mapping(let mapping) = root else {
            throw FormatError(file: name, found: root.summary, expected: "lines of `flag: value`")
        }
        for (key, value) in mapping { try add(key, value, name) }
    }

    /// The parser descends once for each level and follows anchors: both are limited before it starts.
    private static func checkBounds(_ text: String, _ name: String) throws {
        var brackets = 0
        for (index, line) in text.utf8.split(separator: 10, omittingEmptySubsequences: false).enumerated() {
            func refuse(_ found: String, _ expected: String) -> FormatError {
                FormatError(file: "\(name):\(index + 1)", found: found, expected: expected)
            }
            guard line.count <= maximumLineBytes else {
                throw refuse("\(line.count)", "at most \(maximumLineBytes) bytes on a line")
            }
            brackets += line.count { $0 == UInt8(ascii: "[") || $0 == UInt8(ascii: "{") }
            guard brackets <= maximumBrackets else { throw refuse("more", "at most \(maximumBrackets) brackets") }
            var previous = UInt8(ascii: " ")
            for byte in line {
                let isTokenStart = previous <= 32 || "[{,:-?".utf8.contains(previous)
                guard byte != UInt8(ascii: "&") || !isTokenStart else {
                    throw refuse("an anchor (&)", "values written out")
                }
                previous = byte
            }
        }
    }

    private mutating func add(_ key: Yams.Node, _ value: Yams.Node, _ file: String) throws {
        let place = "\(file):\(key.mark?.line ?? 1)"
        guard case .scalar(let scalar) = key, let kind = Self.kinds[scalar.string] else {
            let found = key.scalar?.string ?? key.summary
            let near = nearestNames(to: found, in: Self.kinds.keys.sorted())
            throw FormatError(
                file: place, subject: String(found.prefix(40)), found: "an unknown key",
                expected: near.isEmpty
                    ? "a flag of `tessera train` without its dashes" : near.joined(separator: " or "))
        }
        let name = scalar.string
        if case .null = value.json { return }
        guard let words = value.arguments(kind) else {
            throw FormatError(file: place, subject: name, found: value.summary, expected: kind.expectation)
        }
        // Joined by "=", so that a value that begins with a dash stays a value.
        switch kind {
        case .flag: settings.append((name, words == ["true"] ? ["--" + name] : []))
        case .pair, .wholes: settings.append((name, ["--" + name] + words))
        default: settings.append((name, ["--\(name)=\(words[0])"]))
        }
    }
}

extension RecipeFile.Kind {
    /// The flags that arguments declare, by name, and what their types say of the values.
    fileprivate static func flags(of arguments: any ParsableArguments) -> [String: Self] {
        let declared = Mirror(reflecting: arguments).children.compactMap { label, declaration in
            // The storage of a property wrapper is named after its property, behind an underscore.
            Self(declaration).map { (flagName(String((label ?? "").dropFirst())), $0) }
        }
        return Dictionary(uniqueKeysWithValues: declared)
    }

    private init?(_ declaration: Any) {
        switch declaration {
        case is Option<Int>, is Option<Int?>, is Option<UInt64>: self = .whole
        case is Option<Double>, is Option<Double?>: self = .number
        case is Option<[Double]>: self = .pair
        case is Option<[Int]>: self = .wholes
        case is Flag<Bool>: self = .flag
        case is any DeclaredOption: self = .text
        default: return nil
        }
    }

    /// `clipGrad` as `clip-grad`.
    private static func flagName(_ property: String) -> String {
        property.reduce(into: "") { $0 += $1.isUppercase ? "-" + $1.lowercased() : String($1) }
    }
}

/// An option of any type.
private protocol DeclaredOption {}
extension Option: DeclaredOption {}

extension Yams.Node {
    /// The words that say the value on a command line, nil when it is of another kind.
    fileprivate func arguments(_ kind: RecipeFile.Kind) -> [String]? {
        switch (kind, json) {
        case (.whole, .number(let digits)): Int(digits).map { ["\($0)"] }
        case (.number, .number(let digits)): [digits]
        case (.text, .string(let text)): text.contains("\0") ? nil : [text]
        case (.text, .number), (.text, .bool): scalar.map { [$0.string] }
        case (.flag, .bool(let isOn)): [isOn ? "true" : "false"]
        case (.pair, .array(let elements)):
            elements.count == 2 && elements.allSatisfy { $0.double ?? -1 >= 0 } ? elements.map { $0.text() } : nil
        case (.wholes, .array(let elements)):
            !elements.isEmpty && elements.allSatisfy { $0.int ?? -1 >= 0 } ? elements.map { $0.text() } : nil
        case (.settings, .object): [json.text()]
        default: nil
        }
    }

    /// The value in JSON's terms: plain scalars are null, true, false or a number where they look like one.
    fileprivate var json: JSON {
        switch self {
        case .scalar(let scalar):
            guard scalar.style == .plain || scalar.style == .any else { return .string(scalar.string) }
            switch scalar.string {
            case "", "~", "null": return .null
            case "true": return .bool(true)
            case "false": return .bool(false)
            case let text:
                let isNumber = text.utf8.allSatisfy { "0123456789+-.eE".utf8.contains($0) }
                guard isNumber, let value = Double(text), value.isFinite else { return .string(text) }
                return Int(text).map { JSON($0) } ?? JSON(value)
            }
        case .sequence(let elements): return .array(elements.map(\.json))
        case .mapping(let members): return .object(members.map { JSON.Member($0.scalar?.string ?? "", $1.json) })
        case .alias: return .null
        }
    }

    fileprivate var summary: String {
        if case .object = json { return "a mapping" }
        return json.summary
    }
}

extension YamlError {
    /// The error on one line, with the place.
    fileprivate func inFile(_ name: String) -> FormatError {
        switch self {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            FormatError(file: "\(name):\(mark.line)", found: problem, expected: "YAML")
        case .duplicatedKeysInMapping(let keys, let context):
            FormatError(
                file: "\(name):\(context.mark.line)", subject: keys.first.map { "\($0)" } ?? "",
                found: "it twice", expected: "each key once")
        default: FormatError(file: name, found: "something else", expected: "YAML")
        }
    }
}
