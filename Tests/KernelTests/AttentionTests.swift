import CKernels
import Foundation
import Testing

/// Attention whose q, k and v are interleaved [token][head][q | k | v], with a table of biases shared between images.
private struct AttentionCase: Sendable {
    var batch = 2, heads = 2, queries: Int, keys: Int, size: Int, valueSize: Int
    var hasBias = false, dropout: Float = 0, precision = TK_FLOAT32, seed: UInt64 = 3

    var scale: Float { 1 / Float(size).squareRoot() }
    var queryRow: Int { heads * size + 3 }
    var keyRow: Int { heads * (size + valueSize) }
    var outRow: Int { heads * valueSize + 1 }

    struct Data {
        var q: [Float], kv: [Float], bias: [Float], gradient: [Float]
    }

    func data() -> Data {
        var random = TestRandom(seed: UInt64(queries * 1000 + keys * 10 + size))
        var bias = random.floats(heads * queries * keys)
        for i in bias.indices where i % keys > 0 && random.integer(below: 9) == 0 { bias[i] = -.infinity }
        return Data(
            q: random.floats(batch * queries * queryRow), kv: random.floats(batch * keys * keyRow), bias: bias,
            gradient: random.floats(batch * queries * outRow))
    }

    /// Calls body with the description over the data; `out` and `logSumExp` are filled by the forward pass.
    func withDescription(
        _ d: Data, _ out: inout [Float], _ logSumExp: inout [Float], _ body: (inout tk_attention) -> Void
    ) {
        d.q.withUnsafeBufferPointer { q in
            d.kv.withUnsafeBufferPointer { kv in
                d.bias.withUnsafeBufferPointer { bias in
                    out.withUnsafeMutableBufferPointer { out in
                        logSumExp.withUnsafeMutableBufferPointer { logSumExp in
                            var a = tk_attention()
                            (a.batch, a.heads) = (Int64(batch), Int64(heads))
                            (a.queries, a.keys) = (Int64(queries), Int64(keys))
                            (a.head_size, a.value_size) = (Int64(size), Int64(valueSize))
                            (a.q, a.k, a.v) = (q.baseAddress, kv.baseAddress, kv.baseAddress! + size)
                            a.q_strides = tk_strides(
                                row: Int64(queryRow), head: Int64(size), batch: Int64(queries * queryRow))
                            a.k_strides = tk_strides(
                                row: Int64(keyRow), head: Int64(size + valueSize), batch: Int64(keys * keyRow))
                            a.v_strides = a.k_strides
                            a.out = out.baseAddress
                            a.out_strides = tk_strides(
                                row: Int64(outRow), head: Int64(valueSize), batch: Int64(queries * outRow))
                            a.bias = hasBias ? bias.baseAddress : nil
                            a.bias_strides = tk_strides(row: Int64(keys), head: Int64(queries * keys), batch: 0)
                            (a.scale, a.dropout, a.seed, a.precision) = (scale, dropout, seed, precision)
                            a.log_sum_exp = logSumExp.baseAddress
                            body(&a)
                        }
                    }
                }
            }
        }
    }

    /// out, log-sum-exp.
    func forward(_ d: Data) -> (out: [Float], logSumExp: [Float]) {
        var out = [Float](repeating: 0, count: batch * queries * outRow)
        var logSumExp = [Float](repeating: 0, count: batch * heads * queries)
        withDescription(d, &out, &logSumExp) { tk_attention_forward(&$0) }
        return (out, logSumExp)
    }

    /// Gradients of q, of k and v, of the bias.
    func backward(_ d: Data) -> (q: [Float], kv: [Float], bias: [Float]) {
        var (out, logSumExp) = forward(d)
        var q = d.q.map { _ in Float(0) }, kv = d.kv.map { _ in Float(0) }
        var bias = [Float](repeating: .nan, count: d.bias.count)
        withDescription(d, &out, &logSumExp) { a in
            kv.withUnsafeMutableBufferPointer { kv in
                bias.withUnsafeMutableBufferPointer { bias in
                    tk_attention_backward(
                        &a, d.gradient, false, &q, kv.baseAddress, kv.baseAddress! + size, false,
                        hasBias ? bias.baseAddress : nil)
                }
            }
        }
        return (q, kv, hasBias ? bias : [])
    }

