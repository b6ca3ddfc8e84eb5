import CKernels
import Foundation
import Testing

/// A product of two quantised matrices of random numbers.
private struct Int8Case {
    var m = 1, n = 1, k = 1
    var hasBias = false, hasResidual = false
    var activation = TK_IDENTITY

    static let gap: Float = 12345

    struct Outcome: Equatable {
        var a: [Int8], aScales: [Float], b: [Int8], bScales: [Float], c: [Float]
    }

    /// Everything that kernels wrote, rows without what fills them up, and the exact result for these operands.
    func run(seed: UInt64) -> (outcome: Outcome, expected: [Float]) {
        var random = TestRandom(seed: seed)
        let x = random.floats(m * (k + 3) + 1), weight = random.floats(n * k + 1)
        let bias = random.floats(n + 1), residual = random.floats(m * (n + 1) + 1)
        let (a, aScales) = quantize(x, stride: k + 3, rows: m)
        let (b, bScales) = quantize(weight, stride: k, rows: n)
        var packed = [Int8](repeating: 0, count: Int(tk_int8_packed_bytes(Int64(n), Int64(k))) + 1)
        let cRow = n + 2
        var c = [Float](repeating: Self.gap, count: m * cRow + 1)
        packed.withUnsafeMutableBytes { tk_int8_pack(b, Int64(n), Int64(k), $0.baseAddress) }
        packed.withUnsafeBytes { packed in
            a.withUnsafeBufferPointer { a in
                aScales.withUnsafeBufferPointer { aScales in
                    bScales.withUnsafeBufferPointer { bScales in
                        bias.withUnsafeBufferPointer { bias in
                            residual.withUnsafeBufferPointer { residual in
                                c.withUnsafeMutableBufferPointer { c in
                                    var product = tk_int8_product()
                                    (product.m, product.n, product.k) = (Int64(m), Int64(n), Int64(k))
                                    (product.a, product.a_scales) = (a.baseAddress, aScales.baseAddress)
                                    (product.b, product.b_scales) = (packed.baseAddress, bScales.baseAddress)
                                    (product.c, product.c_row) = (c.baseAddress, Int64(cRow))
                                    product.bias = hasBias ? bias.baseAddress : nil
                                    product.activation = activation
                                    product.residual = hasResidual ? residual.baseAddress : nil
                                    product.residual_row = Int64(n + 1)
                                    tk_int8_multiply(&product)
                                }
                            }
                        }
                    }
                }
            }
        }
        let row = a.count / max((m + 31) / 32 * 32, 1), bRow = b.count / max((n + 31) / 32 * 32, 1)
        var expected = c.map { _ in Self.gap }
        for i in 0..<m {
            for j in 0..<n {
                let sum = (0..<k).reduce(Int32(0)) { $0 + Int32(a[i * row + $1]) * Int32(b[j * bRow + $1]) }
                var value = Float(sum) * (bScales[j] * aScales[i])
                if hasBias { value += bias[j] }
                if activation == TK_RELU { value = max(value, 0) }
                if hasResidual { value += residual[i * (n + 1) + j] }
                expected[i * cRow + j] = value
            }
        }
        return (Outcome(a: a, aScales: aScales, b: b, bScales: bScales, c: c), expected)
    }

    private func quantize(_ x: [Float], stride: Int, rows: Int) -> ([Int8], [Float]) {
        var q = [Int8](repeating: 99, count: Int(tk_int8_bytes(Int64(rows), Int64(k))))
        var scales = [Float](repeating: 0, count: rows)
        tk_int8_quantize(x, Int64(stride), Int64(rows), Int64(k), &q, &scales)
        return (q, scales)
    }
}

extension KernelTests {
    @Suite struct ByteProducts {
        /// Runs `body` on every kernel for 8-bit integers.
        private func forEachKernel(_ body: (String) -> Void) {
            forEachLevel { body($0) }
            guard tk_level_is_supported(TK_AVX512) else { return }
            let before = tk_current_level()
            _ = tk_select_level(TK_AVX512)
            tk_avoid_vnni(true)
            body("avx512 without vnni")
            tk_avoid_vnni(false)
            _ = tk_select_level(before)
        }

