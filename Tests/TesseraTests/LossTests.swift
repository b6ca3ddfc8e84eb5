import Foundation
import Tessera
import Testing

extension Operations {
    @Suite struct Losses {
        static func softCrossEntropy(_ logits: Slow, _ targets: Slow) -> Slow {
            let (rows, classes) = (logits.shape[0], logits.shape[1])
            return Slow([]) { _ in
                (0..<rows).reduce(0) { total, row in
                    let normalizer = log((0..<classes).reduce(0) { $0 + exp(logits[row, $1]) })
                    return total
                        + (0..<classes).reduce(0) { $0 + targets[row, $1] * (normalizer - logits[row, $1]) }
                } / Double(rows)
            }
        }

        @Test(arguments: [[4, 10], [3, 1], [1, 33], [40, 7]]) func softTargets(_ shape: [Int]) {
            let inputs = [random(Shape(shape)) * 2, uniform(Shape(shape), 0, 1, seed: 2)]
            OperationCase("crossEntropy \(shape)", inputs, differentiated: [0]) {
                crossEntropy($0[0], $0[1])
            } expected: {
                Self.softCrossEntropy($0[0], $0[1])
            }.verify()
        }

        @Test(arguments: [0, 0.1] as [Float]) func labels(_ smoothing: Float) {
            let labels: [Int32] = [2, 0, 4]
            OperationCase("labels, smoothing \(smoothing)", [random([3, 5])]) {
                crossEntropy($0[0], labels: labels, smoothing: smoothing)
            } expected: { x in
                let targets = Slow([3, 5]) {
                    Double(smoothing) / 5 + (Int(labels[$0[0]]) == $0[1] ? 1 - Double(smoothing) : 0)
                }
                return Self.softCrossEntropy(x[0], targets)
            }.verify()
        }

        @Test func crossEntropyOfLargeLogits() {
            let loss = crossEntropy(Tensor([1000, 0, -1000, 0], [2, 2]), labels: [0, 0]).scalar
            #expect(loss == 500)
        }

        @Test(arguments: [[5], [3, 37]]) func binary(_ shape: [Int]) {
            let inputs = [random(Shape(shape)) * 3, uniform(Shape(shape), 0, 1, seed: 2)]
            OperationCase("binaryCrossEntropy \(shape)", inputs, differentiated: [0]) {
                binaryCrossEntropy($0[0], $0[1])
            } expected: { x in
                Slow([]) { _ in
                    zip(x[0].values, x[1].values).reduce(0) { sum, pair in
                        let p = 1 / (1 + exp(-pair.0))
                        return sum - pair.1 * log(p) - (1 - pair.1) * log(1 - p)
                    } / Double(x[0].values.count)
                }
            }.verify()
        }

        @Test func binaryOfLargeLogits() {
            let loss = binaryCrossEntropy(Tensor([200, -200, 200], [3]), Tensor([1, 0, 0], [3])).scalar
            #expect(abs(loss - 200.0 / 3) < 1e-4)
        }

        @Test func dropoutDropsAndScales() {
            let x = uniform([200, 100], 1, 2)
            let y = dropout(x, rate: 0.3, seed: 7)
            let kept = zip(x.scalars, y.scalars).filter { $0.1 != 0 }
            for (before, after) in kept { #expect(abs(after - before / 0.7) <= 1e-6 * after) }
            expectShare(kept.count, of: 20_000, 0.7)
            #expect(dropout(x, rate: 0.3, seed: 7).scalars == y.scalars)
            let other = zip(dropout(x, rate: 0.3, seed: 8).scalars, y.scalars).filter { ($0 == 0) == ($1 == 0) }
            expectShare(other.count, of: 20_000, 0.7 * 0.7 + 0.3 * 0.3)
            #expect(dropout(x, rate: 0, seed: 7).scalars == x.scalars)
        }

        /// The mask as the operation itself draws it; what is checked is that the gradient has the same one.
        @Test func dropoutGradient() {
            func check(_ name: String, _ function: @escaping @Sendable (Tensor) -> Tensor) {
                let mask = Slow(function(Tensor(repeating: 1, [7, 19])))
                OperationCase(name, [random([7, 19])]) {
                    function($0[0])
                } expected: { x in
                    Slow([7, 19]) { x[0][$0] * mask[$0] }
                }.verify()
            }
            check("dropout") { dropout($0, rate: 0.4, seed: 11) }
            check("dropPath") { dropPath($0, rate: 0.4, seed: 11) }
        }

        @Test func dropPathDropsWholeSamples() {
            let y = dropPath(Tensor(repeating: 1, [2000, 2, 3]), rate: 0.25, seed: 3).scalars
            var kept = 0
            for sample in 0..<2000 {
                let values = Set(y[(sample * 6)..<(sample * 6 + 6)])
                #expect(values.count == 1 && (values.first! == 0 || abs(values.first! - 4.0 / 3) < 1e-6))
                kept += values.first! == 0 ? 0 : 1
            }
            expectShare(kept, of: 2000, 0.75)
        }

        @Test func manyTasks() {
            let (logits, targets) = (random([300, 200]), uniform([300, 200], 0, 1))
            expectSameBits("large") {
                let x = Tape.leaf(logits)
                let tape = Tape()
                let loss = tape.record {
                    crossEntropy(dropout(x, rate: 0.1, seed: 5), targets) + binaryCrossEntropy(x, targets)
                }
                return [loss, tape.gradients(of: loss)[x]!]
            }
        }
    }
}

/// A count of independent events of the given probability, within four standard deviations.
private func expectShare(_ count: Int, of total: Int, _ probability: Double) {
    let deviation = (probability * (1 - probability) / Double(total)).squareRoot()
    let share = Double(count) / Double(total)
    #expect(abs(share - probability) < 4 * deviation)
}
