/// How a publisher names the weights that this package's model has under names of its own.
///
/// A table is a list of rules that rewrite a key of ours into theirs, one after the other:
///
/// ```swift
/// KeyTable("Hugging Face ViT", [
///     ("blocks.#.", "encoder.layer.#."),
///     ("attn.qkv.", "attention.query. + attention.key. + attention.value."),
///     ("mlp.fc1.", "mlp.fc1. | mlp.weights_in."),
/// ])
/// ```
///
/// A pattern stands at the beginning of the key or behind a dot, with `^` only at the beginning, and `#` is a number,
/// which the replacement may count up or down (`#-1`). A `+` joins weights that are stored apart, a `|` parts names of
/// which a file has one.
struct KeyTable: Sendable {
    /// Whose names these are.
    let publisher: String
    private let rules: [Rule]
    /// Parts of the names of tensors that the model does not need.
    let ignored: [String]
    /// Constructor arguments by which the publisher's model differs.
    let arguments: String

    /// The names that timm gives, which are those of this package.
    static let own = KeyTable("timm", [])

    init(
        _ publisher: String, _ rules: [(pattern: String, replacement: String)], ignored: [String] = [],
        arguments: String = "{}"
    ) {
        self.publisher = publisher
        self.rules = rules.map { Rule($0.pattern, $0.replacement) }
        self.ignored = ignored
        self.arguments = arguments
    }

    /// The names under which a file may have a weight, the usual first; each is a list of tensors to be joined.
    func sources(of key: String) -> [[String]] {
        rules.reduce([[key]]) { candidates, rule in
            candidates.flatMap { names -> [[String]] in
                guard names.count == 1, let rewritten = rule.rewrite(names[0]) else {
                    return [names.map { rule.rewrite($0)?.first?.first ?? $0 }]
                }
                return rewritten
            }
        }
    }

    private struct Rule {
        private let pattern: [Character]
        private let isAnchored: Bool
        private let replacements: [[String]]

        init(_ pattern: String, _ replacement: String) {
            isAnchored = pattern.hasPrefix("^")
            self.pattern = Array(pattern.drop { $0 == "^" })
            replacements = replacement.split(separator: " | ").map { $0.split(separator: " + ").map(String.init) }
        }

        /// - Returns: nil if the pattern is not in the key
        func rewrite(_ key: String) -> [[String]]? {
            let letters = Array(key)
            for start in letters.indices where start == 0 || (!isAnchored && letters[start - 1] == ".") {
                guard let (end, numbers) = match(letters, from: start) else { continue }
                let (before, after) = (String(letters[..<start]), String(letters[end...]))
                return replacements.map { $0.map { before + Rule.filled($0, numbers) + after } }
            }
            return nil
        }

        private func match(_ letters: [Character], from start: Int) -> (end: Int, numbers: [Int])? {
            var (place, numbers): (Int, [Int]) = (start, [])
            for letter in pattern {
                guard letter == "#" else {
                    guard place < letters.count, letters[place] == letter else { return nil }
                    place += 1
                    continue
                }
                let digits = letters[place...].prefix { $0.isASCII && $0.isNumber }
                guard let number = Int(String(digits)) else { return nil }
                numbers.append(number)
                place += digits.count
            }
            return pattern.last == "." || place == letters.count ? (place, numbers) : nil
        }

        /// The replacement with its numbers put in, in their order.
        private static func filled(_ replacement: String, _ numbers: [Int]) -> String {
            var rest = numbers[...]
            return replacement.replacing(/#([+-]\d+)?/) { match in
                "\((rest.popFirst() ?? 0) + (match.1.flatMap { Int($0) } ?? 0))"
            }
        }
    }
}
