import Tessera

extension Graph {
    /// Linear, then activation: one product.
    mutating func fuseActivations() {
        absorbIntoProducts { graph, node, slot, product, inputs in
            guard let activate = node.operation as? Activate, product.endsWithBias else { return false }
            product.activation = activate.activation
            return true
        }
    }

    /// Linear, then an addition of equally many values (a residual, a position table): one product.
    mutating func fuseResiduals() {
        absorbIntoProducts { graph, node, slot, product, inputs in
            guard let arithmetic = node.operation as? BinaryArithmetic, arithmetic.kind == .add, product.takesResidual
            else { return false }
            let other = node.inputs[1 - slot]
            guard graph.shape(other).count == graph.shape(node.output).count else { return false }
            product.set(.residual, other, in: &inputs)
            return true
        }
    }

    /// LayerNorm, then linear: one product, if nobody else wants the normalised value.
    mutating func fuseNorms() {
        var index = 0
        while index < nodes.count {
            defer { index += 1 }
            guard var product = nodes[index].operation as? Product, product.convolution == nil, product.norm == nil,
                let x = product.operand(.x, nodes[index].inputs)
            else { continue }
            let (path, value) = lonePath(to: x)
            guard let last = path.last, let norm = nodes[last].operation as? LayerNormalization,
                shape(value)[-1] == shape(x)[-1]
            else { continue }
            var operands = nodes[last].inputs
            var fused = [Node]()
            if path.count > 1 {
                let view = addValue(shape(x))
                fused.append(Node(operation: Reshape(target: shape(x)), inputs: [operands[0]], output: view))
                operands[0] = view
            }
            var inputs = nodes[index].inputs
            product.absorb(norm, operands, in: &inputs)
            fused.append(Node(operation: product, inputs: inputs, output: nodes[index].output))
            replace(index, and: path, with: fused)
            index += fused.count - 1 - path.count
        }
    }

    /// Asks `body`, for every node that alone uses a product (perhaps under another shape), to take the node into that
    /// product: it changes the product and its inputs and returns true, or false to leave both alone. `slot` is the
    /// operand of the node that the product is.
    mutating func absorbIntoProducts(
        _ body: (inout Graph, _ node: Node, _ slot: Int, inout Product, inout [ValueID]) -> Bool
    ) {
        var index = 0
        while index < nodes.count {
            if !absorb(nodeAt: index, body) { index += 1 }
        }
    }

    private mutating func absorb(
        nodeAt index: Int, _ body: (inout Graph, Node, Int, inout Product, inout [ValueID]) -> Bool
    ) -> Bool {
        let node = nodes[index]
        guard !(node.operation is Product), !isReshape(node) else { return false }
        for (slot, operand) in node.inputs.enumerated() {
            let (path, value) = lonePath(to: operand)
            guard let last = path.last, var product = nodes[last].operation as? Product else { continue }
            var inputs = nodes[last].inputs
            guard body(&self, node, slot, &product, &inputs) else { continue }
            // The product moves to where all its operands are known.
            var moved = [Node(operation: product, inputs: inputs, output: node.output)]
            if shape(value) != shape(node.output) {
                moved[0].output = addValue(shape(value))
                moved.append(
                    Node(
                        operation: Reshape(target: shape(node.output)), inputs: [moved[0].output],
                        output: node.output))
            }
            replace(index, and: path, with: moved)
            return true
        }
        return false
    }

    /// The nodes from the one that gives `id` back to the first that is more than a reshape, and that one's value, as
    /// long as nobody else uses what lies between.
    func lonePath(to id: ValueID) -> (nodes: [Int], value: ValueID) {
        let (producers, uses) = (producers, useCounts)
        var (path, value) = ([Int](), id)
        while uses[value] == 1, let producer = producers[value] {
            path.append(producer)
            guard isReshape(nodes[producer]) else { return (path, value) }
            value = nodes[producer].inputs[0]
        }
        return ([], id)
    }

    /// Puts `new` in the place of a node, and drops others before it.
    mutating func replace(_ index: Int, and others: [Int], with new: [Node]) {
        nodes.replaceSubrange(index...index, with: new)
        for gone in others.sorted(by: >) { nodes.remove(at: gone) }
    }

    /// Whether a node only reads its input under another shape.
    func isReshape(_ node: Node) -> Bool {
        switch node.operation {
        case is Reshape: return true
        case is Broadcast: return shape(node.inputs[0]).count == shape(node.output).count
        case let transpose as Transpose:
            // Only axes of extent 1 move: the others keep their order, and so do the elements.
            let kept = transpose.order.filter { shape(node.inputs[0])[$0] != 1 }
            return kept == kept.sorted()
        default: return false
        }
    }
}
