import Foundation
import Tessera
import Testing

extension Operations {
    @Suite struct Products {
        @Test(arguments: [Activation.identity, .gelu, .silu], [[4, 7, 5], [1, 33, 17]])
        func linearLayer(_ activation: Activation, _ extents: [Int]) {
            let (rows, channels, outputs) = (extents[0], extents[1], extents[2])
            let inputs = [
                random([2, rows, channels]), random([outputs, channels], seed: 2) * 0.3, random([outputs], seed: 3),
                random([2, rows, outputs], seed: 4),
            ]
            OperationCase("linear \(activation) \(extents)", inputs) {
                linear($0[0], weight: $0[1], bias: $0[2], activation: activation, residual: $0[3])
            } expected: { x in
                Slow([2, rows, outputs]) { i in
                    let sum = (0..<channels).reduce(x[2][i[2]]) { $0 + x[0][i[0], i[1], $1] * x[1][i[2], $1] }
                    return x[3][i] + reference(activation, sum)
                }
            }.verify()
            OperationCase("linear without bias \(extents)", Array(inputs[..<2])) {
                linear($0[0], weight: $0[1])
            } expected: { x in
                Slow([2, rows, outputs]) { i in
                    (0..<channels).reduce(0) { $0 + x[0][i[0], i[1], $1] * x[1][i[2], $1] }
                }
            }.verify()
        }

        @Test(arguments: [false, true], [false, true]) func matrices(_ left: Bool, _ right: Bool) {
            func check(_ batchA: [Int], _ batchB: [Int]) {
                let a = Shape(batchA + (left ? [7, 3] : [3, 7]))
                let b = Shape(batchB + (right ? [5, 7] : [7, 5]))
                let batch = batchA.count >= batchB.count && batchA.reduce(1, *) >= batchB.reduce(1, *) ? batchA : batchB
                OperationCase("\(a) × \(b)", [random(a), random(b, seed: 2)]) {
                    $0[0].multiplied(by: $0[1], transposing: (left, right))
                } expected: { x in
                    Slow(batch + [3, 5]) { index in
                        let (i, j) = (index[index.count - 2], index[index.count - 1])
                        let lead = Array(index.dropLast(2))
                        let leadA = Array(zip(lead.suffix(batchA.count), batchA).map { $1 == 1 ? 0 : $0 })
                        let leadB = Array(zip(lead.suffix(batchB.count), batchB).map { $1 == 1 ? 0 : $0 })
                        return (0..<7).reduce(0) {
                            $0 + x[0][leadA + (left ? [$1, i] : [i, $1])] * x[1][leadB + (right ? [j, $1] : [$1, j])]
                        }
                    }
                }.verify()
            }
            check([], [])
            check([2, 3], [2, 3])
            check([4], [1])
            check([], [4])
        }

        struct Filter: Sendable {
            let x, weight: [Int]
            var stride = 1, padding = 0, dilation = 1, groups = 1
            var activation = Activation.identity
        }

        @Test(arguments: [
            Filter(x: [2, 5, 6, 3], weight: [4, 3, 3, 3], padding: 1),
            Filter(x: [1, 7, 7, 4], weight: [6, 3, 3, 4], stride: 2, padding: 1, activation: .gelu),
            Filter(x: [1, 6, 5, 4], weight: [6, 1, 1, 4]),
            Filter(x: [1, 8, 8, 3], weight: [5, 4, 4, 3], stride: 4),
            Filter(x: [1, 7, 6, 4], weight: [6, 3, 3, 2], padding: 1, groups: 2),
            Filter(x: [2, 6, 5, 18], weight: [18, 3, 3, 1], padding: 1, groups: 18, activation: .silu),
            Filter(x: [1, 9, 8, 2], weight: [3, 3, 3, 2], stride: 2, padding: 2, dilation: 2),
            Filter(x: [1, 4, 9, 2], weight: [3, 1, 5, 2], padding: 2),
        ])
        func convolved(_ f: Filter) {
            let inputs = [
                random(Shape(f.x)), random(Shape(f.weight), seed: 2) * 0.4, random([f.weight[0]], seed: 3),
            ]
            func extent(_ axis: Int) -> Int {
                (f.x[axis] + 2 * f.padding - f.dilation * (f.weight[axis] - 1) - 1) / f.stride + 1
            }
            let shape = [f.x[0], extent(1), extent(2), f.weight[0]]
            OperationCase("convolution \(f)", inputs) {
                convolution(
                    $0[0], weight: $0[1], bias: $0[2], stride: (f.stride, f.stride), padding: Padding(f.padding),
                    dilation: (f.dilation, f.dilation), groups: f.groups, activation: f.activation)
            } expected: { x in
                Slow(shape) { i in
                    var sum = x[2][i[3]]
                    let first = i[3] / (f.weight[0] / f.groups) * f.weight[3]
                    for row in 0..<f.weight[1] {
                        for column in 0..<f.weight[2] {
                            let r = i[1] * f.stride - f.padding + row * f.dilation
                            let c = i[2] * f.stride - f.padding + column * f.dilation
                            guard r >= 0, c >= 0, r < f.x[1], c < f.x[2] else { continue }
                            for channel in 0..<f.weight[3] {
                                sum += x[0][i[0], r, c, first + channel] * x[1][i[3], row, column, channel]
                            }
                        }
                    }
                    return reference(f.activation, sum)
                }
            }.verify()
        }

