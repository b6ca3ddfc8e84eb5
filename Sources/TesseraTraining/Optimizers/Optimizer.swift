import Tessera
import TesseraNN

/// Changes parameters along their gradients.
///
/// Weights are changed in place, in one pass over memory, so each parameter must own its values.
public protocol Optimizer: AnyObject {
    var parameters: [OptimizedParameter] { get }

    /// One step. A parameter without a gradient is left alone: no decay either.
    /// - Parameter scale: what every gradient is multiplied by first (clipping).
    func step(_ gradients: Gradients, learningRate: Double, scale: Float)

    /// Everything that the next step depends on besides the weights, under checkpoint names.
    var state: [(key: String, tensor: Tensor)] { get }

    /// Takes up a saved state.
    /// - Throws: `StateDictionaryError` if tensors are missing or mis-shaped.
    func load(_ state: [String: Tensor]) throws
}

/// A trainable parameter as an optimizer sees it.
public struct OptimizedParameter {
    public let key: String
    public let parameter: Parameter
    public let weightDecay: Double
    /// What the learning rate is multiplied by (layer-wise decay).
    public let rateScale: Double

    public init(key: String, parameter: Parameter, weightDecay: Double, rateScale: Double = 1) {
        (self.key, self.parameter) = (key, parameter)
        (self.weightDecay, self.rateScale) = (weightDecay, rateScale)
    }

    /// The trainable parameters of a module under timm's rule: no decay for vectors, biases and `undecayed` keys.
    public static func all(of module: Module, weightDecay: Double, undecayed: Set<String>) -> [OptimizedParameter] {
        all(module.parameters, weightDecay: weightDecay, undecayed: undecayed)
    }

    /// The trainable ones of these parameters under the same rule.
    /// - Parameter rateScales: by key, what the learning rate is multiplied by; 1 where nothing is said
    static func all(
        _ parameters: [(key: String, parameter: Parameter)], weightDecay: Double, undecayed: Set<String>,
        rateScales: [String: Double] = [:]
    ) -> [OptimizedParameter] {
        parameters.filter(\.parameter.isTrainable).map { key, parameter in
            let spared = parameter.shape.rank <= 1 || key.hasSuffix(".bias") || undecayed.contains(key)
            return OptimizedParameter(
                key: key, parameter: parameter, weightDecay: spared ? 0 : weightDecay, rateScale: rateScales[key] ?? 1)
        }
    }
}

extension Gradients {
    /// The square root of the sum of squares of all gradients of `parameters`, summed in double precision in a fixed
    /// order.
    public func norm(over parameters: [OptimizedParameter]) -> Double {
        parameters.reduce(0.0) { sum, entry in
            guard let gradient = self[entry.parameter.tensor] else { return sum }
            return sum + gradient.sumOfSquares
        }.squareRoot()
    }

    /// The factor that brings the norm down to `limit`: min(1, limit / (norm + 10⁻⁶)), as PyTorch clips.
    public static func clippingScale(norm: Double, limit: Double?) -> Float {
        guard let limit else { return 1 }
        return Float(min(1, limit / (norm + 1e-6)))
    }

    /// Adaptive clipping: no unit's gradient is longer than `factor` times the unit's weights.
    ///
    /// "High-Performance Large-Scale Image Recognition Without Normalization" (2021), arXiv 2102.06171. A unit is all that
    /// makes one output: a row of a matrix, a filter, a whole vector; its weights count as 10⁻³ long at least.
    public mutating func clipAdaptively(_ parameters: [OptimizedParameter], factor: Double) {
        for entry in parameters {
            guard let gradient = self[entry.parameter.tensor] else { continue }
            let units: Shape =
                gradient.rank > 1 ? [gradient.shape[0], gradient.count / gradient.shape[0]] : [1, gradient.count]
            func norms(_ tensor: Tensor) -> Tensor {
                tensor.reshaped(units).squared().sum(axes: [1], keepingAxes: true).squareRoot()
            }
            let limit = maximum(norms(entry.parameter.value), Tensor(1e-3)) * Float(factor)
            let scale = minimum(limit / maximum(norms(gradient), Tensor(1e-6)), Tensor(1))
            self[entry.parameter.tensor] = (gradient.reshaped(units) * scale).reshaped(gradient.shape)
        }
    }
}

extension [String: Tensor] {
    /// How often each parameter has been changed, as optimizers save it.
    /// - Throws: `StateDictionaryError` if it is missing or for other parameters.
    func steps(of parameters: [OptimizedParameter]) throws -> [Int] {
        guard let counts = self["step"] else { throw StateDictionaryError(missing: ["step"]) }
        guard counts.shape == [parameters.count] else {
            throw StateDictionaryError(misshaped: ["step: found \(counts.shape), expected [\(parameters.count)]"])
        }
        return counts.scalars.map { Int($0) }
    }
}

/// Buffers of a parameter's shape under `prefix.key`, zero at first: moments and velocities.
struct Moments {
    let prefix: String
    private(set) var tensors: [Tensor]
    private let keys: [String]

    init(_ prefix: String, _ parameters: [OptimizedParameter]) {
        self.prefix = prefix
        keys = parameters.map { "\(prefix).\($0.key)" }
        tensors = parameters.map { Tensor(zeros: $0.parameter.shape) }
    }

    var state: [(key: String, tensor: Tensor)] { zip(keys, tensors).map { ($0, $1) } }

    mutating func load(_ state: [String: Tensor]) throws {
        var error = StateDictionaryError()
        for (key, tensor) in zip(keys, tensors) {
            guard let found = state[key] else {
                error.missing.append(key)
                continue
            }
            if found.shape != tensor.shape {
                error.misshaped.append("\(key): found \(found.shape), expected \(tensor.shape)")
            }
        }
        guard error.isEmpty else { throw error }
        // Copies: a checkpoint's tensors may be a mapped file, and these are written in place.
        tensors = keys.map { Tensor(state[$0]!.scalars, state[$0]!.shape) }
    }
}