    /// The factor of each weight, 0 or 1 / (1 - dropout), seen by letting the values be the unit vectors.
    func dropoutFactors() -> [Double] {
        guard dropout > 0 else { return [Double](repeating: 1, count: batch * heads * queries * keys) }
        var probe = self
        (probe.valueSize, probe.hasBias, probe.precision) = (keys, false, TK_FLOAT32)
        var d = probe.data()
        for i in d.q.indices { d.q[i] = 0 }
        for b in 0..<batch {
            for j in 0..<keys {
                for h in 0..<heads {
                    for c in 0..<keys {
                        d.kv[(b * keys + j) * probe.keyRow + h * (size + keys) + size + c] = j == c ? 1 : 0
                    }
                }
            }
        }
        let out = probe.forward(d).out
        return (0..<batch * heads * queries * keys).map { i in
            let (j, query, h, b) = (
                i % keys, i / keys % queries, i / keys / queries % heads, i / keys / queries / heads
            )
            return Double(out[(b * queries + query) * probe.outRow + h * keys + j]) * Double(keys)
        }
    }

    struct Expected {
        var out: [Double], logSumExp: [Double], q: [Double], kv: [Double], bias: [Double]
    }

    func expected(_ d: Data, factors: [Double]) -> Expected {
        var e = Expected(
            out: [Double](repeating: 0, count: batch * queries * outRow), logSumExp: [],
            q: d.q.map { _ in 0 }, kv: d.kv.map { _ in 0 }, bias: hasBias ? d.bias.map { _ in 0 } : [])
        for b in 0..<batch {
            for h in 0..<heads {
                for i in 0..<queries {
                    let qAt = (b * queries + i) * queryRow + h * size,
                        outAt = (b * queries + i) * outRow + h * valueSize
                    func kAt(_ j: Int) -> Int { (b * keys + j) * keyRow + h * (size + valueSize) }
                    var weights = (0..<keys).map { j -> Double in
                        var sum = 0.0
                        for c in 0..<size { sum += Double(d.q[qAt + c]) * Double(d.kv[kAt(j) + c]) }
                        return sum * Double(scale) + (hasBias ? Double(d.bias[(h * queries + i) * keys + j]) : 0)
                    }
                    let top = weights.max()!
                    let total = weights.reduce(0) { $0 + exp($1 - top) }
                    e.logSumExp.append(top + log(total))
                    weights = weights.map { exp($0 - top) / total }
                    let factor = { (j: Int) in factors[((b * heads + h) * queries + i) * keys + j] }
                    var gradient = [Double](repeating: 0, count: keys)
                    for j in 0..<keys {
                        for c in 0..<valueSize {
                            let v = Double(d.kv[kAt(j) + size + c]), g = Double(d.gradient[outAt + c])
                            e.out[outAt + c] += weights[j] * factor(j) * v
                            e.kv[kAt(j) + size + c] += weights[j] * factor(j) * g
                            gradient[j] += g * v * factor(j)
                        }
                    }
                    let mean = (0..<keys).reduce(0) { $0 + weights[$1] * gradient[$1] }
                    for j in 0..<keys {
                        let score = weights[j] * (gradient[j] - mean)
                        if hasBias { e.bias[(h * queries + i) * keys + j] += score }
                        for c in 0..<size {
                            e.q[qAt + c] += score * Double(scale) * Double(d.kv[kAt(j) + c])
                            e.kv[kAt(j) + c] += score * Double(scale) * Double(d.q[qAt + c])
                        }
                    }
                }
            }
        }
        return e
    }
}

private let cases = [
    AttentionCase(queries: 1, keys: 1, size: 1, valueSize: 1),
    AttentionCase(queries: 5, keys: 7, size: 9, valueSize: 4),
    AttentionCase(queries: 65, keys: 33, size: 24, valueSize: 36, hasBias: true),
    AttentionCase(batch: 1, heads: 3, queries: 197, keys: 197, size: 64, valueSize: 64),
    AttentionCase(queries: 49, keys: 49, size: 36, valueSize: 36, dropout: 0.25),
    AttentionCase(batch: 3, heads: 2, queries: 70, keys: 20, size: 16, valueSize: 8, hasBias: true, dropout: 0.5),
    AttentionCase(batch: 3, heads: 2, queries: 3, keys: 300, size: 9, valueSize: 33),
]

