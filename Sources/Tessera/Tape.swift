import CKernels

/// Records the operations that run inside ``record(_:)``, to differentiate them or to read them as a graph.
///
/// ```swift
/// let tape = Tape()
/// let loss = tape.record { crossEntropy(model(images), labels) }
/// let gradients = tape.gradients(of: loss)
/// ```
///
/// The tape is an explicit list in the order of execution, so the backward pass is a walk from its end, and what an
/// operation saved is freed as soon as its gradient is done. A tape serves one thread and one backward pass.
public final class Tape: @unchecked Sendable {
    /// Why a tape records.
    public enum Purpose: Sendable {
        /// To differentiate: only operations that depend on a leaf are noted, and each saves what its gradient needs.
        case gradients
        /// To read the operations: all that depend on a leaf are noted with their inputs; nothing is saved.
        case trace
    }

    @TaskLocal static var current: Tape?

    public let purpose: Purpose
    package private(set) var nodes: [Node] = []

    public init(_ purpose: Purpose = .gradients) { self.purpose = purpose }

    deinit {
        // From the end, so that no node's release releases a chain of predecessors recursively.
        while let node = nodes.popLast() {
            if purpose == .gradients { node.cut() }
        }
    }

    /// Runs `body` while this tape records.
    public func record<Result>(_ body: () throws -> Result) rethrows -> Result {
        try Tape.$current.withValue(self, operation: body)
    }

    /// Runs `body` without any tape.
    public static func pause<Result>(_ body: () throws -> Result) rethrows -> Result {
        try Tape.$current.withValue(nil, operation: body)
    }

    /// Whether a tape records here.
    public static var isRecording: Bool { current != nil }

    /// `tensor` as a leaf: something to differentiate with respect to, or an input of a trace.
    public static func leaf(_ tensor: Tensor) -> Tensor {
        Tensor(shape: tensor.shape, storage: tensor.storage, node: Node(leaf: tensor.shape))
    }

    func notes(_ inputs: [Tensor]) -> Bool { inputs.contains { $0.node != nil } }

    func note(_ operation: any Operation, _ inputs: [Tensor], _ output: Tensor, _ saved: Saved) -> Tensor {
        // Differentiation needs only who produced an input; its values live as long as someone saved them.
        let kept =
            purpose == .gradients ? inputs.map { Tensor(shape: $0.shape, storage: nil, node: $0.node) } : inputs
        let node = Node(
            operation, kept, output,
            saved.tensors.enumerated().map { Kept($1, on: self, isOperand: saved.operands.contains($0)) }, on: self,
            reshaping: output.storage === inputs[0].storage ? inputs[0].node : nil)
        nodes.append(node)
        return Tensor(shape: output.shape, storage: output.storage, node: node)
    }

    /// The sum of the cost of everything recorded.
    public var cost: Cost {
        nodes.reduce(Cost(multiplyAdds: 0, bytes: 0)) { sum, node in
            sum + (node.operation?.cost(node.inputs.map(\.shape), node.output) ?? Cost(multiplyAdds: 0, bytes: 0))
        }
    }

    /// The bytes that operations keep for their gradients, each piece of memory once, without that of `others`, such as
    /// the parameters, and without what the backward pass computes again.
    public func savedBytes(besides others: [Tensor] = []) -> Int {
        var seen = Set(others.compactMap { $0.storage.map(ObjectIdentifier.init) })
        return nodes.lazy.flatMap(\.saved).compactMap(\.storage).reduce(0) { sum, storage in
            seen.insert(ObjectIdentifier(storage)).inserted ? sum + storage.bytes : sum
        }
    }

    /// The gradients of sum(`output` × `cotangent`) with respect to every leaf. Ends the recording.
    ///
    /// - Parameter cotangent: what to weight the output by, of the same shape; ones if nil (a scalar loss).
    public func gradients(of output: Tensor, cotangent: Tensor? = nil) -> Gradients {
        precondition(purpose == .gradients, "this tape records a trace, not gradients")
        let seed = cotangent ?? Tensor(repeating: 1, output.shape)
        precondition(seed.shape == output.shape, "cotangent of shape \(seed.shape) for output of shape \(output.shape)")
        var gradients = Gradients()
        guard let end = output.node else { return gradients }
        gradients.add(seed.detached, to: end)
        Tape.pause {
            while let node = nodes.popLast() {
                defer { node.cut() }
                guard let operation = node.operation, let gradient = gradients.take(node) else { continue }
                let context = BackwardContext(
                    gradient: gradient, inputShapes: node.inputs.map(\.shape), saved: node.takeSaved(),
                    wanted: node.inputs.map { $0.node != nil },
                    rounded: node.inputs.map { $0.node?.isRounded ?? false })
                if let accumulating = operation as? any AccumulatingOperation, let target = node.inputs[0].node,
                    let sum = gradients.takeOwned(target)
                {
                    accumulating.accumulate(context, into: sum)
                    gradients.add(sum, to: target)
                    continue
                }
                let results = operation.backward(context)
                for (input, result) in zip(node.inputs, results) {
                    guard let target = input.node, let result else { continue }
                    assert(
                        result.shape == input.shape,
                        "\(type(of: operation).name): gradient \(result.shape) for an input of shape \(input.shape)")
                    gradients.add(result, to: target)
                }
            }
        }
        return gradients
    }
}

/// Gradients by leaf.
public struct Gradients {
    private var values: [ObjectIdentifier: (node: Node, gradient: Tensor)] = [:]

    /// The gradient with respect to a leaf, nil if the output does not depend on it.
    public subscript(_ leaf: Tensor) -> Tensor? {
        get {
            guard let node = leaf.node else { return nil }
            return values[ObjectIdentifier(node)]?.gradient
        }
        set {
            guard let node = leaf.node else { return }
            values[ObjectIdentifier(node)] = newValue.map { (node, $0) }
        }
    }

    mutating func take(_ node: Node) -> Tensor? { values.removeValue(forKey: ObjectIdentifier(node))?.gradient }

    /// What has been added up for a node, if nobody else sees that memory.
    mutating func takeOwned(_ node: Node) -> Tensor? {
        let key = ObjectIdentifier(node)
        guard var storage = values[key]?.gradient.storage else { return nil }
        let gradient = values.removeValue(forKey: key)!.gradient.shape
        if isKnownUniquelyReferenced(&storage) && storage.isOwned { return Tensor(shape: gradient, storage: storage) }
        values[key] = (node, Tensor(shape: gradient, storage: storage))
        return nil
    }

    /// Adds in place where nobody else sees the sum: its memory is this dictionary's alone, unless the first gradient
    /// was passed on as it came (by an addition, a reshape, or the caller's cotangent).
    mutating func add(_ gradient: Tensor, to node: Node) {
        let key = ObjectIdentifier(node)
        guard var storage = values[key]?.gradient.storage else {
            values[key] = (node, gradient)
            return
        }
        values[key] = nil
        if isKnownUniquelyReferenced(&storage) && storage.isOwned {
            withExtendedLifetime(gradient) { tk_accumulate(storage.pointer, gradient.pointer, Int64(gradient.count)) }
            values[key] = (node, Tensor(shape: gradient.shape, storage: storage))
        } else {
            values[key] = (node, Tensor(shape: gradient.shape, storage: storage) + gradient)
        }
    }
}
