import Tessera

/// Elementwise operations one after the other, each on the result of the one before: one pass over memory.
///
/// The inputs are x, then the other operand of each link that has one.
struct Chain: Operation {
    enum Link: Sendable {
        case activation(Activation)
        case function(UnaryFunction.Kind)
        /// `isRight`: the chain's value is the right operand.
        case arithmetic(BinaryArithmetic.Kind, isRight: Bool)

        var hasOperand: Bool { if case .arithmetic = self { true } else { false } }
    }

    static let name = "chain"
    var links: [Link]

    func shape(_ inputs: [Shape]) -> Shape { inputs[0] }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        var operands = inputs.dropFirst().makeIterator()
        return links.reduce(inputs[0]) { y, link in
            switch link {
            case .activation(let activation): return y.activated(activation)
            case .function(let kind): return UnaryFunction(kind: kind).evaluate([y])
            case .arithmetic(let kind, let isRight):
                let other = operands.next()!
                return BinaryArithmetic(kind: kind).evaluate(isRight ? [other, y] : [y, other])
            }
        }
    }

    func backward(_ context: BackwardContext) -> [Tensor?] {
        preconditionFailure("a compiled chain is not differentiated")
    }
}

/// How an operand that broadcasts to a value is read while the value is walked as [outer][inner].
struct BroadcastPattern: Equatable {
    var outer: Int
    var inner: Int
    /// Whether the operand walks along, or repeats its element.
    var walksOuter: Bool
    var walksInner: Bool

    /// - Returns: nil if the operand takes more than two loops.
    init?(_ operand: Shape, in shape: Shape) {
        var groups: [(extent: Int, walks: Bool)] = []
        for axis in 0..<shape.rank where shape[axis] != 1 {
            let own = axis - (shape.rank - operand.rank)
            let walks = own >= 0 && operand[own] != 1
            if let last = groups.last, last.walks == walks {
                groups[groups.count - 1].extent *= shape[axis]
            } else {
                groups.append((shape[axis], walks))
            }
        }
        guard groups.count <= 2, operand.rank <= shape.rank else { return nil }
        while groups.count < 2 { groups.insert((1, groups.first?.walks ?? true), at: 0) }
        (outer, inner) = (groups[0].extent, groups[1].extent)
        (walksOuter, walksInner) = (groups[0].walks, groups[1].walks)
    }

    /// Whether every element is read once, or one element for all: then any division into rows will do.
    var isUniform: Bool { outer == 1 || walksOuter == walksInner }
}
