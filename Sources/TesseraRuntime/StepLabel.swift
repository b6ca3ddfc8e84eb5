import Tessera

/// What a step of a plan computes, for tables and traces.
public struct StepLabel: Sendable {
    /// The operation, such as `layerNorm → linear → gelu + residual`.
    public let name: String
    /// The shape of the result for one image.
    public let shape: Shape
    /// What it costs for one image.
    private let cost: Cost
    /// Bytes of weights, which all images share.
    private let sharedBytes: Int

    init(_ graph: Graph, _ node: Graph.Node?, name: String?) {
        guard let node else {
            (self.name, shape, cost, sharedBytes) = (name ?? "copy", [], Cost(multiplyAdds: 0, bytes: 0), 0)
            return
        }
        self.name = StepLabel.name(node.operation)
        shape = graph.shape(node.output)
        cost = node.operation.cost(node.inputs.map(graph.shape), shape)
        sharedBytes = node.inputs.reduce(0) { $0 + (graph.constant($1).map { 4 * $0.count } ?? 0) }
    }

    /// What the step costs for a number of images.
    public func cost(of images: Int) -> Cost {
        Cost(
            multiplyAdds: cost.multiplyAdds * images, bytes: max(0, cost.bytes - sharedBytes) * images + sharedBytes)
    }

    private static func name(_ operation: any Operation) -> String {
        switch operation {
        case let product as Product:
            var name = product.convolution == nil ? "linear" : "convolution"
            if product.quantization != nil { name += " in codes" }
            if product.norm != nil { name = "norm → " + name }
            if product.activation != .identity { name += " → \(product.activation)" }
            return product.has(.residual) ? name + " + residual" : name
        case let attention as QueryAttention:
            return attention.quantization == nil ? "attention" : "attention in codes"
        case let chain as Chain:
            return chain.links.map { link in
                switch link {
                case .activation(let activation): "\(activation)"
                case .function(let function): "\(function)"
                case .arithmetic(let kind, _): "\(kind)"
                }
            }.joined(separator: " → ")
        default: return type(of: operation).name
        }
    }
}
