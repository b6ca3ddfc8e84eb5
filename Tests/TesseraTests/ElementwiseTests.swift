import Foundation
import Tessera
import Testing

extension Operations {
    @Suite struct Elementwise {
        /// Same shape, trailing and leading axes, a scalar, both operands repeated, more than three separate runs of axes.
        static let shapes: [(Shape, Shape)] = [
            ([3, 7], [3, 7]), ([2, 5, 17], [17]), ([3, 4], []), ([], [2, 3]), ([3, 1, 5], [3, 4, 1]),
            ([4, 1, 6], [4, 3, 6]), ([2, 1, 3, 1, 2], [4, 1, 5, 1]), ([1], [1]), ([2, 3, 33], [2, 1, 33]),
        ]

        @Test(arguments: shapes.indices) func binary(_ index: Int) {
            let (a, b) = Self.shapes[index]
            func check(
                _ name: String, _ x: Tensor, _ y: Tensor, _ function: @escaping @Sendable (Tensor, Tensor) -> Tensor,
                _ slow: @escaping @Sendable (Double, Double) -> Double
            ) {
                OperationCase("\(name) \(a) \(b)", [x, y]) {
                    function($0[0], $0[1])
                } expected: { inputs in
                    Slow(Shape.broadcast(a, b).dimensions) { slow(inputs[0].broadcast($0), inputs[1].broadcast($0)) }
                }.verify()
            }
            let (x, y) = (random(a, seed: 1), random(b, seed: 2))
            check("add", x, y, +, +)
            check("subtract", x, y, -, -)
            check("multiply", x, y, *, *)
            check("divide", x, uniform(b, 0.5, 2), /, /)
            // Apart by at least 0.025: no step crosses a tie.
            let shifted = spread(b, seed: 2) + 0.025
            check("maximum", spread(a), shifted, { maximum($0, $1) }, { Swift.max($0, $1) })
            check("minimum", spread(a), shifted, { minimum($0, $1) }, { Swift.min($0, $1) })
        }

        @Test func tiesGoLeft() throws {
            for function in [maximum, minimum] as [(Tensor, Tensor) -> Tensor] {
                let (a, b) = (Tape.leaf(Tensor([1, 2], [2])), Tape.leaf(Tensor([1, 2], [2])))
                let tape = Tape()
                let gradients = tape.gradients(of: tape.record { function(a, b) })
                #expect(try #require(gradients[a]).scalars == [1, 1])
                #expect(try #require(gradients[b]).scalars == [0, 0])
            }
        }

        @Test func withNumbers() {
            let x = uniform([3, 11], 0.5, 2)
            func check(
                _ name: String, _ function: @escaping @Sendable (Tensor) -> Tensor,
                _ slow: @escaping @Sendable (Double) -> Double
            ) {
                OperationCase(name, [x]) {
                    function($0[0])
                } expected: {
                    $0[0].map(slow)
                }.verify()
            }
            check("x + c", { $0 + 1.5 }, { $0 + 1.5 })
            check("c + x", { 1.5 + $0 }, { 1.5 + $0 })
            check("x - c", { $0 - 1.5 }, { $0 - 1.5 })
            check("c - x", { 1.5 - $0 }, { 1.5 - $0 })
            check("x * c", { $0 * 1.5 }, { $0 * 1.5 })
            check("c * x", { 1.5 * $0 }, { 1.5 * $0 })
            check("x / c", { $0 / 1.5 }, { $0 / 1.5 })
            check("c / x", { 1.5 / $0 }, { 1.5 / $0 })
            check("-x", { -$0 }, { -$0 })
        }

        @Test func functions() {
            func check(
                _ name: String, _ x: Tensor, _ function: @escaping @Sendable (Tensor) -> Tensor,
                _ slow: @escaping @Sendable (Double) -> Double
            ) {
                OperationCase(name, [x]) {
                    function($0[0])
                } expected: {
                    $0[0].map(slow)
                }.verify()
            }
            let (signed, positive) = (random([5, 13]), uniform([5, 13], 0.5, 3))
            check("exp", signed, { $0.exp() }, { Foundation.exp($0) })
            check("log", positive, { $0.log() }, { Foundation.log($0) })
            check("squareRoot", positive, { $0.squareRoot() }, { $0.squareRoot() })
            check("sine", signed, { $0.sine() }, { sin($0) })
            check("cosine", signed, { $0.cosine() }, { cos($0) })
            check("squared", signed, { $0.squared() }, { $0 * $0 })
            check("power", positive, { $0.power(-1.7) }, { pow($0, -1.7) })
            check("cube of signed", signed, { $0.power(3) }, { $0 * $0 * $0 })
            check("absolute", spread([7, 5]), { $0.absolute() }, { abs($0) })
        }

        @Test(arguments: Activation.allCases) func activation(_ activation: Activation) {
            // Away from the kinks at 0, ±3 and 6: the grid's values end in 5.
            let x = spread([9, 19]) * 0.5 + 0.0125
            OperationCase("\(activation)", [x]) {
                $0[0].activated(activation)
            } expected: {
                $0[0].map { reference(activation, $0) }
            }.verify()
        }

        /// Large enough for several tasks: the bits must not depend on who runs them.
        @Test func manyTasks() {
            let (x, row) = (random([3, 37, 1000]), random([1000], seed: 2))
            expectSameBits("large") {
                let (a, b) = (Tape.leaf(x), Tape.leaf(row))
                let tape = Tape()
                let output = tape.record { ((a * b + 1).gelu() + a.silu()) * b }
                let gradients = tape.gradients(of: output)
                return [output, gradients[a]!, gradients[b]!]
            }
        }
    }
}

func reference(_ activation: Activation, _ x: Double) -> Double {
    switch activation {
    case .identity: x
    case .relu: max(x, 0)
    case .gelu: x * 0.5 * erfc(-x / 2.0.squareRoot())
    case .geluTanh: 0.5 * x * (1 + Foundation.tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
    case .quickGelu: x / (1 + exp(-1.702 * x))
    case .silu: x / (1 + exp(-x))
    case .sigmoid: 1 / (1 + exp(-x))
    case .tanh: Foundation.tanh(x)
    case .hardSwish: x * min(max(x + 3, 0), 6) / 6
    case .hardSigmoid: min(max(x + 3, 0), 6) / 6
    case .relu6: min(max(x, 0), 6)
    }
}