        static func attended(_ q: Slow, _ k: Slow, _ v: Slow, heads: Int, bias: Slow?) -> Slow {
            let (size, valueSize, keys) = (q.shape[2] / heads, v.shape[2] / heads, k.shape[1])
            return Slow([q.shape[0], q.shape[1], heads * valueSize]) { i in
                let head = i[2] / valueSize
                let scores = (0..<keys).map { key in
                    let product = (0..<size).reduce(0) {
                        $0 + q[i[0], i[1], head * size + $1] * k[i[0], key, head * size + $1]
                    }
                    return product / Double(size).squareRoot() + (bias?.broadcast([i[0], head, i[1], key]) ?? 0)
                }
                let weights = scores.map { exp($0) }
                return (0..<keys).reduce(0) { $0 + weights[$1] * v[i[0], $1, i[2]] } / weights.reduce(0, +)
            }
        }

        @Test(arguments: [nil, [1, 1, 5, 7], [2, 3, 5, 7], [1, 3, 5, 7]] as [[Int]?])
        func attentionOfThree(_ bias: [Int]?) {
            let inputs =
                [random([2, 5, 12]), random([2, 7, 12], seed: 2), random([2, 7, 6], seed: 3)]
                + (bias.map { [random(Shape($0), seed: 4)] } ?? [])
            OperationCase("attention, bias \(bias ?? [])", inputs) {
                attention($0[0], $0[1], $0[2], heads: 3, bias: $0.count > 3 ? $0[3] : nil)
            } expected: {
                Self.attended($0[0], $0[1], $0[2], heads: 3, bias: $0.count > 3 ? $0[3] : nil)
            }.verify()
        }

        @Test(arguments: [[2, 9, 2, 4], [1, 40, 1, 16]]) func attentionPacked(_ extents: [Int]) {
            let (batch, tokens, heads, size) = (extents[0], extents[1], extents[2], extents[3])
            let width = heads * size
            OperationCase("attention, packed \(extents)", [random([batch, tokens, 3 * width])]) {
                attention(packed: $0[0], heads: heads)
            } expected: { x in
                let parts = (0..<3).map { part in
                    Slow([batch, tokens, width]) { x[0][$0[0], $0[1], part * width + $0[2]] }
                }
                return Self.attended(parts[0], parts[1], parts[2], heads: heads, bias: nil)
            }.verify()
        }

        /// With dropout, the result is a random variable whose mean is the result without it; its gradient is that of
        /// the mask that was drawn.
        @Test func attentionWithDropout() {
            let x = random([1, 6, 3 * 8])
            OperationCase("attention with dropout", [x]) {
                attention(packed: $0[0], heads: 2, dropout: 0.3, seed: 5)
            } expected: {
                Slow(
                    attention(
                        packed: Tensor($0[0].values.map(Float.init), [1, 6, 24]), heads: 2, dropout: 0.3, seed: 5))
            }.verify()
            let plain = attention(packed: x, heads: 2).scalars.map(Double.init)
            var mean = [Double](repeating: 0, count: plain.count)
            for seed in 0..<4000 {
                let sample = attention(packed: x, heads: 2, dropout: 0.3, seed: UInt64(seed)).scalars
                for (index, value) in sample.enumerated() { mean[index] += Double(value) / 4000 }
            }
            expectClose(mean, plain, 0.05, "mean over masks")
        }
    }
}
