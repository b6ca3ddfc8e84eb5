import CKernels
import Tessera
import TesseraNN

/// LAMB: "Large Batch Optimization for Deep Learning" (2019), arXiv 1904.00962, as timm has it.
///
/// g ← g / max(1, ‖g‖ / limit) over all parameters; m, v as Adam's; u = m̂ / (√v̂ + ε) + λ w; w ← w − η r u with the trust
/// ratio r = ‖w‖ / ‖u‖, or 1 where either is 0. Parameters without decay take r = 1 unless `adaptsAlways`.
public final class LAMB: Optimizer {
    public let parameters: [OptimizedParameter]
    private let betas: (Double, Double)
    private let epsilon: Double
    private let normLimit: Double?
    private let clipsTrust: Bool
    private let adaptsAlways: Bool
    private var first: Moments
    private var second: Moments
    private var steps: [Int]

    /// - Parameters:
    ///   - normLimit: the largest norm of all gradients together
    ///   - clipsTrust: no trust ratio above 1
    public init(
        _ parameters: [OptimizedParameter], betas: (Double, Double) = (0.9, 0.999), epsilon: Double = 1e-6,
        normLimit: Double? = 1, clipsTrust: Bool = false, adaptsAlways: Bool = false
    ) {
        self.parameters = parameters
        (self.betas, self.epsilon, self.normLimit) = (betas, epsilon, normLimit)
        (self.clipsTrust, self.adaptsAlways) = (clipsTrust, adaptsAlways)
        first = Moments("exp_avg", parameters)
        second = Moments("exp_avg_sq", parameters)
        steps = [Int](repeating: 0, count: parameters.count)
    }

    public func step(_ gradients: Gradients, learningRate: Double, scale: Float = 1) {
        var scale = scale
        if let normLimit {
            scale /= Float(max(1, Double(scale) * gradients.norm(over: parameters) / normLimit))
        }
        for (index, entry) in parameters.enumerated() {
            guard let gradient = gradients[entry.parameter.tensor] else { continue }
            steps[index] += 1
            let weight = entry.parameter.value
            var update = direction(index, gradient, scale)
            if entry.weightDecay != 0 { update = update + weight * Float(entry.weightDecay) }
            var rate = learningRate * entry.rateScale
            if entry.weightDecay != 0 || adaptsAlways { rate *= trust(weight, update) }
            entry.parameter.value = weight - update * Float(rate)
        }
    }

    /// Adam's m̂ / (√v̂ + ε): what a step of size −1 adds to zero weights.
    private func direction(_ index: Int, _ gradient: Tensor, _ scale: Float) -> Tensor {
        let (result, m, v) = (Tensor(zeros: gradient.shape), first.tensors[index], second.tensors[index])
        withExtendedLifetime((result, m, v, gradient)) {
            tk_adam(
                result.mutablePointer, m.mutablePointer, v.mutablePointer, gradient.pointer, Int64(gradient.count), -1,
                Float(betas.0), Float(betas.1), Float(epsilon), 0, false, scale, Int64(steps[index]))
        }
        return result
    }

    private func trust(_ weight: Tensor, _ update: Tensor) -> Double {
        let (own, change) = (weight.sumOfSquares.squareRoot(), update.sumOfSquares.squareRoot())
        guard own > 0, change > 0 else { return 1 }
        return clipsTrust ? min(1, own / change) : own / change
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
