import Tessera

extension Graph {
    /// Where only some tokens are wanted (a class token), operations that treat tokens one by one compute only those: the
    /// slice moves to before them, through the last layer up to its keys and values.
    mutating func sliceEarly() {
        mergeEqualSlices()
        while let (index, producer) = movableSlice() {
            moveSlice(index, before: producer)
            mergeEqualSlices()
        }
    }

    /// A slice along the tokens, and the node before it that nobody else uses.
    private func movableSlice() -> (slice: Int, producer: Int)? {
        let (producers, uses) = (producers, useCounts)
        for (index, node) in nodes.enumerated() {
            guard let slice = node.operation as? Slice, slice.axis == 1, shape(node.output).rank == 3,
                uses[node.inputs[0]] == 1, let producer = producers[node.inputs[0]],
                canSlice(nodes[producer]) || !rowOperands(nodes[producer]).isEmpty
            else { continue }
            return (index, producer)
        }
        return nil
    }

    /// Whether a node is an attention of all queries.
    private func canSlice(_ node: Node) -> Bool {
        if let queries = node.operation as? QueryAttention {
            return queries.queries.count == queries.attention.shape(node.inputs.map(shape))[1]
        }
        return node.operation is Attention
    }

    private mutating func moveSlice(_ index: Int, before producer: Int) {
        let (old, node) = (nodes[producer], nodes[index])
        let slice = node.operation as! Slice
        var moved = [Node(operation: old.operation, inputs: old.inputs, output: node.output)]
        if let attention = old.operation as? Attention {
            moved[0].operation = QueryAttention(attention: attention, queries: slice.range, quantization: nil)
        } else if let whole = old.operation as? QueryAttention {
            moved[0].operation = QueryAttention(
                attention: whole.attention, queries: slice.range, quantization: whole.quantization)
        }
        for operand in rowOperands(old) {
            let part = addValue(shape(old.inputs[operand]).replacing(1, with: slice.range.count))
            moved.insert(Node(operation: slice, inputs: [old.inputs[operand]], output: part), at: 0)
            moved[moved.count - 1].inputs[operand] = part
        }
        nodes.replaceSubrange(index...index, with: moved)
        nodes.remove(at: producer)
    }

    /// The operands whose rows belong to the rows of the result, for operations that treat rows one by one.
    private func rowOperands(_ node: Node) -> [Int] {
        switch node.operation {
        case is LayerNormalization: return [0]
        case let product as Product where product.convolution == nil:
            let rows = [Product.Role.x, .residual].compactMap { product.roles.firstIndex(of: $0) }
            let fit = rows.allSatisfy { constant(node.inputs[$0]) == nil && shape(node.inputs[$0]).rank == 3 }
            return fit ? rows : []
        default: return []
        }
    }

    /// Of several slices that take the same part of the same value, one remains.
    private mutating func mergeEqualSlices() {
        struct Part: Hashable {
            let input: ValueID
            let axis: Int
            let range: Range<Int>
        }
        var (first, replacement) = ([Part: ValueID](), [ValueID: ValueID]())
        nodes.removeAll { node in
            guard let slice = node.operation as? Slice else { return false }
            let part = Part(input: node.inputs[0], axis: slice.axis, range: slice.range)
            replacement[node.output] = first[part]
            if first[part] == nil { first[part] = node.output }
            return replacement[node.output] != nil
        }
        for index in nodes.indices { nodes[index].inputs = nodes[index].inputs.map { replacement[$0] ?? $0 } }
        outputs = outputs.map { replacement[$0] ?? $0 }
    }
}

/// Attention of some of the queries only, or with operands in codes.
package struct QueryAttention: Operation {
    package static let name = "attention"
    package let attention: Attention
    package let queries: Range<Int>
    package let quantization: Quantization.Attention?

    package func shape(_ inputs: [Shape]) -> Shape { attention.shape(inputs).replacing(1, with: queries.count) }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        whole(inputs).sliced(axis: 1, from: queries.lowerBound, to: queries.upperBound)
    }

    private func whole(_ inputs: [Tensor]) -> Tensor {
        guard let quantization else { return attention.evaluate(inputs) }
        let parts = attention.operands(inputs)
        let weights = attention.weights(
            q: quantization.q.rounded(parts[0]), k: quantization.k.rounded(parts[1]),
            bias: attention.hasBias ? inputs.last : nil)
        return attention.mean(of: quantization.v.rounded(parts[2]), weights: quantization.weights.rounded(weights))
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        preconditionFailure("a compiled attention is not differentiated")
    }

    package func cost(_ inputs: [Shape], _ output: Shape) -> Cost {
        let whole = attention.cost(inputs, output)
        return Cost(multiplyAdds: whole.multiplyAdds * output[1] / attention.shape(inputs)[1], bytes: whole.bytes)
    }
}
