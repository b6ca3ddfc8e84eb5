import CKernels

/// exp, log and square root, element by element.
struct UnaryFunction: Operation {
    enum Kind: Sendable { case exp, log, squareRoot }

    static let name = "function"
    let kind: Kind

    func shape(_ inputs: [Shape]) -> Shape { inputs[0] }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        let function = kind == .exp ? TK_EXP : kind == .log ? TK_LOG : TK_SQUARE_ROOT
        withExtendedLifetime((inputs, output)) {
            tk_unary_function(function, inputs[0].pointer, output.mutablePointer, Int64(output.count))
        }
        if saved.isNeeded { saved.tensors = [kind == .log ? inputs[0] : output] }
        return output
    }

    func backward(_ context: BackwardContext) -> [Tensor?] {
        let (g, kept) = (context.gradient, context.saved[0])
        switch kind {
        case .exp: return [g * kept]
        case .log: return [g / kept]
        case .squareRoot: return [g * 0.5 / kept]
        }
    }
}

extension Tensor {
    public func exp() -> Tensor { apply(UnaryFunction(kind: .exp), [self]) }
    public func log() -> Tensor { apply(UnaryFunction(kind: .log), [self]) }
    public func squareRoot() -> Tensor { apply(UnaryFunction(kind: .squareRoot), [self]) }
    public func squared() -> Tensor { self * self }
    public func absolute() -> Tensor { maximum(self, -self) }
}
