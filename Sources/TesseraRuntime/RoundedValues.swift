import CKernels
import Tessera

extension Graph {
    /// Values that lie in memory as bfloat16 numbers: those that products in bfloat16 compute and nobody but such products
    /// reads, which would round them in any case. Only a GELU before the rounding is computed less exactly, to 0.0002.
    ///
    /// A float's room holds two numbers: rows, and what is read of them, begin at whole floats.
    var roundedValues: Set<ValueID> {
        let readers = Dictionary(grouping: nodes.flatMap { node in Set(node.inputs).map { ($0, node) } }) { $0.0 }
        func roundsItself(_ id: ValueID) -> Bool {
            guard !outputs.contains(id), let all = readers[id], shape(id).rank > 0, shape(id)[-1] % 2 == 0 else {
                return false
            }
            return all.allSatisfy { _, node in
                isReshape(node) ? roundsItself(node.output) : rounds(node, id)
            }
        }
        return Set(nodes.filter { writesRounded($0) && roundsItself($0.output) }.map(\.output))
    }

    /// Whether a node can leave its result as bfloat16 numbers.
    private func writesRounded(_ node: Node) -> Bool {
        switch node.operation {
        case let product as Product:
            return product.precision.kernel == TK_BFLOAT16 && product.quantization == nil
                && product.convolution?.groups ?? 1 == 1 && hasConstantParameters(product, node)
        case let attention as Attention: return attention.precision.kernel == TK_BFLOAT16
        case let queries as QueryAttention:
            return queries.quantization == nil && queries.attention.precision.kernel == TK_BFLOAT16
        default: return false
        }
    }

    /// Whether a node reads a value as an operand of products in bfloat16 and as nothing else.
    private func rounds(_ node: Node, _ id: ValueID) -> Bool {
        func attends(_ attention: Attention) -> Bool {
            let shapes = node.inputs.map(shape), (k, v) = attention.packedOffsets(shapes)
            return attention.precision.kernel == TK_BFLOAT16 && (!attention.isPacked || (k % 2 == 0 && v % 2 == 0))
                && !(attention.hasBias && node.inputs.last == id)
        }
        switch node.operation {
        case let product as Product:
            return product.precision.kernel == TK_BFLOAT16 && product.quantization == nil && product.norm == nil
                && product.convolution == nil && hasConstantParameters(product, node)
                && node.inputs.filter { $0 == id }.count == 1 && product.operand(.x, node.inputs) == id
        case let attention as Attention: return attends(attention)
        case let queries as QueryAttention: return queries.quantization == nil && attends(queries.attention)
        default: return false
        }
    }

    /// Whether a product becomes a step of a program.
    func hasConstantParameters(_ product: Product, _ node: Node) -> Bool {
        [.weight, .bias, .normWeight, .normBias].allSatisfy { role in
            product.operand(role, node.inputs).map { constant($0) != nil } ?? true
        }
    }
}
