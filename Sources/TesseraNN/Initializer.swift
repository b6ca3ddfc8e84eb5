import Foundation
import Tessera

/// A distribution for new weights. The generator is forked by the parameter's key, so a weight's first value does not
/// depend on the order in which modules are made.
public struct Initializer: Sendable {
    let fill: @Sendable (UnsafeMutableBufferPointer<Float>, inout RandomGenerator) -> Void

    /// Any rule: sets every element of the buffer.
    public init(_ fill: @escaping @Sendable (UnsafeMutableBufferPointer<Float>, inout RandomGenerator) -> Void) {
        self.fill = fill
    }

    public static let zeros = constant(0)
    public static let ones = constant(1)

    public static func constant(_ value: Float) -> Initializer {
        Initializer { buffer, _ in buffer.update(repeating: value) }
    }

    /// Normal with mean 0.
    public static func normal(_ standardDeviation: Float) -> Initializer {
        each { $0.normal() * standardDeviation }
    }

    /// Normal with mean 0, cut at ±`bound` in absolute terms (timm and PyTorch cut at ±2, not at two deviations).
    public static func truncatedNormal(_ standardDeviation: Float, bound: Float = 2) -> Initializer {
        each { $0.truncatedNormal(standardDeviation: standardDeviation, bound: bound) }
    }

    /// Uniform in ±`bound`.
    public static func uniform(_ bound: Float) -> Initializer { each { $0.uniform(-bound, bound) } }

    /// Uniform in ±1/√fanIn: what PyTorch gives a linear layer or convolution, weight and bias alike.
    public static func fanIn(_ fanIn: Int) -> Initializer { uniform(1 / Float(max(1, fanIn)).squareRoot()) }

    /// Kaiming normal for ReLU: deviation √(2 / fan).
    public static func kaimingNormal(fan: Int) -> Initializer { normal((2 / Float(fan)).squareRoot()) }

    /// Xavier uniform: bound √(6 / (fanIn + fanOut)).
    public static func xavierUniform(fanIn: Int, fanOut: Int) -> Initializer {
        uniform((6 / Float(fanIn + fanOut)).squareRoot())
    }

    /// Rows `[rows, columns]` that are orthogonal to each other and of length `gain`: random directions through Gram and
    /// Schmidt's process. At most `columns` rows.
    public static func orthogonal(columns: Int, gain: Float) -> Initializer {
        Initializer { buffer, generator in
            var rows: [[Double]] = []
            for start in stride(from: 0, to: buffer.count, by: columns) {
                var row = (0..<columns).map { _ in Double(generator.normal()) }
                for other in rows {
                    let overlap = zip(row, other).reduce(0) { $0 + $1.0 * $1.1 }
                    for i in row.indices { row[i] -= overlap * other[i] }
                }
                let length = row.reduce(0) { $0 + $1 * $1 }.squareRoot()
                for i in row.indices {
                    row[i] /= length
                    buffer[start + i] = Float(row[i]) * gain
                }
                rows.append(row)
            }
        }
    }

    private static func each(_ draw: @escaping @Sendable (inout RandomGenerator) -> Float) -> Initializer {
        Initializer { buffer, generator in for i in buffer.indices { buffer[i] = draw(&generator) } }
    }
}
