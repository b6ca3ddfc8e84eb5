import CKernels
import Tessera
import TesseraNN

/// Adam with decoupled weight decay: "Decoupled Weight Decay Regularization" (2017), arXiv 1711.05101.
///
/// w ← w (1 − η λ); m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²;
/// w ← w − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε).
public final class AdamW: Optimizer {
    public let parameters: [OptimizedParameter]
    private let betas: (Double, Double)
    private let epsilon: Double
    /// Decay as part of the gradient (plain Adam with L2) instead of decoupled from it.
    private let couplesDecay: Bool
    private var first: Moments
    private var second: Moments
    /// Steps taken by each parameter: one that had no gradient for a while corrects its bias by its own count.
    private var steps: [Int]

    public init(
        _ parameters: [OptimizedParameter], betas: (Double, Double) = (0.9, 0.999), epsilon: Double = 1e-8,
        couplesDecay: Bool = false
    ) {
        self.parameters = parameters
        (self.betas, self.epsilon, self.couplesDecay) = (betas, epsilon, couplesDecay)
        first = Moments("exp_avg", parameters)
        second = Moments("exp_avg_sq", parameters)
        steps = [Int](repeating: 0, count: parameters.count)
    }

    public func step(_ gradients: Gradients, learningRate: Double, scale: Float = 1) {
        for (index, entry) in parameters.enumerated() {
            guard let gradient = gradients[entry.parameter.tensor] else { continue }
            steps[index] += 1
            let (weight, m, v) = (entry.parameter.value, first.tensors[index], second.tensors[index])
            withExtendedLifetime((weight, m, v, gradient)) {
                tk_adam(
                    weight.mutablePointer, m.mutablePointer, v.mutablePointer, gradient.pointer, Int64(gradient.count),
                    Float(learningRate * entry.rateScale), Float(betas.0), Float(betas.1), Float(epsilon),
                    Float(entry.weightDecay), couplesDecay, scale, Int64(steps[index]))
            }
        }
    }

    public var state: [(key: String, tensor: Tensor)] {
        first.state + second.state + [("step", Tensor(steps.map(Float.init), [steps.count]))]
    }

    public func load(_ state: [String: Tensor]) throws {
        let steps = try state.steps(of: parameters)
        try first.load(state)
        try second.load(state)
        self.steps = steps
    }
}