        @Test func everyInstructionSetGivesTheExactSums() {
            var first: [UInt64: Int8Case.Outcome] = [:]
            forEachKernel { kernel in
                var random = TestRandom(seed: 3)
                for seed in 0..<220 as Range<UInt64> {
                    var c = Int8Case()
                    c.m = random.element(of: [0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 70, 100])
                    c.n = random.element(of: [0, 1, 3, 8, 16, 17, 31, 32, 33, 64, 100, 390])
                    c.k = random.element(of: [0, 1, 3, 4, 5, 31, 63, 64, 65, 127, 128, 192, 300])
                    (c.hasBias, c.hasResidual) = (random.flag(), random.flag())
                    c.activation = random.element(of: [TK_IDENTITY, TK_RELU])
                    let (outcome, expected) = c.run(seed: seed)
                    #expect(outcome.c == expected, "\(kernel) \(c)")
                    #expect(outcome == first[seed, default: outcome], "\(kernel) \(c)")
                    first[seed] = outcome
                }
            }
        }

        @Test func quantisedValuesAreWithinHalfAStep() {
            forEachKernel { kernel in
                var random = TestRandom(seed: 4)
                var x = random.floats(5 * 77)
                for i in 0..<77 { (x[77 + i], x[154 + i]) = (0, x[154 + i] * 1e-36) }
                (x[3 * 77 + 76], x[4 * 77]) = (.nan, -.infinity)
                var q = [Int8](repeating: 99, count: Int(tk_int8_bytes(5, 77)))
                var scales = [Float](repeating: 9, count: 5)
                tk_int8_quantize(x, 77, 5, 77, &q, &scales)
                let row = q.count / 32
                for i in 0..<77 {
                    #expect(abs(Float(q[i]) * scales[0] - x[i]) <= scales[0] * 0.50001, "\(kernel)")
                }
                #expect(q[0..<77].contains { abs($0) == 127 } && q[0..<77].allSatisfy { $0 >= -127 })
                #expect(q[77..<row].allSatisfy { $0 == 0 } && q[(5 * row)...].allSatisfy { $0 == 0 })
                #expect(scales[1] == 0 && scales[2] == 0 && q[row..<2 * row].allSatisfy { $0 == 0 })
                #expect(scales[3].isNaN && scales[4].isNaN)
            }
        }

        /// The largest sum that 8 bits can give at the depth of ViT-H, on all threads.
        @Test func largeSumsAndThreads() {
            forEachKernel { kernel in
                let (m, n, k) = (200, 420, 5120)
                let x = [Float](repeating: -3, count: max(m, n) * k)
                var a = [Int8](repeating: 0, count: Int(tk_int8_bytes(Int64(max(m, n)), Int64(k))))
                var scales = [Float](repeating: 0, count: max(m, n))
                tk_int8_quantize(x, Int64(k), Int64(max(m, n)), Int64(k), &a, &scales)
                var packed = [Int8](repeating: 0, count: Int(tk_int8_packed_bytes(Int64(n), Int64(k))))
                packed.withUnsafeMutableBytes { tk_int8_pack(a, Int64(n), Int64(k), $0.baseAddress) }
                let result = sameForAnyThreadCount {
                    var c = [Float](repeating: 0, count: m * n)
                    c.withUnsafeMutableBufferPointer { c in
                        a.withUnsafeBufferPointer { a in
                            scales.withUnsafeBufferPointer { scales in
                                packed.withUnsafeBytes { packed in
                                    var product = tk_int8_product()
                                    (product.m, product.n, product.k) = (Int64(m), Int64(n), Int64(k))
                                    (product.a, product.a_scales) = (a.baseAddress, scales.baseAddress)
                                    (product.b, product.b_scales) = (packed.baseAddress, scales.baseAddress)
                                    (product.c, product.c_row) = (c.baseAddress, Int64(n))
                                    tk_int8_multiply(&product)
                                }
                            }
                        }
                    }
                    return c
                }
                let exact = Float(Int32(k) * 127 * 127) * (scales[0] * scales[0])
                #expect(result.allSatisfy { $0 == exact }, "\(kernel)")
            }
        }
    }
}
