import Foundation
import Tessera
import TesseraModels
import TesseraNN

/// Layer-wise learning rates for fine-tuning, as BEiT (2021, arXiv 2106.08254) and MAE use them: a parameter of layer i of
/// 0 ... depth + 1 is trained at decay^(depth + 1 − i) of the rate, so that the early layers keep what they know.
///
/// The layers of any model follow from its parameters. A block is an element of an array whose neighbours have
/// parameters of the same names and shapes. A forward pass tells the order: what is used before the first block is
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

    /// The block that each key belongs to, if any: the outermost element of an array that has weights enough for a block
    /// and whose neighbours, if there are any, are like it.
    static func blocks(_ parameters: [(key: String, shape: Shape)]) -> [String: String] {
        // Everything below each prefix that ends in a number.
        var elements: [String: [(key: Substring, shape: Shape)]] = [:]
        for (key, shape) in parameters {
            for prefix in numberedPrefixes(key) {
                elements[prefix, default: []].append((key.dropFirst(prefix.count), shape))
            }
        }
        var arrays: [Substring: [String]] = [:]
        for prefix in elements.keys { arrays[prefix[..<prefix.lastIndex(of: ".")!], default: []].append(prefix) }
        func isBlock(_ prefix: String) -> Bool {
            let parts = elements[prefix]!
            guard parts.count(where: { $0.shape.rank > 1 }) > 1 else { return false }
            let siblings = arrays[prefix[..<prefix.lastIndex(of: ".")!]]!
            return siblings.count == 1
                || siblings.contains { other in
                    other != prefix
                        && elements[other]!.elementsEqual(parts) { $0.key == $1.key && $0.shape == $1.shape }
                }
        }
        let blocks = Set(elements.keys.filter(isBlock))
        return Dictionary(
            uniqueKeysWithValues: parameters.compactMap { key, _ in
                numberedPrefixes(key).first(where: blocks.contains).map { (key, $0) }
            })
    }

    /// `a.0`, `a.0.b.1` of `a.0.b.1.weight`: the outermost first.
    private static func numberedPrefixes(_ key: String) -> [String] {
        let parts = key.split(separator: ".")
        return parts.indices.dropFirst().filter { parts[$0].allSatisfy(\.isNumber) }
            .map { parts[...$0].joined(separator: ".") }
    }
}
