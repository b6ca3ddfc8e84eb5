import Foundation
import Tessera
import Testing

extension Operations {
    @Suite struct Reductions {
        static let cases: [(shape: Shape, axes: [Int])] = [
            ([3, 7], [1]), ([3, 7], [0]), ([2, 3, 5], [0, 2]), ([2, 3, 5], [1]), ([2, 3, 5], [-1, -2]), ([4], [0]),
            ([2, 3, 4, 5], [1, 2]), ([2, 3, 4, 5], [0, 1, 3]), ([2, 37], [1]), ([5, 1, 19], [1]),
        ]

        /// The values of the reduced elements for each index that is left (kept axes have index 0).
        static func gathered(_ x: Slow, _ axes: [Int]) -> ([Int], ([Int]) -> [Double]) {
            let reduced = Set(axes.map { $0 < 0 ? $0 + x.shape.count : $0 })
            let shape = x.shape.indices.map { reduced.contains($0) ? 1 : x.shape[$0] }
            let extents = x.shape.indices.map { reduced.contains($0) ? x.shape[$0] : 1 }
            return (shape, { index in Slow(extents) { offset in x[zip(index, offset).map(+)] }.values })
        }

        static func reduce(_ x: Slow, _ axes: [Int], keeps: Bool, _ combine: ([Double]) -> Double) -> Slow {
            let (shape, values) = gathered(x, axes)
            let kept = Slow(shape) { combine(values($0)) }
            guard !keeps else { return kept }
            let positive = axes.map { $0 < 0 ? $0 + shape.count : $0 }
            let left = shape.indices.filter { !positive.contains($0) }
            return Slow(left.map { shape[$0] }) { index in
                var full = [Int](repeating: 0, count: shape.count)
                for (axis, position) in zip(left, index) { full[axis] = position }
                return kept[full]
            }
        }

        @Test(arguments: cases.indices, [false, true]) func overAxes(_ index: Int, _ keeps: Bool) {
            let (shape, axes) = Self.cases[index]
            OperationCase("sum \(shape) \(axes)", [random(shape)]) {
                $0[0].sum(axes: axes, keepingAxes: keeps)
            } expected: {
                Self.reduce($0[0], axes, keeps: keeps) { $0.reduce(0, +) }
            }.verify()
            OperationCase("mean \(shape) \(axes)", [random(shape)]) {
                $0[0].mean(axes: axes, keepingAxes: keeps)
            } expected: {
                Self.reduce($0[0], axes, keeps: keeps) { $0.reduce(0, +) / Double($0.count) }
            }.verify()
            OperationCase("max \(shape) \(axes)", [spread(shape)]) {
                $0[0].max(axes: axes, keepingAxes: keeps)
            } expected: {
                Self.reduce($0[0], axes, keeps: keeps) { $0.max()! }
            }.verify()
        }

        @Test func ofEverything() {
            OperationCase("sum", [random([3, 5])]) {
                $0[0].sum()
            } expected: { x in
                Slow([]) { _ in x[0].values.reduce(0, +) }
            }.verify()
            OperationCase("mean", [random([3, 5])]) {
                $0[0].mean()
            } expected: { x in
                Slow([]) { _ in x[0].values.reduce(0, +) / 15 }
            }.verify()
        }

        @Test func maximumOfEqualsGoesToTheFirst() throws {
            let x = Tape.leaf(Tensor([2, 5, 5, 1, 5, 0], [2, 3]))
            let tape = Tape()
            let gradient = tape.gradients(of: tape.record { x.max(axes: [0, 1]) })[x]
            #expect(try #require(gradient).scalars == [0, 1, 0, 0, 0, 0])
        }

        @Test(arguments: [
            ([3, 7], 1), ([3, 7], 0), ([2, 5, 3], 1), ([2, 50], -1), ([4, 1], 1), ([2, 3, 4, 17], 2),
        ])
        func softmax(_ shape: [Int], _ axis: Int) {
            let axis = axis < 0 ? axis + shape.count : axis
            @Sendable func normalizer(_ x: Slow, _ index: [Int]) -> Double {
                (0..<shape[axis]).reduce(0) { sum, k in
                    var other = index
                    other[axis] = k
                    return sum + exp(x[other])
                }
            }
            let x = random(Shape(shape)) * 2
            OperationCase("softmax \(shape) \(axis)", [x]) {
                $0[0].softmax(axis: axis)
            } expected: { x in
                Slow(shape) { exp(x[0][$0]) / normalizer(x[0], $0) }
            }.verify()
            OperationCase("logSoftmax \(shape) \(axis)", [x]) {
                $0[0].logSoftmax(axis: axis)
            } expected: { x in
                Slow(shape) { x[0][$0] - log(normalizer(x[0], $0)) }
            }.verify()
        }

        @Test func softmaxOfLargeValues() {
            let y = Tensor([1000, 1001, -1000], [1, 3]).softmax(axis: 1).scalars
            expectClose(y.map(Double.init), [1 / (1 + M_E), M_E / (1 + M_E), 0], 1e-6, "softmax")
        }

        /// The threshold by bisection, as slow as it is sure.
        @Test(arguments: [[3, 7], [2, 50], [4, 1], [2, 3, 4, 17], [40, 5]]) func entmax(_ shape: [Int]) {
            let columns = shape.last!
            OperationCase("entmax \(shape)", [random(Shape(shape)) * 2], step: 2e-3) {
                $0[0].entmax()
            } expected: { x in
                Slow(shape) { index in
                    let row = (0..<columns).map { x[0][index.dropLast() + [$0]] / 2 }
                    var (low, high) = (row.max()! - 1, row.max()!)
                    for _ in 0..<60 {
                        let middle = (low + high) / 2
                        let sum = row.reduce(0) { $0 + max($1 - middle, 0) * max($1 - middle, 0) }
                        (low, high) = sum >= 1 ? (middle, high) : (low, middle)
                    }
                    let part = max(row[index.last!] - low, 0)
                    return part * part
                }
            }.verify()
        }

        @Test func entmaxOfLargeValues() {
            let y = Tensor([1e6, 1e6, 1e6 - 2, -.infinity, 0, .nan], [2, 3]).entmax().scalars
            #expect(y[0] == 0.5 && y[1] == 0.5 && y[2] == 0)
            #expect(y[3...].allSatisfy { $0.isNaN })
        }

        @Test func manyTasks() {
            let x = random([40, 30, 129])
            expectSameBits("large") {
                let leaf = Tape.leaf(x)
                let tape = Tape()
                let output = tape.record {
                    leaf.sum(axes: [0, 1]).sum() + leaf.softmax(axis: 1).max(axes: [0]).sum()
                        + leaf.mean(axes: [2]).sum()
                }
                return [output, tape.gradients(of: output)[leaf]!, Tensor(Float(x.sumOfSquares))]
            }
            let expected = x.scalars.reduce(0) { $0 + Double($1) * Double($1) }
            #expect(abs(x.sumOfSquares - expected) < 1e-10 * expected)
        }
    }
}
