import CKernels
import Foundation
import Tessera
import TesseraNN

/// An exponential moving average of all weights and buffers: a ← d a + (1 − d) w after every step.
///
/// With `warmsUp`, the decay grows as 1 − (1 + s)^(−2/3) up to `decay`, s counting steps from 0 (timm's third version),
/// so that short runs are not held back by their random start.
public final class MovingAverage {
    private let decay: Double
    private let warmsUp: Bool
    private var average: [(key: String, parameter: Parameter, tensor: Tensor)]
    private var step = 0

    /// Starts as a copy.
    public init(of parameters: [(key: String, parameter: Parameter)], decay: Double, warmsUp: Bool = true) {
        (self.decay, self.warmsUp) = (decay, warmsUp)
        average = parameters.map { ($0.key, $0.parameter, $0.parameter.value.copied) }
    }

    public func update() {
        step += 1
        let decay = Float(currentDecay)
        for (_, parameter, tensor) in average {
            let weight = parameter.value
            withExtendedLifetime((weight, tensor)) {
                tk_moving_average(tensor.mutablePointer, weight.pointer, Int64(tensor.count), decay)
            }
        }
    }

    private var currentDecay: Double {
        guard warmsUp else { return decay }
        let effective = Double(max(0, step - 1))
        return effective <= 0 ? 0 : min(decay, 1 - pow(1 + effective, -2.0 / 3))
    }

    /// Runs `body` while the parameters hold the average instead of their own values.
    public func apply<Result>(_ body: () throws -> Result) rethrows -> Result {
        let own = average.map(\.parameter.value)
        for entry in average { entry.parameter.value = entry.tensor }
        defer { for (entry, value) in zip(average, own) { entry.parameter.value = value } }
        return try body()
    }

    /// The average and its step under checkpoint names, in this package's layout.
    public var state: [(key: String, tensor: Tensor)] {
        average.map { ("ema.\($0.key)", $0.tensor) } + [("ema.step", Tensor([Float(step)], [1]))]
    }

    /// - Throws: `StateDictionaryError` if tensors are missing or mis-shaped.
    public func load(_ state: [String: Tensor]) throws {
        var error = StateDictionaryError()
        for entry in average where state["ema.\(entry.key)"]?.shape != entry.tensor.shape {
            error.missing.append("ema.\(entry.key)")
        }
        if state["ema.step"] == nil { error.missing.append("ema.step") }
        guard error.isEmpty else { throw error }
        average = average.map { ($0.key, $0.parameter, state["ema.\($0.key)"]!.copied) }
        step = Int(state["ema.step"]!.scalar)
    }
}

extension Tensor {
    /// The same values in memory of their own.
    var copied: Tensor { Tensor(scalars, shape) }
}
