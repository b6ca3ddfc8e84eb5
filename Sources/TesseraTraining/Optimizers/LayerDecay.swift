import Foundation
import Tessera
import TesseraModels
import TesseraNN

/// Layer-wise learning rates for fine-tuning, as BEiT (2021, arXiv 2106.08254) and MAE use them: a parameter of layer i of
/// 0 ... depth + 1 is trained at decay^(depth + 1 − i) of the rate, so that the early layers keep what they know.
///
/// The layers of any model follow from its parameters. Blocks are the elements of the outermost arrays in which two are
/// alike in names and shapes of their parameters; an element that is mostly an array of blocks is a stage, whose elements
/// count. A forward pass tells the order: what is used before the first block is
/// layer 0, the k-th block layer k, and so is what is used between it and the block before (the reduction in front of a
/// stage); what comes after the last block is layer depth + 1.
public struct LayerDecay {
    /// How many blocks there are.
    public let depth: Int
    /// The layer of each trainable parameter that a forward pass uses.
    public let layers: [String: Int]

    /// - Parameter shape: of a batch of images that the model takes
    public init(of model: any ImageClassifier, images shape: Shape) {
        let keys = model.parameters.filter(\.parameter.isTrainable)
        let blocks = Self.blocks(keys.map { ($0.key, $0.parameter.shape) })
        var layers: [String: Int] = [:]
        var (seen, waiting): ([String: Int], [String]) = ([:], [])
        for key in Self.order(of: model, shape) {
            guard let block = blocks[key] else {
                waiting.append(key)
                continue
            }
            if seen[block] == nil {
                seen[block] = seen.count + 1
                for key in waiting { layers[key] = seen.count == 1 ? 0 : seen.count }
                waiting = []
            }
            layers[key] = seen[block]
        }
        depth = seen.count
        for key in waiting { layers[key] = depth + 1 }
        self.layers = layers
    }

    /// The factor of each parameter's learning rate.
    public func scales(_ decay: Double) -> [String: Double] {
        let scales = Schedule.layerScales(decay: decay, depth: depth)
        return layers.mapValues { scales[$0] }
    }

    /// The keys of trainable parameters in the order in which a forward pass first uses them.
    private static func order(of model: any ImageClassifier, _ shape: Shape) -> [String] {
        var keys: [ObjectIdentifier: String] = [:]
        for (key, parameter) in model.parameters {
            if let node = parameter.tensor.node { keys[ObjectIdentifier(node)] = key }
        }
        let tape = Tape(.trace)
        _ = tape.record { model.features(Tape.leaf(Tensor(abstract: shape))) }
        return tape.nodes.flatMap(\.inputs).compactMap { input in
            input.node.flatMap { keys.removeValue(forKey: ObjectIdentifier($0)) }
        }
    }

    /// The block that each key belongs to, if any.
    static func blocks(_ parameters: [(key: String, shape: Shape)]) -> [String: String] {
        let numbered = blocks(parameters) { $0.allSatisfy(\.isNumber) }
        // Some references number blocks in their names (`s1.b2`) instead of their places.
        return numbered.isEmpty ? blocks(parameters) { $0.last!.isNumber } : numbered
    }

    /// - Parameter isElement: whether a part of a key names an element of an array
    private static func blocks(
        _ parameters: [(key: String, shape: Shape)], _ isElement: @escaping (Substring) -> Bool
    ) -> [String: String] {
        /// `a.0`, `a.0.b.1` of `a.0.b.1.weight`: the outermost first.
        func prefixes(_ key: String) -> [String] {
            let parts = key.split(separator: ".")
            return parts.indices.dropLast().filter { isElement(parts[$0]) }.map { parts[...$0].joined(separator: ".") }
        }
        var elements: [String: [Part]] = [:]
        var inside: [String: Set<String>] = [:]
        for (key, shape) in parameters {
            let all = prefixes(key)
            for (index, prefix) in all.enumerated() {
                elements[prefix, default: []].append(Part(key: String(key.dropFirst(prefix.count)), shape: shape))
                for outer in all[..<index] { inside[outer, default: []].insert(prefix) }
            }
        }
        let arrays = Dictionary(grouping: elements.keys, by: array)
        func weights(_ prefix: String) -> Int { elements[prefix]!.count { $0.shape.rank > 1 } }
        /// Whether there is one element, or two that are alike, with weights enough for a block.
        func repeats(_ array: [String]) -> Bool {
            let large = array.filter { weights($0) > 1 }
            return large.count == 1 && array.count == 1 || Set(large.map { elements[$0]! }).count < large.count
        }
        /// Whether most weights are those of one inner array of blocks.
        func isStage(_ prefix: String) -> Bool {
            Dictionary(grouping: inside[prefix] ?? [], by: array).values.contains { inner in
                repeats(inner) && 2 * inner.reduce(0) { $0 + weights($1) } > weights(prefix)
            }
        }
        let blocks = elements.keys.filter { weights($0) > 1 && repeats(arrays[array($0)]!) && !isStage($0) }
        let known = Set(blocks)
        return Dictionary(
            uniqueKeysWithValues: parameters.compactMap { key, _ in
                prefixes(key).first(where: known.contains).map { (key, $0) }
            })
    }

    private struct Part: Hashable {
        let key: String
        let shape: Shape
    }

    /// The array that an element is in: `a.` of `a.0`.
    private static func array(_ element: String) -> String {
        element.lastIndex { !$0.isNumber }.map { String(element[...$0]) } ?? ""
    }
}
