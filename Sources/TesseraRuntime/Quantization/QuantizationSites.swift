import Tessera
import TesseraNN

/// What can be quantized in a graph of floats: found by operation, so that every model can be.
///
/// The products that read the image, and those that nothing but elementwise work follows (heads), stay in floats. So do
/// convolutions in groups and products whose weights are computed from parameters.
package struct QuantizationSites {
    /// A weight with the products that it takes part in: more than one where layers share it.
    package struct Layer {
        /// Of the weight.
        package let key: String
        package let biasKey: String?
        package let weight: Tensor
        package let isLinear: Bool
        /// Places in the graph's nodes; the layer's input is the first one of each.
        package fileprivate(set) var nodes: [Int]
        /// The regions that suit what comes before.
        package let kind: Quantizer.Kind
        /// Values of the input for one image.
        package fileprivate(set) var inputCount: Int

        /// The key without the last part.
        package var name: String { key.hasSuffix(".weight") ? String(key.dropLast(7)) : key }
    }

    package struct AttentionSite {
        package let node: Int
        package let attention: Attention
        /// Values for one image: of q, k, v and the weights.
        package let counts: [Int]
    }

    /// A LayerNorm that linear layers alone read: its channels can be shifted and scaled, and the layers undo it.
    package struct Normalization {
        package let weightKey: String
        package let biasKey: String
        /// The layers by number.
        package fileprivate(set) var layers: [Int]
    }

    package private(set) var layers: [Layer] = []
    /// In the order of execution, in which ``Quantization/attentions`` counts them.
    package private(set) var attentions: [AttentionSite] = []
    package private(set) var normalizations: [Normalization] = []

    /// Finds the sites, and makes the graph's linear layers and convolutions products.
    package init(_ graph: inout Graph, names: ParameterNames) {
        graph.recogniseProducts()
        let isInner = QuantizationSites.innerProducts(graph)
        var numbers: [String: Int] = [:]
        for (index, node) in graph.nodes.enumerated() {
            if let attention = node.operation as? Attention { add(attention, node, index, graph) }
            guard let product = node.operation as? Product, isInner[index],
                let weight = product.operand(.weight, node.inputs).flatMap({ graph.constant($0) }),
                let key = names[weight], product.isQuantizable(weight.shape)
            else { continue }
            let count = graph.shape(node.inputs[0]).count
            if let number = numbers[key] {
                layers[number].nodes.append(index)
                layers[number].inputCount += count
                continue
            }
            numbers[key] = layers.count
            let bias = product.operand(.bias, node.inputs).flatMap { graph.constant($0) }
            layers.append(
                Layer(
                    key: key, biasKey: bias.flatMap { names[$0] }, weight: weight,
                    isLinear: product.convolution == nil, nodes: [index],
                    kind: QuantizationSites.followsGELU(node.inputs[0], graph) ? .splitSigns : .uniform,
                    inputCount: count))
        }
        findNormalizations(graph, names)
    }

    private mutating func add(_ attention: Attention, _ node: Graph.Node, _ index: Int, _ graph: Graph) {
        let kernel = attention.kernel(node.inputs.map(graph.shape), graph.shape(node.output))
        let (matrices, queries, keys) = (Int(kernel.batch * kernel.heads), Int(kernel.queries), Int(kernel.keys))
        attentions.append(
            AttentionSite(
                node: index, attention: attention,
                counts: [
                    matrices * queries * Int(kernel.head_size), matrices * keys * Int(kernel.head_size),
                    matrices * keys * Int(kernel.value_size), matrices * queries * keys,
                ]))
    }

    /// For each node, whether products come before and after it.
    private static func innerProducts(_ graph: Graph) -> [Bool] {
        func isProduct(_ node: Graph.Node) -> Bool { node.operation is Product || node.operation is Attention }
        var (comesAfter, comesBefore) = (Set<Graph.ValueID>(), Set<Graph.ValueID>())
        for node in graph.nodes where isProduct(node) || node.inputs.contains(where: comesAfter.contains) {
            comesAfter.insert(node.output)
        }
        for node in graph.nodes.reversed() where isProduct(node) || comesBefore.contains(node.output) {
            comesBefore.formUnion(node.inputs)
        }
        return graph.nodes.map { node in
            node.inputs.contains(where: comesAfter.contains) && comesBefore.contains(node.output)
        }
    }

    /// Whether a value is what an activation with a short negative tail left, perhaps with its rows moved.
    private static func followsGELU(_ id: Graph.ValueID, _ graph: Graph) -> Bool {
        let producers = graph.producers
        var id = id
        while let producer = producers[id], isMovement(graph.nodes[producer], graph) {
            id = graph.nodes[producer].inputs[0]
        }
        guard let producer = producers[id] else { return false }
        switch graph.nodes[producer].operation {
        case let product as Product: return product.activation.hasShortTail && !product.has(.residual)
        case let activate as Activate: return activate.activation.hasShortTail
        default: return false
        }
    }

    /// Whether a node moves whole rows of channels, and changes nothing in them.
    private static func isMovement(_ node: Graph.Node, _ graph: Graph) -> Bool {
        let rank = graph.shape(node.inputs[0]).rank
        switch node.operation {
        case is Reshape: return graph.shape(node.inputs[0])[-1] == graph.shape(node.output)[-1]
        case let transpose as Transpose: return transpose.order.last == rank - 1
        case let slice as Slice: return slice.axis != rank - 1
        case let concatenation as Concatenate: return concatenation.axis != rank - 1
        default: return false
        }
    }

    private mutating func findNormalizations(_ graph: Graph, _ names: ParameterNames) {
        // Which LayerNorm each value comes from, by the key of its weight; and those that others read as well.
        var (origins, others) = ([Graph.ValueID: String](), Set<String>())
        var found: [String: Normalization] = [:]
        var readers: [Int: [String]] = [:]
        let layerOfNode = Dictionary(
            uniqueKeysWithValues: layers.enumerated().flatMap { number, layer in layer.nodes.map { ($0, number) } })
        for (index, node) in graph.nodes.enumerated() {
            if let norm = node.operation as? LayerNormalization, norm.hasWeight, norm.hasBias,
                let weight = graph.constant(node.inputs[1]).flatMap({ names[$0] }),
                let bias = graph.constant(node.inputs[2]).flatMap({ names[$0] })
            {
                origins[node.output] = weight
                found[weight] = found[weight] ?? Normalization(weightKey: weight, biasKey: bias, layers: [])
            }
            let sources = node.inputs.map { origins[$0] }
            if let layer = layerOfNode[index], layers[layer].isLinear {
                readers[layer, default: []].append(sources[0] ?? "")
                if let origin = sources[0], !found[origin]!.layers.contains(layer) {
                    found[origin]!.layers.append(layer)
                }
                others.formUnion(sources.dropFirst().compactMap { $0 })
            } else if QuantizationSites.isMovement(node, graph), Set(sources).count == 1 {
                origins[node.output] = sources[0]
            } else {
                others.formUnion(sources.compactMap { $0 })
            }
        }
        others.formUnion(graph.outputs.compactMap { origins[$0] })
        normalizations = found.values.filter { norm in
            !others.contains(norm.weightKey) && !norm.layers.isEmpty
                && norm.layers.allSatisfy { Set(readers[$0]!) == [norm.weightKey] }
        }.sorted { $0.layers[0] < $1.layers[0] }
    }
}

extension Activation {
    /// Whether negative values survive, but only small ones.
    fileprivate var hasShortTail: Bool {
        switch self {
        case .gelu, .geluTanh, .quickGelu, .silu, .hardSwish: true
        default: false
        }
    }
}
