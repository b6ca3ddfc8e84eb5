import Foundation
import Tessera
import Testing

extension Operations {
    @Suite struct Pooling {
        struct Window: Sendable {
            let shape: [Int]
            let kernel, stride, padding: Int
            let ceilMode: Bool
            /// Height and width of the result, from PyTorch.
            let extents: [Int]
        }

        static let windows = [
            Window(shape: [2, 6, 6, 3], kernel: 2, stride: 2, padding: 0, ceilMode: false, extents: [3, 3]),
            Window(shape: [1, 7, 5, 17], kernel: 3, stride: 2, padding: 1, ceilMode: false, extents: [4, 3]),
            Window(shape: [1, 8, 7, 2], kernel: 3, stride: 2, padding: 1, ceilMode: true, extents: [5, 4]),
            Window(shape: [1, 5, 5, 1], kernel: 2, stride: 3, padding: 1, ceilMode: true, extents: [2, 2]),
            Window(shape: [2, 5, 6, 33], kernel: 3, stride: 1, padding: 0, ceilMode: false, extents: [3, 4]),
            Window(shape: [1, 4, 4, 2], kernel: 1, stride: 2, padding: 0, ceilMode: false, extents: [2, 2]),
            Window(shape: [1, 3, 5, 2], kernel: 3, stride: 4, padding: 0, ceilMode: true, extents: [1, 2]),
        ]

        /// The indices of a window along an axis, those in the padding included.
        static func range(_ index: Int, _ window: Window) -> Range<Int> {
            let start = index * window.stride - window.padding
            return start..<(start + window.kernel)
        }

        static func inside(_ x: Slow, _ index: [Int], _ window: Window) -> [Double] {
            range(index[1], window).filter { $0 >= 0 && $0 < x.shape[1] }.flatMap { row in
                range(index[2], window).filter { $0 >= 0 && $0 < x.shape[2] }.map { x[index[0], row, $0, index[3]] }
            }
        }

        @Test(arguments: windows) func maxima(_ window: Window) {
            OperationCase("maxPool \(window)", [spread(Shape(window.shape))]) {
                $0[0].maxPool(
                    kernel: window.kernel, stride: window.stride, padding: window.padding, ceilMode: window.ceilMode)
            } expected: { x in
                Slow([window.shape[0]] + window.extents + [window.shape[3]]) { Self.inside(x[0], $0, window).max()! }
            }.verify()
        }

        @Test func firstOfEqualsTakesTheGradient() throws {
            let x = Tape.leaf(Tensor(repeating: -1, [1, 2, 2, 3]))
            let tape = Tape()
            let gradient = tape.gradients(of: tape.record { x.maxPool(kernel: 2, stride: 2) })[x]
            #expect(try #require(gradient).scalars == [1, 1, 1] + [Float](repeating: 0, count: 9))
        }

        @Test(arguments: windows, [false, true]) func averages(_ window: Window, _ countsPadding: Bool) {
            OperationCase("averagePool \(window) \(countsPadding)", [random(Shape(window.shape))]) {
                $0[0].averagePool(
                    kernel: window.kernel, stride: window.stride, padding: window.padding,
                    countsPadding: countsPadding, ceilMode: window.ceilMode)
            } expected: { x in
                Slow([window.shape[0]] + window.extents + [window.shape[3]]) { index in
                    let values = Self.inside(x[0], index, window)
                    let padded = [1, 2].reduce(1) { count, axis in
                        count
                            * Self.range(index[axis], window).filter { $0 < window.shape[axis] + window.padding }.count
                    }
                    return values.reduce(0, +) / Double(countsPadding ? padded : values.count)
                }
            }.verify()
        }

        @Test(arguments: [[3, 2], [1, 1], [7, 5], [9, 6]]) func adaptive(_ size: [Int]) {
            OperationCase("adaptiveAveragePool \(size)", [random([2, 7, 5, 3])]) {
                $0[0].adaptiveAveragePool(height: size[0], width: size[1])
            } expected: { x in
                Slow([2, size[0], size[1], 3]) { index in
                    func range(_ i: Int, _ n: Int, _ m: Int) -> Range<Int> {
                        Int(
                            (Double(i * n) / Double(m)).rounded(.down))..<Int(
                                (Double((i + 1) * n) / Double(m)).rounded(.up))
                    }
                    let values = range(index[1], 7, size[0]).flatMap { row in
                        range(index[2], 5, size[1]).map { x[0][index[0], row, $0, index[3]] }
                    }
                    return values.reduce(0, +) / Double(values.count)
                }
            }.verify()
        }

        @Test func global() {
            OperationCase("globalAveragePool", [random([2, 3, 4, 5])]) {
                $0[0].globalAveragePool()
            } expected: { x in
                Slow([2, 5]) { index in
                    (0..<12).reduce(0) { $0 + x[0][index[0], $1 / 4, $1 % 4, index[1]] } / 12
                }
            }.verify()
        }

        /// A pixel of the map, with the edge repeated outside.
        static func clamped(_ x: Slow, _ batch: Int, _ row: Int, _ column: Int, _ channel: Int) -> Double {
            x[batch, min(max(row, 0), x.shape[1] - 1), min(max(column, 0), x.shape[2] - 1), channel]
        }

