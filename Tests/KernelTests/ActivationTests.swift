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
    }
}
