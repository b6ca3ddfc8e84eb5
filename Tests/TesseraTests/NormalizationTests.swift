import Foundation
import Tessera
import Testing

extension Operations {
    @Suite struct Normalization {
        /// (x − mean) / √(variance + ε) over the elements of the same group, times weight plus bias of the last axis.
        static func normalized(
            _ x: Slow, _ weight: Slow?, _ bias: Slow?, _ epsilon: Double, group: ([Int]) -> [Int]
        ) -> Slow {
            var members: [[Int]: [Double]] = [:]
            _ = Slow(x.shape) { index in
                members[group(index), default: []].append(x[index])
                return 0
            }
            let statistics = members.mapValues { values in
                let mean = values.reduce(0, +) / Double(values.count)
                let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count)
                return (mean, variance)
            }
            return Slow(x.shape) { index in
                let (mean, variance) = statistics[group(index)]!
                let (w, b) = (weight?[index.last!] ?? 1, bias?[index.last!] ?? 0)
                return (x[index] - mean) / (variance + epsilon).squareRoot() * w + b
            }
        }

        static func parameters(_ channels: Int, _ count: Int) -> [Tensor] {
            [uniform([channels], 0.5, 1.5, seed: 5), random([channels], seed: 6)].prefix(count).map { $0 }
        }

        @Test(arguments: [[3, 7], [2, 3, 16], [5, 33], [1, 2], [4, 64]], [0, 1, 2])
        func layer(_ shape: [Int], _ parameters: Int) {
            let inputs = [random(Shape(shape)) + 3] + Self.parameters(shape.last!, parameters)
            OperationCase("layerNorm \(shape), \(parameters) parameters", inputs) {
                layerNorm($0[0], weight: $0.count > 1 ? $0[1] : nil, bias: $0.count > 2 ? $0[2] : nil, epsilon: 1e-2)
            } expected: { x in
                Self.normalized(x[0], x.count > 1 ? x[1] : nil, x.count > 2 ? x[2] : nil, 1e-2) { Array($0.dropLast()) }
            }.verify()
        }

        @Test func layerWithBiasOnly() {
            OperationCase("layerNorm, bias only", [random([3, 9]), random([9], seed: 2)]) {
                layerNorm($0[0], weight: nil, bias: $0[1], epsilon: 1e-2)
            } expected: {
                Self.normalized($0[0], nil, $0[1], 1e-2) { [$0[0]] }
            }.verify()
        }

        @Test(arguments: [([2, 5, 6], 3), ([2, 3, 4, 8], 1), ([3, 2, 2, 34], 17), ([1, 7, 4], 4)], [0, 2])
        func group(_ shapeAndGroups: ([Int], Int), _ parameters: Int) {
            let (shape, groups) = shapeAndGroups
            let inputs = [random(Shape(shape)) * 2 + 1] + Self.parameters(shape.last!, parameters)
            OperationCase("groupNorm \(shape), \(groups) groups", inputs) {
                groupNorm(
                    $0[0], groups: groups, weight: $0.count > 1 ? $0[1] : nil, bias: $0.count > 2 ? $0[2] : nil,
                    epsilon: 1e-2)
            } expected: { x in
                Self.normalized(x[0], x.count > 1 ? x[1] : nil, x.count > 2 ? x[2] : nil, 1e-2) {
                    [$0[0], $0.last! / (shape.last! / groups)]
                }
            }.verify()
        }

        @Test(arguments: [[9, 5], [3, 4, 2, 18], [2, 50, 1]]) func batch(_ shape: [Int]) {
            let channels = shape.last!
            let inputs = [random(Shape(shape)) * 2 + 5] + Self.parameters(channels, 2)
            OperationCase("batchNorm \(shape)", inputs) {
                batchNorm($0[0], weight: $0[1], bias: $0[2], epsilon: 1e-2).output
            } expected: {
                Self.normalized($0[0], $0[1], $0[2], 1e-2) { [$0.last!] }
            }.verify()

            let (_, mean, variance) = batchNorm(inputs[0], weight: nil, bias: nil, epsilon: 1e-2)
            let x = Slow(inputs[0].reshaped([inputs[0].count / channels, channels]))
            let means = (0..<channels).map { c in
                (0..<x.shape[0]).reduce(0) { $0 + x[$1, c] } / Double(x.shape[0])
            }
            let variances = (0..<channels).map { c in
                (0..<x.shape[0]).reduce(0) { $0 + pow(x[$1, c] - means[c], 2) } / Double(x.shape[0])
            }
            expectClose(mean.scalars.map(Double.init), means, 1e-5, "mean")
            expectClose(variance.scalars.map(Double.init), variances, 1e-5, "variance")
        }

        @Test(arguments: [0, 2]) func batchWithGivenStatistics(_ parameters: Int) {
            let inputs =
                [random([3, 2, 19]), random([19], seed: 2), uniform([19], 0.5, 2, seed: 3)]
                + Self.parameters(19, parameters)
            OperationCase("batchNorm, given statistics", inputs, differentiated: [0] + (3..<(3 + parameters))) {
                batchNorm(
                    $0[0], mean: $0[1], variance: $0[2], weight: $0.count > 3 ? $0[3] : nil,
                    bias: $0.count > 4 ? $0[4] : nil, epsilon: 1e-2)
            } expected: { x in
                Slow(x[0].shape) { index in
                    let c = index.last!
                    let normal = (x[0][index] - x[1][c]) / (x[2][c] + 1e-2).squareRoot()
                    return normal * (x.count > 3 ? x[3][c] : 1) + (x.count > 4 ? x[4][c] : 0)
                }
            }.verify()
        }

        @Test func manyTasks() {
            let (x, weight) = (random([6, 20, 20, 48]), random([48], seed: 2))
            expectSameBits("large") {
                let (a, w) = (Tape.leaf(x), Tape.leaf(weight))
                let tape = Tape()
                let output = tape.record {
                    layerNorm(a, weight: w, bias: w, epsilon: 1e-5)
                        + groupNorm(
                            a, groups: 6, weight: w, bias: w, epsilon: 1e-5)
                        + batchNorm(a, weight: w, bias: w, epsilon: 1e-5).output
                }
                let gradients = tape.gradients(of: output, cotangent: random(x.shape, seed: 3))
                return [output, gradients[a]!, gradients[w]!]
            }
        }
    }
}
