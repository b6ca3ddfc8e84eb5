import CKernels

/// exp, log, square root, sine and cosine, element by element.
package struct UnaryFunction: Operation {
    package enum Kind: Sendable {
        case exp, log, squareRoot, sine, cosine

        package var kernel: tk_unary {
            switch self {
            case .exp: TK_EXP
            case .log: TK_LOG
            case .squareRoot: TK_SQUARE_ROOT
            case .sine: TK_SINE
            case .cosine: TK_COSINE
            }
        }

        /// The derivative is written with the result, not with the input.
        var savesOutput: Bool { self == .exp || self == .squareRoot }
    }

    package static let name = "function"
    package let kind: Kind

    package init(kind: Kind) { self.kind = kind }

    package func shape(_ inputs: [Shape]) -> Shape { inputs[0] }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        withExtendedLifetime((inputs, output)) {
            tk_unary_function(kind.kernel, inputs[0].pointer, output.mutablePointer, Int64(output.count))
        }
        if saved.isNeeded { saved.tensors = [kind.savesOutput ? output : inputs[0]] }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let (g, kept) = (context.gradient, context.saved[0])
        switch kind {
        case .exp: return [g * kept]
        case .log: return [g / kept]
        case .squareRoot: return [g * 0.5 / kept]
        case .sine: return [g * kept.cosine()]
        case .cosine: return [-(g * kept.sine())]
        }
    }
}

extension Tensor {
    public func exp() -> Tensor { apply(UnaryFunction(kind: .exp), [self]) }
    public func log() -> Tensor { apply(UnaryFunction(kind: .log), [self]) }
    public func squareRoot() -> Tensor { apply(UnaryFunction(kind: .squareRoot), [self]) }
    public func sine() -> Tensor { apply(UnaryFunction(kind: .sine), [self]) }
    public func cosine() -> Tensor { apply(UnaryFunction(kind: .cosine), [self]) }
    public func squared() -> Tensor { self * self }
    public func absolute() -> Tensor { maximum(self, -self) }
}
