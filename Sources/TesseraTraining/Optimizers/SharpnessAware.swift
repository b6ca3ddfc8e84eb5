import Tessera
import TesseraNN

extension Gradients {
    /// The gradients of another place: above the weights w, at w + ρ g / (‖g‖ + 10⁻¹²), where g are these gradients of all
    /// parameters together.
    ///
    /// "Sharpness-Aware Minimization for Efficiently Improving Generalization" (2020), arXiv 2010.01412: a step along them
    /// leads to weights around which the loss is low everywhere.
    /// - Parameters:
    ///   - radius: ρ
    ///   - body: computes the gradients with the weights as they are when it is called
    public func above(
        _ parameters: [OptimizedParameter], radius: Double, _ body: () throws -> Gradients
    ) rethrows -> Gradients {
        let scale = Float(radius / (norm(over: parameters) + 1e-12))
        // Optimizers write into the memory of the weights: those very tensors come back, not copies of them.
        let weights = parameters.map(\.parameter.value)
        defer { for (entry, weight) in zip(parameters, weights) { entry.parameter.value = weight } }
        for (entry, weight) in zip(parameters, weights) {
            guard let gradient = self[entry.parameter.tensor] else { continue }
            entry.parameter.value = weight + gradient * scale
        }
        return try body()
    }
}