extension KernelTests {
    @Suite struct Attention {
        /// Weights that are rounded to bfloat16 need an exponential of that grade only, but over its whole range; their sum
        /// is of those before rounding.
        @Test func roughExponential() {
            var c = AttentionCase(batch: 1, heads: 1, queries: 800, keys: 2, size: 1, valueSize: 1)
            c.precision = TK_BFLOAT16
            var d = c.data()
            let x = (0..<c.queries).map { roundedToBFloat16(Float($0) / 8) }
            for i in 0..<c.queries { d.q[i * c.queryRow] = x[i] }
            d.kv.replaceSubrange(0..<4, with: [0, 0, -1, 1])  // scores 0 and -x, values 0 and 1
            forEachLevel { level in
                let (out, logSumExp) = c.forward(d)
                for i in 0..<c.queries {
                    let e = exp(-Double(x[i])), weight = Double(out[i * c.outRow]), sum = Double(logSumExp[i])
                    #expect(abs(weight - e / (1 + e)) <= e / 250 + 1e-37, "\(level): \(x[i])")
                    #expect(abs(sum - log(1 + e)) <= 1.6e-4, "\(level): \(x[i])")
                }
            }
        }

        @Test(arguments: cases.indices, [TK_FLOAT32.rawValue, TK_BFLOAT16.rawValue])
        func agreesWithNaiveLoops(index: Int, precision: UInt32) {
            var c = cases[index]
            c.precision = tk_precision(rawValue: precision)
            let d = c.data()
            let expected = c.expected(d, factors: c.dropoutFactors())
            // Rounding queries, keys, weights and their gradients to 8 bits shows in the result.
            let tolerance = c.precision == TK_BFLOAT16 ? 2e-2 : 5e-6
            forEachLevel { level in
                let name = "\(level) \(c)"
                let out = sameForAnyThreadCount {
                    let (out, logSumExp) = c.forward(d)
                    return out + logSumExp
                }
                expectClose(Array(out.prefix(expected.out.count)), expected.out, tolerance: tolerance, "out \(name)")
                expectClose(
                    Array(out.dropFirst(expected.out.count)), expected.logSumExp, tolerance: tolerance,
                    floor: 0.1, "log-sum-exp \(name)")
                let gradients = sameForAnyThreadCount {
                    let g = c.backward(d)
                    return g.q + g.kv + g.bias
                }
                let (q, kv) = (expected.q.count, expected.kv.count)
                expectClose(Array(gradients[..<q]), expected.q, tolerance: tolerance, floor: 0.1, "q gradient \(name)")
                expectClose(
                    Array(gradients[q..<q + kv]), expected.kv, tolerance: tolerance, floor: 0.1, "k, v gradient \(name)"
                )
                expectClose(
                    Array(gradients[(q + kv)...]), expected.bias, tolerance: tolerance, floor: 0.1,
                    "bias gradient \(name)")
            }
        }

        @Test func dropoutDropsTheRightShareIndependently() {
            let c = AttentionCase(batch: 4, heads: 3, queries: 50, keys: 40, size: 8, valueSize: 8, dropout: 0.3)
            forEachLevel { _ in
                let factors = c.dropoutFactors()
                let dropped = factors.map { $0 == 0 ? 1.0 : 0.0 }
                let share = dropped.reduce(0, +) / Double(dropped.count)
                #expect(abs(share - 0.3) < 0.02)
                for factor in factors where factor != 0 { #expect(abs(factor - 1 / 0.7) < 1e-4) }
                // Neighbouring keys, queries, heads and images: both dropped as often as independence says.
                for distance in [1, 40, 2000, 6000] {
                    let both = (distance..<dropped.count).reduce(0.0) { $0 + dropped[$1] * dropped[$1 - distance] }
                    #expect(abs(both / Double(dropped.count - distance) - 0.09) < 0.02, "distance \(distance)")
                }
                var other = c
                other.seed = 4
                #expect(other.dropoutFactors().map { $0 == 0 } != factors.map { $0 == 0 })
            }
        }
    }
}
