import Tessera

extension Graph {
    /// A map of each channel by constants after a product (BatchNorm with its running statistics, layer scale, a bias of
    /// an imported graph) goes into the product's weight and bias: s (W x + b) + t = (s W) x + (s b + t).
    mutating func foldAffineMaps() {
        absorbIntoProducts { graph, node, slot, product, inputs in
            guard slot == 0 || node.operation is BinaryArithmetic, product.endsWithBias,
                let weight = graph.constant(product.operand(.weight, inputs)!),
                let map = graph.affineMap(node, channels: weight.shape[0])
            else { return false }
            let rows = Shape([weight.shape[0]] + [Int](repeating: 1, count: weight.rank - 1))
            let bias = product.operand(.bias, inputs).flatMap { graph.constant($0) }
            guard bias != nil || !product.has(.bias) else { return false }
            let (scaled, shifted): (Tensor, Tensor?) = Tape.pause {
                let scaledBias = bias.map { bias in map.scale.map { bias * $0 } ?? bias }
                let shift = [scaledBias, map.shift].compactMap { $0 }
                return (
                    map.scale.map { weight * $0.reshaped(rows) } ?? weight,
                    shift.dropFirst().reduce(shift.first) { $0! + $1 }
                )
            }
            product.set(.weight, graph.addConstant(scaled), in: &inputs)
            if let shifted { product.set(.bias, graph.addConstant(shifted), in: &inputs) }
            return true
        }
    }

    /// The scale and shift `[channels]` of a node that maps each channel of its first input by constants.
    func affineMap(_ node: Node, channels: Int) -> (scale: Tensor?, shift: Tensor?)? {
        switch node.operation {
        case let norm as FixedBatchNormalization:
            let constants = node.inputs.dropFirst().map { constant($0) }
            guard constants.allSatisfy({ $0 != nil }) else { return nil }
            return Tape.pause {
                let (mean, variance) = (constants[0]!, constants[1]!)
                let inverse = 1 / (variance + norm.epsilon).squareRoot()
                let scale = norm.hasWeight ? constants[2]! * inverse : inverse
                let shift = (mean * scale) * -1
                return (scale, norm.hasBias ? constants.last!! + shift : shift)
            }
        case let arithmetic as BinaryArithmetic where arithmetic.kind == .multiply || arithmetic.kind == .add:
            guard let vector = node.inputs.lazy.compactMap({ constant($0) }).first,
                vector.shape.dimensions.dropLast().allSatisfy({ $0 == 1 }), vector.count == channels,
                shape(node.output).rank >= vector.rank
            else { return nil }
            let values = vector.reshaped([channels])
            return arithmetic.kind == .multiply ? (values, nil) : (nil, values)
        default: return nil
        }
    }
}
