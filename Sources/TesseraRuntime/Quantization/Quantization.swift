import Tessera
import TesseraNN

/// Which products of a model compute in codes, and how their operands become codes: an annotation of its graph.
///
/// The weights of quantized layers stand in codes already: they are the model's parameters, each row a multiple of the
/// row's scale.
public struct Quantization: Sendable, Equatable {
    /// A linear layer, or a convolution as a product of patches.
    public struct Layer: Sendable, Equatable {
        public var weightBits: Int
        public var input: Quantizer

        public init(weightBits: Int, input: Quantizer) { (self.weightBits, self.input) = (weightBits, input) }
    }

    /// The operands of the two products of an attention.
    public struct Attention: Sendable, Equatable {
        public var q, k, v, weights: Quantizer

        public init(q: Quantizer, k: Quantizer, v: Quantizer, weights: Quantizer) {
            (self.q, self.k, self.v, self.weights) = (q, k, v, weights)
        }
    }

    /// By the key of the layer's weight.
    public var layers: [String: Layer]
    /// By the attention's place in the order of execution.
    public var attentions: [Int: Attention]

    public init(layers: [String: Layer] = [:], attentions: [Int: Attention] = [:]) {
        (self.layers, self.attentions) = (layers, attentions)
    }

    public var isEmpty: Bool { layers.isEmpty && attentions.isEmpty }
}

/// The keys of a model's parameters by their memory, by which a graph knows its constants again.
public struct ParameterNames {
    private var keys: [ObjectIdentifier: String] = [:]

    /// - Precondition: all parameters have values.
    public init(_ model: Module) {
        for (key, parameter) in model.parameters {
            if let storage = parameter.value.storage { keys[ObjectIdentifier(storage)] = key }
        }
    }

    public subscript(_ tensor: Tensor) -> String? { tensor.storage.flatMap { keys[ObjectIdentifier($0)] } }
}

extension Graph {
    /// Marks products and attentions as `quantization` says. A rewrite that comes before all others, while constants are
    /// still the model's parameters.
    ///
    /// - Parameter weights: what to put in the place of parameters; others stand in codes already.
    public mutating func quantize(
        _ quantization: Quantization, names: ParameterNames, weights: [String: Tensor] = [:]
    ) {
        recogniseProducts()
        var attentions = 0
        for index in nodes.indices {
            switch nodes[index].operation {
            case var product as Product:
                guard let slot = product.roles.firstIndex(of: .weight),
                    let weight = constant(nodes[index].inputs[slot]),
                    let key = names[weight], let layer = quantization.layers[key], product.isQuantizable(weight.shape)
                else { continue }
                product.quantization = layer
                nodes[index].operation = product
                if let codes = weights[key] { nodes[index].inputs[slot] = addConstant(codes.reshaped(weight.shape)) }
            case let attention as Attention:
                if let operands = quantization.attentions[attentions] {
                    let queries = 0..<shape(nodes[index].output)[1]
                    nodes[index].operation = QueryAttention(
                        attention: attention, queries: queries, quantization: operands)
                }
                attentions += 1
            default: break
            }
        }
    }
}

extension Attention {
    /// Queries, keys and values, `[batch, tokens, heads · size]`.
    package func operands(_ inputs: [Tensor]) -> [Tensor] {
        guard isPacked else { return Array(inputs.prefix(3)) }
        let width = inputs[0].shape[2] / 3
        return inputs[0].split(axis: 2, sizes: [width, width, width])
    }

    /// softmax(scale · q kᵀ + bias): `[batch, heads, queries, keys]`.
    package func weights(q: Tensor, k: Tensor, bias: Tensor?) -> Tensor {
        let scores = byHead(q).multiplied(by: byHead(k), transposing: (false, true)) * scale
        return (bias.map { scores + $0 } ?? scores).softmax(axis: -1)
    }

    /// The weighted means of values, `[batch, queries, heads · size]`.
    func mean(of v: Tensor, weights: Tensor) -> Tensor {
        let mixed = weights.multiplied(by: byHead(v)).transposed([0, 2, 1, 3])
        return mixed.reshaped([mixed.shape[0], mixed.shape[1], mixed.shape[2] * mixed.shape[3]])
    }

    private func byHead(_ x: Tensor) -> Tensor {
        x.reshaped([x.shape[0], x.shape[1], heads, x.shape[2] / heads]).transposed([0, 2, 1, 3])
    }
}

extension Graph {
    /// Values that only the next quantized product reads, as codes: the quantized product before them can write those at
    /// once.
    var codedValues: [ValueID: Quantizer] {
        var coded: [ValueID: Quantizer] = [:]
        for node in nodes {
            guard let product = node.operation as? Product, let quantization = product.quantization,
                product.convolution == nil, product.norm == nil, let x = product.operand(.x, node.inputs)
            else { continue }
            let (path, value) = lonePath(to: x)
            guard let last = path.last, let before = nodes[last].operation as? Product, before.quantization != nil,
                shape(value)[-1] == shape(x)[-1]
            else { continue }
            coded[value] = quantization.input
        }
        return coded
    }
}
