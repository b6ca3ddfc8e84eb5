import CKernels

/// a ∘ b, element by element, with broadcasting.
package struct BinaryArithmetic: Operation {
    package enum Kind: Sendable { case add, subtract, multiply, divide, maximum, minimum }

    package static let name = "arithmetic"
    package let kind: Kind

    package init(kind: Kind) { self.kind = kind }

    package func shape(_ inputs: [Shape]) -> Shape { Shape.broadcast(inputs[0], inputs[1]) }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        if saved.isNeeded, kind != .add, kind != .subtract { saved.tensors = inputs }
        return kind.apply(inputs[0], inputs[1], shape)
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let g = context.gradient
        func side(_ index: Int, _ gradient: @autoclosure () -> Tensor) -> Tensor? {
            context.wanted[index] ? gradient().summed(to: context.inputShapes[index]) : nil
        }
        switch kind {
        case .add: return [side(0, g), side(1, g)]
        case .subtract: return [side(0, g), side(1, -g)]
        case .multiply: return [side(0, g * context.saved[1]), side(1, g * context.saved[0])]
        case .divide:
            let (a, b) = (context.saved[0], context.saved[1])
            return [side(0, g / b), side(1, -(g * a) / (b * b))]
        case .maximum, .minimum:
            let (a, b) = (context.saved[0], context.saved[1])
            // The left operand wins a tie, in the value and in the gradient.
            let winner = (kind == .maximum ? a - b : b - a).mapped { $0 >= 0 ? 1 : 0 }
            return [side(0, g * winner), side(1, g * (1 - winner))]
        }
    }
}

extension BinaryArithmetic.Kind {
    package var kernel: tk_binary {
        switch self {
        case .add: TK_ADD
        case .subtract: TK_SUBTRACT
        case .multiply: TK_MULTIPLY
        case .divide: TK_DIVIDE
        case .maximum: TK_MAXIMUM
        case .minimum: TK_MINIMUM
        }
    }

    fileprivate func apply(_ a: Tensor, _ b: Tensor, _ shape: Shape) -> Tensor {
        let output = Tensor(uninitialized: shape)
        let (a, b, plan) = BroadcastPlan.make(a, b, shape)
        withExtendedLifetime((a, b, output)) {
            for (aOffset, bOffset, offset) in plan.slices {
                tk_binary_operation(
                    kernel, a.pointer + aOffset, plan.a.outer, plan.a.inner, b.pointer + bOffset, plan.b.outer,
                    plan.b.inner, output.mutablePointer + offset, Int64(plan.outer), Int64(plan.inner))
            }
        }
        return output
    }
}

/// Two operands as matrices [outer][inner] whose rows and columns are walked or repeated.
private struct BroadcastPlan {
    var outer: Int
    var inner: Int
    var a: (outer: Int64, inner: Int64)
    var b: (outer: Int64, inner: Int64)
    /// Offsets of a, b and the result for each matrix.
    var slices: [(Int, Int, Int)]

    /// Neighbouring axes that both operands walk, or that the same one repeats, are one axis; what is left after that is
    /// at most [slices][outer][inner] for all but exotic patterns, which are expanded first.
    static func make(_ a: Tensor, _ b: Tensor, _ shape: Shape) -> (Tensor, Tensor, BroadcastPlan) {
        var groups: [(extent: Int, a: Bool, b: Bool)] = []
        func walks(_ tensor: Tensor, _ axis: Int) -> Bool {
            let own = axis - (shape.rank - tensor.rank)
            return own >= 0 && tensor.shape[own] != 1
        }
        for axis in 0..<shape.rank where shape[axis] != 1 {
            let (x, y) = (walks(a, axis), walks(b, axis))
            if let last = groups.last, last.a == x, last.b == y {
                groups[groups.count - 1].extent *= shape[axis]
            } else {
                groups.append((shape[axis], x, y))
            }
        }
        if groups.count > 3 {
            let (x, y) = (a.expanded(to: shape), b.expanded(to: shape))
            return make(x, y, shape)
        }
        while groups.count < 3 { groups.insert((1, false, false), at: 0) }
        func steps(_ keyPath: KeyPath<(extent: Int, a: Bool, b: Bool), Bool>) -> [Int] {
            var step = 1
            return groups.reversed().map { group in
                defer { if group[keyPath: keyPath] { step *= group.extent } }
                return group[keyPath: keyPath] ? step : 0
            }.reversed()
        }
        let (sa, sb) = (steps(\.a), steps(\.b))
        let (outer, inner) = (groups[1].extent, groups[2].extent)
        let slices = (0..<groups[0].extent).map { ($0 * sa[0], $0 * sb[0], $0 * outer * inner) }
        let plan = BroadcastPlan(
            outer: outer, inner: inner, a: (Int64(sa[1]), Int64(sa[2])), b: (Int64(sb[1]), Int64(sb[2])),
            slices: shape.count == 0 ? [] : slices)
        return (a, b, plan)
    }
}

