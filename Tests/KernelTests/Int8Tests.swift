import CKernels
import Foundation
import Testing

/// A product of a matrix in codes and a weight in codes.
private struct Int8Case {
    var m = 1, n = 1, k = 1
    var hasBias = false, hasResidual = false
    var activation = TK_IDENTITY

    static let gap: Float = 12345

    /// What kernels wrote, and the exact result for these operands.
    func run(seed: UInt64) -> (found: [Float], codes: [[UInt8]], expected: [Float]) {
        var random = TestRandom(seed: seed)
        let x = random.floats(m * (k + 3) + 1), weight = random.floats(n * k + 1)
        let bias = random.floats(n + 1), residual = random.floats(m * (n + 1) + 1)
        var quantizer = tk_quantizer(kind: TK_UNIFORM, greatest: 127, shift: 0, scale: 0.02)
        let row = Int(tk_int8_row(Int64(k)))
        var a = [UInt8](repeating: 99, count: m * row + 1)
        tk_int8_quantize(x, Int64(k + 3), Int64(m), Int64(k), &quantizer, &a)
        var scales = [Float](repeating: 0, count: n + 1)
        tk_int8_row_scales(weight, Int64(n), Int64(k), 127, &scales)
        let cRow = n + 2
        var c = [Float](repeating: Self.gap, count: m * cRow + 1)
        var packed = [Int8](repeating: 99, count: Int(tk_int8_packed_bytes(Int64(n), Int64(k))) + 1)
        packed.withUnsafeMutableBytes { tk_int8_pack(weight, Int64(n), Int64(k), scales, $0.baseAddress) }
        a.withUnsafeBufferPointer { a in
            packed.withUnsafeBytes { packed in
                scales.withUnsafeBufferPointer { scales in
                    bias.withUnsafeBufferPointer { bias in
                        residual.withUnsafeBufferPointer { residual in
                            c.withUnsafeMutableBufferPointer { c in
                                var product = tk_int8_product()
                                (product.m, product.n, product.k) = (Int64(m), Int64(n), Int64(k))
                                (product.a, product.b) = (a.baseAddress, packed.baseAddress)
                                product.scales = scales.baseAddress
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
        var expected = c.map { _ in Self.gap }
        for i in 0..<m {
            for j in 0..<n {
                let sum = (0..<k).reduce(Int32(0)) {
                    let inverse = 1 / scales[j]
                    let code = Int32((weight[j * k + $1] * inverse).rounded(.toNearestOrEven))
                    return $0 + (Int32(a[i * row + $1]) - 128) * code
                }
                var value = Float(sum) * scales[j]
                if hasBias { value += bias[j] }
                if activation == TK_RELU { value = max(value, 0) }
                if hasResidual { value += residual[i * (n + 1) + j] }
                expected[i * cRow + j] = value
            }
        }
        return (c, (0..<m).map { Array(a[$0 * row..<$0 * row + k]) }, expected)
    }
}

/// The definition of codes, one value at a time.
private func code(_ x: Float, _ q: tk_quantizer) -> Int32 {
    let greatest = Float(q.greatest)
    func rounded(_ x: Float) -> Float { x.rounded(.toNearestOrEven) }
    let fine = x * (1 / q.scale), coarse = x * (1 / (q.scale * Float(1 << q.shift)))
    let large = Int32(min(max(rounded(coarse), 0), greatest)) << q.shift
    switch q.kind {
    case TK_SPLIT_SIGNS: return x < 0 ? Int32(min(max(rounded(fine), -greatest), 0)) : large
    case TK_SPLIT_SIZES: return rounded(fine) <= greatest ? Int32(max(rounded(fine), 0)) : large
    default: return Int32(min(max(rounded(fine), -greatest), greatest))
    }
}

extension KernelTests {
    @Suite struct ByteProducts {
        @Test func everyInstructionSetGivesTheExactSums() {
            var first: [UInt64: [[UInt8]]] = [:]
            forEachLevel { kernel in
                var random = TestRandom(seed: 3)
                for seed in 0..<220 as Range<UInt64> {
                    var c = Int8Case()
                    c.m = random.element(of: [0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 70, 100])
                    c.n = random.element(of: [0, 1, 3, 8, 16, 17, 31, 32, 33, 64, 100, 390])
                    c.k = random.element(of: [0, 1, 3, 4, 5, 31, 63, 64, 65, 127, 128, 192, 300])
                    (c.hasBias, c.hasResidual) = (random.flag(), random.flag())
                    c.activation = random.element(of: [TK_IDENTITY, TK_RELU])
                    let (found, codes, expected) = c.run(seed: seed)
                    #expect(found == expected, "\(kernel) \(c)")
                    #expect(codes == first[seed, default: codes], "\(kernel) \(c)")
                    first[seed] = codes
                }
            }
        }

        @Test func codesFollowTheirDefinition() {
            forEachLevel { kernel in
                var random = TestRandom(seed: 4)
                for count in [1, 5, 16, 77, 5000] {
                    for kind in [TK_UNIFORM, TK_SPLIT_SIGNS, TK_SPLIT_SIZES] {
                        let bits = random.element(of: [4, 5, 6])
                        var q = tk_quantizer(
                            kind: kind, greatest: Int32(1 << (bits - 1) - 1),
                            shift: Int32(random.element(of: [0, 1, 2])),
                            scale: 0.03)
                        var x = random.floats(count)
                        x[0] = random.element(of: [1e30, -1e30, 0, .infinity])
                        let expected = x.map { code($0, q) }
                        var bytes = [UInt8](repeating: 0, count: Int(tk_int8_row(Int64(count))))
                        tk_int8_quantize(x, Int64(count), 1, Int64(count), &q, &bytes)
                        #expect(bytes[..<count].map { Int32($0) - 128 } == expected, "\(kernel) \(q)")
                        var rounded = x
                        tk_round_to_codes(x, &rounded, Int64(count), &q)
                        #expect(rounded == expected.map { q.scale * Float($0) }, "\(kernel) \(q)")
                        x[0] = 0.1
                        tk_round_to_codes(x, &rounded, Int64(count), &q)
                        let squares = zip(x, rounded).reduce(0.0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
                        let found = tk_rounding_error(x, Int64(count), &q)
                        #expect(abs(found - squares) <= 1e-5 * squares, "\(kernel) \(q)")
                    }
                }
            }
        }

        /// The largest sum that 8 bits can give at the depth of ViT-H, on all threads.
        @Test func largeSumsAndThreads() {
            forEachLevel { kernel in
                let (m, n, k) = (200, 420, 5120)
                let x = [Float](repeating: -3, count: max(m, n) * k)
                var quantizer = tk_quantizer(kind: TK_UNIFORM, greatest: 127, shift: 0, scale: 3.0 / 127)
                var a = [UInt8](repeating: 0, count: m * Int(tk_int8_row(Int64(k))))
                tk_int8_quantize(x, Int64(k), Int64(m), Int64(k), &quantizer, &a)
                let scales = [Float](repeating: 3.0 / 127, count: n)
                var packed = [Int8](repeating: 0, count: Int(tk_int8_packed_bytes(Int64(n), Int64(k))))
                packed.withUnsafeMutableBytes { tk_int8_pack(x, Int64(n), Int64(k), scales, $0.baseAddress) }
                let result = sameForAnyThreadCount {
                    var c = [Float](repeating: 0, count: m * n)
                    c.withUnsafeMutableBufferPointer { c in
                        a.withUnsafeBufferPointer { a in
                            scales.withUnsafeBufferPointer { scales in
                                packed.withUnsafeBytes { packed in
                                    var product = tk_int8_product()
                                    (product.m, product.n, product.k) = (Int64(m), Int64(n), Int64(k))
                                    (product.a, product.b) = (a.baseAddress, packed.baseAddress)
                                    product.scales = scales.baseAddress
                                    (product.c, product.c_row) = (c.baseAddress, Int64(n))
                                    tk_int8_multiply(&product)
                                }
                            }
                        }
                    }
                    return c
                }
                #expect(result.allSatisfy { $0 == Float(Int32(k) * 127 * 127) * scales[0] }, "\(kernel)")
            }
        }

        /// Both products in whole numbers, with strides, windows and a shared bias, against the definition.
        @Test func attentionInCodes() {
            let (batch, heads, queries, keys, size, valueSize) = (2, 3, 101, 37, 20, 36)
            var random = TestRandom(seed: 5)
            let q = random.floats(batch * queries * heads * size), k = random.floats(batch * keys * heads * size)
            let v = random.floats(batch * keys * heads * valueSize), bias = random.floats(heads * queries * keys)
            func quantizer(_ kind: tk_code_kind, _ scale: Float, _ shift: Int32 = 0) -> tk_quantizer {
                tk_quantizer(kind: kind, greatest: 31, shift: shift, scale: scale)
            }
            let quantizers = (
                q: quantizer(TK_UNIFORM, 0.05), k: quantizer(TK_UNIFORM, 0.04), v: quantizer(TK_UNIFORM, 0.06),
                weights: quantizer(TK_SPLIT_SIZES, 0.004, 2)
            )
            func rounded(_ x: Float, _ q: tk_quantizer) -> Float { q.scale * Float(code(x, q)) }
            var expected = [Float](repeating: 0, count: batch * queries * heads * valueSize)
            for image in 0..<batch {
                for head in 0..<heads {
                    for i in 0..<queries {
                        var scores = (0..<keys).map { j in
                            (0..<size).reduce(Float(0)) {
                                $0 + rounded(q[((image * queries + i) * heads + head) * size + $1], quantizers.q)
                                    * rounded(k[((image * keys + j) * heads + head) * size + $1], quantizers.k)
                            } * 0.3 + bias[(head * queries + i) * keys + j]
                        }
                        let top = scores.max()!
                        scores = scores.map { Float(exp(Double($0 - top))) }
                        let sum = scores.reduce(0, +)
                        for c in 0..<valueSize {
                            expected[((image * queries + i) * heads + head) * valueSize + c] = (0..<keys).reduce(0) {
                                $0 + rounded(scores[$1] / sum, quantizers.weights)
                                    * rounded(v[((image * keys + $1) * heads + head) * valueSize + c], quantizers.v)
                            }
                        }
                    }
                }
            }
            forEachLevel { kernel in
                let result = sameForAnyThreadCount {
                    var out = [Float](repeating: 0, count: expected.count)
                    q.withUnsafeBufferPointer { q in
                        k.withUnsafeBufferPointer { k in
                            v.withUnsafeBufferPointer { v in
                                bias.withUnsafeBufferPointer { bias in
                                    out.withUnsafeMutableBufferPointer { out in
                                        var a = tk_attention()
                                        (a.batch, a.heads) = (Int64(batch), Int64(heads))
                                        (a.queries, a.keys) = (Int64(queries), Int64(keys))
                                        (a.head_size, a.value_size) = (Int64(size), Int64(valueSize))
                                        func strides(_ tokens: Int, _ size: Int) -> tk_strides {
                                            tk_strides(
                                                row: Int64(heads * size), head: Int64(size),
                                                batch: Int64(tokens * heads * size))
                                        }
                                        (a.q, a.q_strides) = (q.baseAddress, strides(queries, size))
                                        (a.k, a.k_strides) = (k.baseAddress, strides(keys, size))
                                        (a.v, a.v_strides) = (v.baseAddress, strides(keys, valueSize))
                                        (a.out, a.out_strides) = (out.baseAddress, strides(queries, valueSize))
                                        a.bias = bias.baseAddress
                                        a.bias_strides = tk_strides(
                                            row: Int64(keys), head: Int64(queries * keys), batch: 0)
                                        a.scale = 0.3
                                        var codes = tk_int8_attention(
                                            attention: a, q: quantizers.q, k: quantizers.k, v: quantizers.v,
                                            weights: quantizers.weights)
                                        tk_int8_attention_forward(&codes)
                                    }
                                }
                            }
                        }
                    }
                    return out
                }
                // A weight at a tie may fall to either side: one step of the coarse region times a value.
                let differences = zip(result, expected).map { abs($0 - $1) }
                #expect(differences.max()! <= 0.05, "\(kernel)")
                #expect(differences.filter { $0 > 1e-4 }.count * 100 <= expected.count, "\(kernel)")
            }
        }
    }
}
