import CKernels
import Foundation
import Testing

extension KernelTests {
    @Suite struct Activations {
        /// Small and large numbers, infinities and NaN among them, against double precision. Several vectors are computed
        /// together where there are enough: each number has the same bits when it is alone.
        @Test func valuesOfEveryNumber() {
            var x = (0..<1999).map { Float($0 - 999) * 0.0301 }
            x += [.infinity, 1, .nan, -100, -.infinity, 88, -88, 1e30, -1e30, 1e-30, 0, -0.0, 5.6, -5.6, -5.7]
            forEachLevel { name in
                for kind in activations {
                    var y = [Float](repeating: 0, count: x.count)
                    tk_activate(x, &y, Int64(x.count), kind)
                    for (x, y) in zip(x, y) {
                        let expected = activated(Double(x), kind), place = "\(name), activation \(kind.rawValue): \(x)"
                        if expected.isFinite {
                            #expect(abs(Double(y) - expected) <= 3e-7 * max(1, abs(Double(x))), "\(place)")
                        } else {
                            #expect(!y.isFinite, "\(place)")
                        }
                        var alone: Float = 0
                        tk_activate([x], &alone, 1, kind)
                        #expect(alone.bitPattern == y.bitPattern || (alone.isNaN && y.isNaN), "\(place) alone")
                    }
                }
            }
        }

        /// Ties, subnormal numbers, what rounds up to infinity, and NaN whose lower bits alone say that it is one.
        @Test func halvesAreRoundedToEven() {
            var x: [Float] = (0..<203).map { Float(bitPattern: UInt32($0) &* 0x0157_A3C1) }
            x += [.infinity, -.infinity, 3.4e38, -0.0, 0x1p-140, 1 + 0x1p-8, 1 + 0x3p-8, 1 + 0x1.8p-8]
            x += [Float(bitPattern: 0x7F80_0001), Float(bitPattern: 0xFFFF_FFFF)]
            forEachLevel { name in
                for count in [x.count, 16, 5, 0] {
                    var halves = [UInt16](repeating: 7, count: count + 1)
                    var wide = [Float](repeating: 7, count: count + 1)
                    tk_halve(x, &halves, Int64(count))
                    tk_widen(halves, &wide, Int64(count))
                    for (x, y) in zip(x, wide.dropLast()) {
                        let same = y.bitPattern == roundedToBFloat16(x).bitPattern
                        #expect(x.isNaN ? y.isNaN : same, "\(name): \(x) became \(y)")
                    }
                    #expect(halves.last == 7 && wide.last == 7, "\(name) wrote beside its result")
                }
            }
        }

        /// What is kept in bfloat16 gives the same as the rounded values in float32, gradients and column sums included.
        @Test func roundedValuesGiveWhatTheyWouldInFloat32() {
            let (rows, columns) = (37, 83)
            var random = TestRandom(seed: 4)
            let rounded = random.floats(rows * columns).map(roundedToBFloat16)
            let gradient = random.floats(rows * columns)
            forEachLevel { name in
                var halves = [UInt16](repeating: 0, count: rounded.count)
                tk_halve(rounded, &halves, Int64(rounded.count))
                for kind in activations {
                    var (y, expected) = (rounded, rounded)
                    tk_activate_rounded(halves, &y, false, Int64(y.count), kind)
                    tk_activate(rounded, &expected, Int64(y.count), kind)
                    #expect(y == expected, "\(name), activation \(kind.rawValue)")
                    tk_activate_rounded(halves, &y, true, Int64(y.count), kind)
                    // GELU whose result is rounded is off by up to 0.0002.
                    let slack: Float = kind == TK_GELU ? 2e-4 : 0
                    let worst = zip(firstHalves(of: y), expected).map { abs($0 - $1) - abs($1) / 256 - slack }.max()!
                    #expect(worst <= 0, "\(name), rounded \(kind.rawValue)")
                    var sums = [Float](repeating: 0, count: columns), expectedSums = sums
                    halves.withUnsafeBytes { halves in
                        tk_activation_backward(
                            gradient, false, halves.baseAddress!.assumingMemoryBound(to: Float.self), true, kind, &y,
                            false, &sums, Int64(rows), Int64(columns))
                    }
                    tk_activation_backward(
                        gradient, false, rounded, false, kind, &expected, false, &expectedSums, Int64(rows),
                        Int64(columns))
                    #expect(y == expected && sums == expectedSums, "\(name), gradient of \(kind.rawValue)")
                }
            }
        }
    }
}
