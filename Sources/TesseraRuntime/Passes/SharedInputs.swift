import Tessera

extension Graph {
    /// Linear layers that read the same value for an attention (keys and values, perhaps queries) become one product with
    /// the rows of all their weights. Its parts are slices, which attentions read where they are.
    mutating func fuseSharedInputs() {
        var index = 0
        while index < nodes.count {
            defer { index += 1 }
            let sharing = nodes.indices[index...].filter { sharesProduct($0, with: index) }
            guard sharing.count > 1, let product = nodes[index].operation as? Product else { continue }
            let parts = sharing.map { nodes[$0] }
            var fused = Node(operation: product, inputs: nodes[index].inputs, output: -1)
            for (place, role) in product.roles.enumerated() where role == .weight || role == .bias {
                let tensors = parts.map { constant(product.operand(role, $0.inputs)!)! }
                fused.inputs[place] = addConstant(Tape.pause { concatenate(tensors, axis: 0) })
            }
            let widths = parts.map { shape($0.output)[-1] }
            fused.output = addValue(shape(parts[0].output).replacing(-1, with: widths.reduce(0, +)))
            var (start, slices) = (0, [Node]())
            for (part, width) in zip(parts, widths) {
                let slice = Slice(axis: shape(part.output).rank - 1, range: start..<start + width)
                slices.append(Node(operation: slice, inputs: [fused.output], output: part.output))
                start += width
            }
            for gone in sharing.reversed() { nodes.remove(at: gone) }
            nodes.insert(contentsOf: [fused] + slices, at: index)
            index += slices.count
        }
    }

    /// Whether a node is a product that can be one with the product at `index`.
    private func sharesProduct(_ other: Int, with index: Int) -> Bool {
        guard let a = nodes[index].operation as? Product, let b = nodes[other].operation as? Product else {
            return false
        }
        func stands(_ role: Product.Role) -> Bool {
            !a.has(role)
                || constant(a.operand(role, nodes[index].inputs)!) != nil
                    && constant(b.operand(role, nodes[other].inputs)!) != nil
        }
        return a.roles == b.roles && [a, b].allSatisfy { $0.isPlainLinear } && a.precision == b.precision
            && a.operand(.x, nodes[index].inputs) == b.operand(.x, nodes[other].inputs)
            && stands(.weight) && stands(.bias)
            && [index, other].allSatisfy { isReadByAttentionsOnly(nodes[$0].output) }
    }

    /// Whether all that a value `[batch, tokens, channels]` is for are operands of attentions, other than their bias.
    func isReadByAttentionsOnly(_ id: ValueID) -> Bool {
        guard shape(id).rank == 3, !outputs.contains(id) else { return false }
        let readers = nodes.filter { $0.inputs.contains(id) }
        return !readers.isEmpty
            && readers.allSatisfy { node in
                guard let attention = (node.operation as? QueryAttention)?.attention ?? node.operation as? Attention
                else { return false }
                return !attention.hasBias || node.inputs.last != id
            }
    }
}
