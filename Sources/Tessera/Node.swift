/// One recorded value: a leaf (parameter or traced input) or the result of an operation.
package final class Node: @unchecked Sendable {
    package let operation: (any Operation)?
    package private(set) var inputs: [Tensor]
    package let output: Shape
    /// Whether the value is held in bfloat16.
    let isRounded: Bool
    private(set) var saved: [Kept]
    private let tape: ObjectIdentifier?
    /// Whether the operation can compute this value again.
    private var isRecomputable: Bool
    /// The node that can, if this one only gave its values another shape.
    private var reshaped: Node?
    private var recomputed: Tensor?

    /// A leaf.
    package init(leaf shape: Shape) {
        (operation, inputs, output, saved, tape, isRecomputable) = (nil, [], shape, [], nil, false)
        isRounded = false
    }

    init(
        _ operation: any Operation, _ inputs: [Tensor], _ output: Tensor, _ saved: [Kept], on tape: Tape,
        reshaping input: Node?
    ) {
        (self.operation, self.inputs, self.output, self.saved) = (operation, inputs, output.shape, saved)
        isRounded = output.halves != nil
        self.tape = ObjectIdentifier(tape)
        isRecomputable = !saved.isEmpty && (operation as? any RecomputableOperation)?.isRecomputable ?? false
        reshaped = input?.source(on: tape)
    }

    /// The node that can compute these values again in the backward pass of `tape`.
    func source(on tape: Tape) -> Node? {
        guard self.tape == ObjectIdentifier(tape) else { return nil }
        return isRecomputable ? self : reshaped
    }

    /// The operation's result once more. It stays until its own gradient is done, as several may ask for it.
    func recompute() -> Tensor {
        if let recomputed { return recomputed }
        let operation = operation as! any RecomputableOperation
        let result = operation.recompute({ saved[$0].tensor }, output)
        recomputed = result
        return result
    }

    /// What the operation kept, which the node then no longer does.
    func takeSaved() -> [Tensor] {
        defer { (saved, recomputed) = ([], nil) }
        return saved.map(\.tensor)
    }

    /// Lets go of what came before, so that a tensor that outlives its tape does not hold a chain of predecessors, whose
    /// release would be recursive.
    func cut() {
        (inputs, saved, recomputed) = ([], [], nil)
        (isRecomputable, reshaped) = (false, nil)
    }
}

/// What an operation keeps for its gradient: a tensor, perhaps rounded, or who can compute it again.
enum Kept {
    case tensor(Tensor)
    case result(of: Node, as: Shape)

    /// Parameters, images and other leaves have their memory in any case; of small tensors a copy is not worth a call.
    private static let leastCount = 1 << 12

    /// - Parameter isOperand: whether only products in bfloat16 will read it
    init(_ tensor: Tensor, on tape: Tape, isOperand: Bool) {
        if let source = tensor.node?.source(on: tape) {
            self = .result(of: source, as: tensor.shape)
        } else if isOperand, tensor.node?.operation != nil, tensor.count >= Self.leastCount {
            self = .tensor(Tensor(rounding: tensor))
        } else {
            self = .tensor(tensor.detached)
        }
    }

    var tensor: Tensor {
        switch self {
        case .tensor(let tensor): tensor
        case .result(let node, let shape): Tensor(shape: shape, storage: node.recompute().storage)
        }
    }

    /// The memory that it takes.
    var storage: Storage? {
        switch self {
        case .tensor(let tensor): tensor.storage
        case .result: nil
        }
    }
}
