import Tessera

extension Graph {
    /// Drops nodes that no output depends on.
    mutating func removeDeadValues() {
        var isNeeded = [Bool](repeating: false, count: values.count)
        for id in outputs { isNeeded[id] = true }
        for node in nodes.reversed() where isNeeded[node.output] {
            for id in node.inputs { isNeeded[id] = true }
        }
        nodes.removeAll { !isNeeded[$0.output] }
    }
}
