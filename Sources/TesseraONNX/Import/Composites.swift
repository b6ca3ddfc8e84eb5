import Tessera
import TesseraIO

/// Operations that older versions of ONNX say by several nodes, put together again: GELU and layer normalisation.
struct Composites {
    private var nodes: [ONNXNode]
    private let constants: [String: ONNXTensor]
    private let producers: [String: Int]
    private let users: [String: [Int]]
    private var gone: Set<Int> = []

    /// The nodes with known patterns replaced by one node each.
    static func recognised(
        in nodes: [ONNXNode], constants: [String: ONNXTensor], outputs: Set<String>
    ) -> [ONNXNode] {
        var composites = Composites(nodes, constants, outputs)
        for index in nodes.indices {
            switch nodes[index].operation {
            case "Erf": composites.recogniseGelu(at: index)
            case "Div": composites.recogniseLayerNorm(at: index)
            default: break
            }
        }
        return composites.nodes.enumerated().filter { !composites.gone.contains($0.offset) }.map(\.element)
    }

    private init(_ nodes: [ONNXNode], _ constants: [String: ONNXTensor], _ outputs: Set<String>) {
        self.nodes = nodes
        var (producers, users) = ([String: Int](), [String: [Int]]())
        var known = constants
        for (index, node) in nodes.enumerated() {
            for output in node.outputs { producers[output] = index }
            for input in Set(node.inputs) { users[input, default: []].append(index) }
            if node.operation == "Constant", let output = node.outputs.first,
                case .tensor(let tensor)? = node.attributes["value"]
            {
                known[output] = tensor
            }
        }
        // An output of the graph has a user that no pattern knows.
        for output in outputs { users[output, default: []].append(-1) }
        (self.producers, self.users, self.constants) = (producers, users, known)
    }

    private func isScalar(_ name: String, _ value: Float) -> Bool {
        guard case .floats(let tensor)? = constants[name], tensor.count == 1 else { return false }
        return abs(tensor.scalars[0] - value) <= 1e-4 * abs(value)
    }

    /// The only user of a node's result.
    private func loneUser(of index: Int) -> Int? {
        guard let output = nodes[index].outputs.first, let users = users[output], users.count == 1, users[0] >= 0 else {
            return nil
        }
        return users[0]
    }

    /// Of a node of two operands, the one beside `operand`.
    private func other(_ node: ONNXNode, than operand: String) -> String? {
        guard node.inputs.count == 2, node.inputs.contains(operand) else { return nil }
        return node.inputs[0] == operand ? node.inputs[1] : node.inputs[0]
    }

    /// The operand beside a scalar of the value.
    private func operand(_ name: String, _ operation: String, scalar: Float) -> String? {
        guard let index = producers[name], nodes[index].operation == operation, nodes[index].inputs.count == 2 else {
            return nil
        }
        let inputs = nodes[index].inputs
        if isScalar(inputs[1], scalar) { return inputs[0] }
        return operation != "Div" && isScalar(inputs[0], scalar) ? inputs[1] : nil
    }

    /// x · (1 + erf(x / √2)) / 2, its factors in any order.
    private mutating func recogniseGelu(at erf: Int) {
        let root = Float(2).squareRoot()
        guard let scaled = nodes[erf].inputs.first,
            let x = operand(scaled, "Div", scalar: root) ?? operand(scaled, "Mul", scalar: 1 / root),
            let sum = loneUser(of: erf), nodes[sum].operation == "Add",
            let one = other(nodes[sum], than: nodes[erf].outputs[0]), isScalar(one, 1),
            let first = loneUser(of: sum), nodes[first].operation == "Mul",
            let factor = other(nodes[first], than: nodes[sum].outputs[0])
        else { return }
        var (inner, last) = ([erf, sum], first)
        if operand(factor, "Mul", scalar: 0.5) != x {
            guard let second = loneUser(of: first), nodes[second].operation == "Mul",
                let rest = other(nodes[second], than: nodes[first].outputs[0]),
                factor == x && isScalar(rest, 0.5) || isScalar(factor, 0.5) && rest == x
            else { return }
            (inner, last) = (inner + [first], second)
        }
        replace(last, and: inner, ONNXNode(operation: "Gelu", inputs: [x], outputs: nodes[last].outputs))
    }

    /// d / √(mean(d²) + ε) with d = x − mean(x), over the last axis.
    private mutating func recogniseLayerNorm(at index: Int) {
        guard nodes[index].inputs.count == 2 else { return }
        let centred = nodes[index].inputs[0]
        func node(_ name: String, _ operation: String) -> ONNXNode? {
            producers[name].map { nodes[$0] }.flatMap { $0.operation == operation ? $0 : nil }
        }
        guard let difference = node(centred, "Sub"), difference.inputs.count == 2,
            let mean = node(difference.inputs[1], "ReduceMean"), isOverLast(mean),
            mean.inputs.first == difference.inputs[0],
            let root = node(nodes[index].inputs[1], "Sqrt"), let sum = root.inputs.first.flatMap({ node($0, "Add") }),
            let place = sum.inputs.firstIndex(where: { node($0, "ReduceMean") != nil }), sum.inputs.count == 2,
            let variance = node(sum.inputs[place], "ReduceMean"), isOverLast(variance),
            let square = variance.inputs.first.flatMap({ producers[$0] }).map({ nodes[$0] }), isSquare(square, centred),
            case .floats(let epsilon)? = constants[sum.inputs[1 - place]], epsilon.count == 1
        else { return }
        var norm = ONNXNode(
            operation: "LayerNormalization", inputs: [difference.inputs[0]], outputs: nodes[index].outputs)
        norm.attributes = ["epsilon": .float(epsilon.scalars[0])]
        // Its scale and shift, where they follow. What computed the statistics is left without a use: plans drop it.
        var (inner, last) = ([Int](), index)
        for operation in ["Mul", "Add"] {
            guard let user = loneUser(of: last), nodes[user].operation == operation,
                let vector = other(nodes[user], than: nodes[last].outputs[0]), constants[vector]?.shape.rank == 1
            else { break }
            norm.inputs.append(vector)
            (inner, last) = (inner + [last], user)
        }
        norm.outputs = nodes[last].outputs
        replace(last, and: inner, norm)
    }

    private func isOverLast(_ mean: ONNXNode) -> Bool {
        var axes: [Int] = []
        if case .integers(let values)? = mean.attributes["axes"] { axes = values }
        if mean.inputs.count > 1, case .integers(let values, _)? = constants[mean.inputs[1]] { axes = values }
        if case .integer(0)? = mean.attributes["keepdims"] { return false }
        return axes == [-1]
    }

    private func isSquare(_ node: ONNXNode, _ x: String) -> Bool {
        switch node.operation {
        case "Pow": node.inputs.count == 2 && node.inputs[0] == x && isScalar(node.inputs[1], 2)
        case "Mul": node.inputs == [x, x]
        default: false
        }
    }

    private mutating func replace(_ index: Int, and others: [Int], _ node: ONNXNode) {
        var node = node
        node.name = nodes[index].name
        nodes[index] = node
        gone.formUnion(others)
    }
}
