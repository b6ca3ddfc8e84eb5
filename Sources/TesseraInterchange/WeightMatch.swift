import Tessera
import TesseraIO
import TesseraModels
import TesseraNN

/// Which tensors of a file make the weights of a model.
struct WeightMatch {
    let table: KeyTable
    /// What stands before the model's own names, such as `backbone.`.
    let prefix: String
    /// The tensors for each of the model's keys, to be joined if there are several.
    let sources: [String: [String]]

    /// The best of all tables and prefixes: the one under which most of the keys are there. nil if none is.
    ///
    /// Names of a wrapper, whatever they are, are found by the names after them; some publishers keep the head outside.
    static func best(
        _ keys: [String], in shapes: [String: Shape], tables: [KeyTable]
    ) -> WeightMatch? {
        var best: WeightMatch?
        for table in tables {
            let candidates = keys.map { ($0, table.sources(of: $0)) }
            for prefix in prefixes(candidates.map(\.1), in: shapes) {
                var sources: [String: [String]] = [:]
                for (key, candidates) in candidates {
                    sources[key] = candidates.lazy.compactMap { resolved($0, prefix, shapes) }.first
                }
                if !sources.isEmpty, sources.count > best?.sources.count ?? 0 {
                    best = WeightMatch(table: table, prefix: prefix, sources: sources)
                }
            }
        }
        return best
    }

    private static func resolved(_ names: [String], _ prefix: String, _ shapes: [String: Shape]) -> [String]? {
        let found = names.compactMap { name in
            shapes[prefix + name] != nil ? prefix + name : shapes[name] != nil ? name : nil
        }
        return found.count == names.count ? found : nil
    }

    /// What stands in the file before a few of the names.
    private static func prefixes(_ candidates: [[[String]]], in shapes: [String: Shape]) -> [String] {
        let probes = [0, candidates.count / 2, candidates.count - 1].filter { candidates.indices.contains($0) }
            .flatMap { candidates[$0].compactMap(\.first) }
        let found = shapes.keys.flatMap { name in
            probes.compactMap { probe -> String? in
                guard name.hasSuffix(probe) else { return nil }
                let prefix = String(name.dropLast(probe.count))
                return prefix.isEmpty || prefix.hasSuffix(".") ? prefix : nil
            }
        }
        return Set(found).sorted { ($0.count, $0) < ($1.count, $1) }
    }

    /// Names in the file, behind the prefix, that no key is made of and that the model does not do without.
    func unexpected(in shapes: [String: Shape]) -> [String] {
        let used = Set(sources.values.joined())
        return shapes.keys.filter { name in
            name.hasPrefix(prefix) && !used.contains(name)
                && !table.ignored.contains { name.dropFirst(prefix.count).hasPrefix($0) || name.contains(".\($0)") }
                && !WeightMatch.derived.contains { name.hasSuffix($0) }
        }.sorted()
    }

    /// Ends of the names of buffers that follow from the architecture.
    private static let derived = ["num_batches_tracked", "relative_position_index", "attn_mask"]

    /// How many classes the tensors of the head are for; nil if there is no head.
    func classes(_ model: any ImageClassifier, in shapes: [String: Shape]) -> Int? {
        let heads = sources.filter { key, _ in
            model.headPrefixes.contains { key.hasPrefix($0) } && key.hasSuffix("weight")
        }
        return heads.sorted { $0.key < $1.key }.first?.value.first.flatMap { shapes[$0]?.dimensions.first }
    }
}
