import Tessera

extension Graph {
    /// A constant added to a concatenation is added to its parts: the constant parts (class tokens) are then constants
    /// again, and a product among them can take the addition in.
    mutating func splitAddedConstants() {
        var index = 0
        while index < nodes.count {
            defer { index += 1 }
            guard let arithmetic = nodes[index].operation as? BinaryArithmetic, arithmetic.kind == .add else {
                continue
            }
            let (producers, uses, node) = (producers, useCounts, nodes[index])
            guard let slot = node.inputs.firstIndex(where: { constant($0) != nil }),
                let table = constant(node.inputs[slot]), table.shape == shape(node.output),
                uses[node.inputs[1 - slot]] == 1, let producer = producers[node.inputs[1 - slot]],
                let concatenation = nodes[producer].operation as? Concatenate
            else { continue }
            var (start, sums) = (0, [Node]())
            let parts = nodes[producer].inputs.map { part in
                let end = start + shape(part)[concatenation.axis]
                let rows = Tape.pause { table.sliced(axis: concatenation.axis, from: start, to: end) }
                start = end
                if let known = constant(part) { return addConstant(Tape.pause { known + rows }) }
                let sum = Node(operation: arithmetic, inputs: [part, addConstant(rows)], output: addValue(shape(part)))
                sums.append(sum)
                return sum.output
            }
            let whole = Node(operation: concatenation, inputs: parts, output: node.output)
            nodes.replaceSubrange(index...index, with: sums + [whole])
            nodes.remove(at: producer)
        }
    }
}
