import Foundation
import Tessera
import Testing

extension Operations {
    @Suite struct Deformable {
        struct Setting: Sendable {
            var channels = 19
            var kernel = (height: 3, width: 3)
            var stride = 1
            var padding = 1
            var dilation = 1
            var scale: Float = 1
            var removesCenter = false
        }

        /// Offsets whose samples lie away from the grid's lines, where the slope jumps.
        private func offsets(_ shape: Shape) -> Tensor {
            let steps = random(shape, seed: 5)
            return Tensor(steps.scalars.map { ($0 * 2).rounded() + 0.3 + 0.2 * abs(sin($0)) }, shape)
        }

        @Test(arguments: [
            Setting(), Setting(channels: 3, stride: 2, padding: 2, dilation: 2),
            Setting(channels: 2, kernel: (3, 5), padding: 2, removesCenter: true),
        ])
        func matchesTheFormula(_ s: Setting) {
            let (batch, height, width, groups) = (2, 5, 4, 2)
            let taps = s.kernel.height * s.kernel.width - (s.removesCenter ? 1 : 0)
            func extent(_ size: Int, _ kernel: Int) -> Int {
                (size + 2 * s.padding - s.dilation * (kernel - 1) - 1) / s.stride + 1
            }
            let (rows, columns) = (extent(height, s.kernel.height), extent(width, s.kernel.width))
            let inputs = [
                random([batch, height, width, groups * s.channels]),
                offsets([batch, rows, columns, groups * taps * 2]),
                random([batch, rows, columns, groups * taps], seed: 3),
            ]
            OperationCase("deformableConvolution \(s)", inputs) {
                deformableConvolution(
                    $0[0], offsets: $0[1], masks: $0[2], groups: groups, kernel: s.kernel, stride: s.stride,
                    padding: s.padding, dilation: s.dilation, offsetScale: s.scale, removesCenter: s.removesCenter)
            } expected: { x in
                Slow([batch, rows, columns, groups * s.channels]) { index in
                    let (n, i, j, channel) = (index[0], index[1], index[2], index[3])
                    func pixel(_ row: Int, _ column: Int) -> Double {
                        guard (0..<height).contains(row), (0..<width).contains(column) else { return 0 }
                        return x[0][n, row, column, channel]
                    }
                    var (sum, tap) = (0.0, channel / s.channels * taps)
                    for a in 0..<s.kernel.width {
                        for b in 0..<s.kernel.height {
                            if s.removesCenter && a == s.kernel.width / 2 && b == s.kernel.height / 2 { continue }
                            func place(_ index: Int, _ tap: Int, _ kernel: Int, _ offset: Double) -> Double {
                                let half = Double(s.dilation * (kernel - 1) / 2)
                                return half + Double(index * s.stride - s.padding) + Double(s.scale)
                                    * (Double(tap * s.dilation) - half + offset)
                            }
                            let px = place(j, a, s.kernel.width, x[1][n, i, j, 2 * tap])
                            let py = place(i, b, s.kernel.height, x[1][n, i, j, 2 * tap + 1])
                            let (left, top) = (Int(px.rounded(.down)), Int(py.rounded(.down)))
                            let (fx, fy) = (px - Double(left), py - Double(top))
                            let upper = pixel(top, left) * (1 - fx) + pixel(top, left + 1) * fx
                            let lower = pixel(top + 1, left) * (1 - fx) + pixel(top + 1, left + 1) * fx
                            sum += x[2][n, i, j, tap] * (upper * (1 - fy) + lower * fy)
                            tap += 1
                        }
                    }
                    return sum
                }
            }.verify()
        }

        @Test func samplesThatAreNoNumberAreZero() {
            let offsets = Tensor(repeating: .nan, [1, 2, 2, 18])
            let y = deformableConvolution(
                Tensor(repeating: 1, [1, 2, 2, 3]), offsets: offsets, masks: Tensor(repeating: 1, [1, 2, 2, 9]),
                groups: 1)
            #expect(y.scalars.allSatisfy { $0 == 0 })
        }
    }
}
