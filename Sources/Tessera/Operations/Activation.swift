import CKernels

/// An elementwise nonlinearity.
public enum Activation: String, Codable, Sendable, CaseIterable {
    case identity
    /// max(x, 0)
    case relu
    /// x Φ(x), exact ("Gaussian Error Linear Units", 2016, arXiv 1606.08415)
    case gelu
    /// The tanh approximation of GELU.
    case geluTanh
    /// x σ(1.702 x): the sigmoid approximation of GELU.
    case quickGelu
    /// x σ(x), also called swish
    case silu
    case sigmoid
    case tanh
    /// x · min(max(x + 3, 0), 6) / 6 ("Searching for MobileNetV3", 2019, arXiv 1905.02244)
    case hardSwish
    /// min(max(x + 3, 0), 6) / 6
    case hardSigmoid
    /// min(max(x, 0), 6)
    case relu6

    package var kernel: tk_activation {
        switch self {
        case .identity: TK_IDENTITY
        case .relu: TK_RELU
        case .gelu: TK_GELU
        case .geluTanh: TK_GELU_TANH
        case .quickGelu: TK_QUICK_GELU
        case .silu: TK_SILU
        case .sigmoid: TK_SIGMOID
        case .tanh: TK_TANH
        case .hardSwish: TK_HARD_SWISH
        case .hardSigmoid: TK_HARD_SIGMOID
        case .relu6: TK_RELU6
        }
    }
}

extension Activation {
    /// - Parameter rounds: whether the result is held in bfloat16
    func callAsFunction(_ x: Tensor, rounds: Bool = false) -> Tensor {
        let output = rounds ? Tensor(uninitializedRounded: x.shape) : Tensor(uninitialized: x.shape)
        withExtendedLifetime((x, output)) {
            if let halves = x.halves {
                let (target, isRounded) = output.target
                tk_activate_rounded(halves, target, isRounded, Int64(output.count), kernel)
            } else {
                tk_activate(x.pointer, output.mutablePointer, Int64(output.count), kernel)
            }
        }
        return output
    }

    /// The gradient at the activation's input `x`, and its sums over all axes but the last: the gradient of a bias that was
    /// added to x.
    /// - Parameter rounds: whether the gradient is held in bfloat16
    func backward(
        _ gradient: Tensor, _ x: Tensor, sumsColumns: Bool, rounds: Bool = false
    ) -> (gradient: Tensor, sums: Tensor?) {
        let result = rounds ? Tensor(uninitializedRounded: x.shape) : Tensor(uninitialized: x.shape)
        let columns = x.rank > 0 ? x.shape[-1] : 1
        let sums = sumsColumns ? Tensor(uninitialized: [columns]) : nil
        withExtendedLifetime((gradient, x, result, sums)) {
            let (g, x) = (gradient.operand, x.operand)
            tk_activation_backward(
                g.pointer, g.isRounded, x.pointer, x.isRounded, kernel, result.target.pointer, rounds,
                sums?.mutablePointer, Int64(result.count / max(1, columns)), Int64(columns))
        }
        return (result, sums)
    }
}

package struct Activate: RecomputableOperation {
    package static let name = "activation"
    package let activation: Activation

    package func shape(_ inputs: [Shape]) -> Shape { inputs[0] }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        if saved.isNeeded { saved.tensors = [inputs[0]] }
        return activation(inputs[0])
    }

    package var isRecomputable: Bool { true }

    package func recompute(_ saved: (Int) -> Tensor, _ shape: Shape) -> Tensor { activation(saved(0)) }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        [activation.backward(context.gradient, context.saved[0], sumsColumns: false).gradient]
    }
}

extension Tensor {
    public func activated(_ activation: Activation) -> Tensor {
        activation == .identity ? self : apply(Activate(activation: activation), [self])
    }
    public func relu() -> Tensor { activated(.relu) }
    public func gelu() -> Tensor { activated(.gelu) }
    public func silu() -> Tensor { activated(.silu) }
    public func sigmoid() -> Tensor { activated(.sigmoid) }
    public func tanh() -> Tensor { activated(.tanh) }
    public func hardSwish() -> Tensor { activated(.hardSwish) }
}
