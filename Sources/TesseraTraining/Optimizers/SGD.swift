import CKernels
import Tessera
import TesseraNN

/// Stochastic gradient descent with momentum, Nesterov's by default, and L2 decay as part of the gradient.
///
/// g ← g + λ w; b ← μ b + g (b = g at the first step); w ← w − η (g + μ b), or w − η b without Nesterov.
public final class SGD: Optimizer {
    public let parameters: [OptimizedParameter]
    private let momentum: Double
    private let isNesterov: Bool
    private var velocity: Moments

    public init(_ parameters: [OptimizedParameter], momentum: Double = 0.9, nesterov: Bool = true) {
        self.parameters = parameters
        (self.momentum, isNesterov) = (momentum, nesterov)
        velocity = Moments("momentum_buffer", parameters)
    }

    public func step(_ gradients: Gradients, learningRate: Double, scale: Float = 1) {
        for (index, entry) in parameters.enumerated() {
            guard let gradient = gradients[entry.parameter.tensor] else { continue }
            let (weight, buffer) = (entry.parameter.value, velocity.tensors[index])
            // The buffer starts at zero, so μ b + g is g at the first step.
            withExtendedLifetime((weight, buffer, gradient)) {
                tk_sgd(
                    weight.mutablePointer, buffer.mutablePointer, gradient.pointer, Int64(gradient.count),
                    Float(learningRate * entry.rateScale), Float(momentum), isNesterov, Float(entry.weightDecay), scale)
            }
        }
    }

    public var state: [(key: String, tensor: Tensor)] { velocity.state }

    public func load(_ state: [String: Tensor]) throws { try velocity.load(state) }
}