        @Test(arguments: [[3, 9], [5, 4], [10, 10], [1, 1]], [false, true])
        func bilinear(_ size: [Int], _ alignCorners: Bool) {
            OperationCase("bilinear \(size) \(alignCorners)", [random([2, 5, 4, 3])]) {
                $0[0].resized(
                    height: size[0], width: size[1], interpolation: .bilinear, alignCorners: alignCorners)
            } expected: { x in
                Slow([2, size[0], size[1], 3]) { index in
                    func place(_ i: Int, _ n: Int, _ m: Int) -> (Int, Double) {
                        let aligned = m == 1 ? 0 : Double(i) * Double(n - 1) / Double(m - 1)
                        let position = alignCorners ? aligned : max(0, (Double(i) + 0.5) * Double(n) / Double(m) - 0.5)
                        return (Int(position), position - Double(Int(position)))
                    }
                    let ((r, t), (c, u)) = (place(index[1], 5, size[0]), place(index[2], 4, size[1]))
                    func pixel(_ row: Int, _ column: Int) -> Double {
                        Self.clamped(x[0], index[0], row, column, index[3])
                    }
                    return (1 - t) * ((1 - u) * pixel(r, c) + u * pixel(r, c + 1))
                        + t * ((1 - u) * pixel(r + 1, c) + u * pixel(r + 1, c + 1))
                }
            }.verify()
        }

        @Test(arguments: [[7, 9], [3, 3]]) func bicubic(_ size: [Int]) {
            OperationCase("bicubic \(size)", [random([1, 5, 4, 2])]) {
                $0[0].resized(height: size[0], width: size[1], interpolation: .bicubic)
            } expected: { x in
                Slow([1, size[0], size[1], 2]) { index in
                    // The four weights of a fraction t, for a = −0.75, as polynomials in t and 1 − t.
                    func taps(_ i: Int, _ n: Int, _ m: Int) -> (Int, [Double]) {
                        let position = (Double(i) + 0.5) * Double(n) / Double(m) - 0.5
                        let (base, t) = (position.rounded(.down), position - position.rounded(.down))
                        func near(_ d: Double) -> Double { 1.25 * d * d * d - 2.25 * d * d + 1 }
                        func far(_ d: Double) -> Double { -0.75 * d * d * d + 3.75 * d * d - 6 * d + 3 }
                        return (Int(base), [far(1 + t), near(t), near(1 - t), far(2 - t)])
                    }
                    let ((row, v), (column, h)) = (taps(index[1], 5, size[0]), taps(index[2], 4, size[1]))
                    return (0..<16).reduce(0) { sum, k in
                        sum + v[k / 4] * h[k % 4]
                            * Self.clamped(x[0], 0, row - 1 + k / 4, column - 1 + k % 4, index[3])
                    }
                }
            }.verify()
        }

        @Test(arguments: [Interpolation.bilinear, .bicubic], [[3, 2], [9, 8]])
        func antialiased(_ interpolation: Interpolation, _ size: [Int]) {
            OperationCase("antialiased \(interpolation) \(size)", [random([1, 8, 7, 2])]) {
                $0[0].resized(height: size[0], width: size[1], interpolation: interpolation, antialias: true)
            } expected: { x in
                Slow([1, size[0], size[1], 2]) { index in
                    func weights(_ i: Int, _ n: Int, _ m: Int) -> [Double] {
                        let widening = max(1, Double(n) / Double(m))
                        let raw = (0..<n).map { j in
                            let d = abs(Double(j) + 0.5 - (Double(i) + 0.5) * Double(n) / Double(m)) / widening
                            if interpolation == .bilinear { return max(0, 1 - d) }
                            if d < 1 { return 1.5 * d * d * d - 2.5 * d * d + 1 }
                            return d < 2 ? -0.5 * d * d * d + 2.5 * d * d - 4 * d + 2 : 0
                        }
                        return raw.map { $0 / raw.reduce(0, +) }
                    }
                    let (v, h) = (weights(index[1], 8, size[0]), weights(index[2], 7, size[1]))
                    return (0..<56).reduce(0) { $0 + v[$1 / 7] * h[$1 % 7] * x[0][0, $1 / 7, $1 % 7, index[3]] }
                }
            }.verify()
        }

        @Test func nearest() {
            OperationCase("nearest", [random([1, 4, 6, 2])]) {
                $0[0].resized(height: 7, width: 3, interpolation: .nearest)
            } expected: { x in
                Slow([1, 7, 3, 2]) { x[0][0, $0[1] * 4 / 7, $0[2] * 2, $0[3]] }
            }.verify()
        }

        @Test func manyTasks() {
            let x = random([3, 31, 29, 40])
            expectSameBits("large") {
                let leaf = Tape.leaf(x)
                let tape = Tape()
                let output = tape.record {
                    leaf.maxPool(kernel: 3, stride: 2, padding: 1) + leaf.averagePool(kernel: 3, stride: 2, padding: 1)
                        + leaf.resized(height: 16, width: 15, interpolation: .bicubic)
                }
                return [output, tape.gradients(of: output, cotangent: random(output.shape, seed: 3))[leaf]!]
            }
        }
    }
}