extension Tensor {
    public static func + (a: Tensor, b: Tensor) -> Tensor { apply(BinaryArithmetic(kind: .add), [a, b]) }
    public static func - (a: Tensor, b: Tensor) -> Tensor { apply(BinaryArithmetic(kind: .subtract), [a, b]) }
    public static func * (a: Tensor, b: Tensor) -> Tensor { apply(BinaryArithmetic(kind: .multiply), [a, b]) }
    public static func / (a: Tensor, b: Tensor) -> Tensor { apply(BinaryArithmetic(kind: .divide), [a, b]) }
    public static func + (a: Tensor, b: Float) -> Tensor { a + Tensor(b) }
    public static func - (a: Tensor, b: Float) -> Tensor { a - Tensor(b) }
    public static func * (a: Tensor, b: Float) -> Tensor { a * Tensor(b) }
    public static func / (a: Tensor, b: Float) -> Tensor { a / Tensor(b) }
    public static func + (a: Float, b: Tensor) -> Tensor { Tensor(a) + b }
    public static func - (a: Float, b: Tensor) -> Tensor { Tensor(a) - b }
    public static func * (a: Float, b: Tensor) -> Tensor { Tensor(a) * b }
    public static func / (a: Float, b: Tensor) -> Tensor { Tensor(a) / b }
    public static prefix func - (a: Tensor) -> Tensor { a * Tensor(-1) }

    /// The sum over the axes along which `shape` was broadcast to this tensor's shape.
    func summed(to shape: Shape) -> Tensor {
        guard self.shape != shape else { return self }
        let extra = rank - shape.rank
        let axes = (0..<rank).filter { $0 < extra || (shape[$0 - extra] == 1 && self.shape[$0] != 1) }
        return sum(axes: axes, keepingAxes: true).reshaped(shape)
    }

    /// A plain copy at the shape that this one broadcasts to.
    fileprivate func expanded(to shape: Shape) -> Tensor {
        let strides = self.shape.strides
        let extra = shape.rank - rank
        let steps = (0..<shape.rank).map { $0 < extra || self.shape[$0 - extra] == 1 ? 0 : strides[$0 - extra] }
        let extents = shape.dimensions
        return Tensor(shape) { buffer in
            for place in buffer.indices {
                var (rest, from) = (place, 0)
                for axis in (0..<extents.count).reversed() {
                    from += rest % extents[axis] * steps[axis]
                    rest /= extents[axis]
                }
                buffer[place] = pointer[from]
            }
        }
    }

    /// A function of each element, without a gradient.
    func mapped(_ body: (Float) -> Float) -> Tensor {
        Tensor(shape) { buffer in
            withUnsafeBuffer { source in for i in buffer.indices { buffer[i] = body(source[i]) } }
        }
    }
}

/// The greater of two elements; the left one's gradient in a tie.
public func maximum(_ a: Tensor, _ b: Tensor) -> Tensor { apply(BinaryArithmetic(kind: .maximum), [a, b]) }

/// The smaller of two elements; the left one's gradient in a tie.
public func minimum(_ a: Tensor, _ b: Tensor) -> Tensor { apply(BinaryArithmetic(kind: .minimum), [a, b]) }
