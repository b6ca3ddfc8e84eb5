import Tessera

extension Graph {
    /// Activations, functions and arithmetic become chains, as do maps of channels that no product took in, and chains that
    /// follow each other become one.
    mutating func chainElementwise() {
        for index in nodes.indices { startChain(at: index) }
        var index = 0
        while index < nodes.count {
            if !joinChain(at: index) { index += 1 }
        }
    }

    private mutating func startChain(at index: Int) {
        let node = nodes[index]
        if let activate = node.operation as? Activate {
            nodes[index].operation = Chain(links: [.activation(activate.activation)])
        } else if let function = node.operation as? UnaryFunction {
            nodes[index].operation = Chain(links: [.function(function.kind)])
        } else if node.operation is FixedBatchNormalization {
            guard let map = affineMap(node, channels: shape(node.output)[-1]), let scale = map.scale,
                let shift = map.shift
            else { return }
            nodes[index].operation = Chain(
                links: [.arithmetic(.multiply, isRight: false), .arithmetic(.add, isRight: false)])
            nodes[index].inputs = [node.inputs[0], addConstant(scale), addConstant(shift)]
        } else if let arithmetic = node.operation as? BinaryArithmetic {
            // The chain's value is an operand of the result's shape.
            guard let x = node.inputs.firstIndex(where: { constant($0) == nil && shape($0) == shape(node.output) }),
                BroadcastPattern(shape(node.inputs[1 - x]), in: shape(node.output)) != nil
            else { return }
            nodes[index].operation = Chain(links: [.arithmetic(arithmetic.kind, isRight: x == 1)])
            nodes[index].inputs = [node.inputs[x], node.inputs[1 - x]]
        }
    }

    /// Takes in the chain before, if nobody else uses it and all links can walk the same rows.
    private mutating func joinChain(at index: Int) -> Bool {
        guard let chain = nodes[index].operation as? Chain else { return false }
        let (path, value) = lonePath(to: nodes[index].inputs[0])
        guard let last = path.last, let before = nodes[last].operation as? Chain else { return false }
        // Under another shape, only links without an operand of their own keep their meaning.
        let isSameShape = shape(value) == shape(nodes[index].output)
        guard isSameShape || !before.links.contains(where: \.hasOperand) else { return false }
        let operands = nodes[last].inputs.dropFirst() + nodes[index].inputs.dropFirst()
        guard Chain.pattern(operands.map(shape), in: shape(nodes[index].output)) != nil else { return false }
        var joined = [
            Node(operation: Chain(links: before.links + chain.links), inputs: [], output: nodes[index].output)
        ]
        var x = nodes[last].inputs[0]
        if !isSameShape {
            let view = addValue(shape(nodes[index].output))
            joined.insert(Node(operation: Reshape(target: shape(view)), inputs: [x], output: view), at: 0)
            x = view
        }
        joined[joined.count - 1].inputs = [x] + operands
        replace(index, and: path, with: joined)
        return true
    }
}

extension Chain {
    /// The loops that all operands can be read in.
    static func pattern(_ operands: [Shape], in shape: Shape) -> (outer: Int, inner: Int)? {
        let patterns = operands.map { BroadcastPattern($0, in: shape) }
        guard patterns.allSatisfy({ $0 != nil }) else { return nil }
        let strict = patterns.compactMap { $0 }.filter { !$0.isUniform }
        guard let first = strict.first else { return (shape.count / max(1, shape[-1]), shape[-1]) }
        return strict.allSatisfy { ($0.outer, $0.inner) == (first.outer, first.inner) }
            ? (first.outer, first.inner) : nil
    }
}
