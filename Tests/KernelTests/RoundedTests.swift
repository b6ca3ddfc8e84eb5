import CKernels
import Foundation
import Testing

/// Numbers of bfloat16, as floats and in half of the memory.
private struct Numbers {
    let floats: [Float]
    let halves: [UInt16]

    init(_ count: Int, _ random: inout TestRandom) {
        floats = random.floats(count).map(roundedToBFloat16)
        halves = floats.map { UInt16($0.bitPattern >> 16) }
    }

    /// Calls body with either form.
    func withPointer(isRounded: Bool, _ body: (UnsafePointer<Float>) -> Void) {
        if isRounded {
            halves.withUnsafeBytes { body($0.baseAddress!.assumingMemoryBound(to: Float.self)) }
        } else {
            floats.withUnsafeBufferPointer { body($0.baseAddress!) }
        }
    }
}

extension KernelTests {
    /// Operands and results in bfloat16 instead of float32.
    @Suite struct RoundedTests {
        private struct Case {
            var m, n, k, batch: Int
            var transposesA, transposesB: Bool
            var step: Int
            var activation: tk_activation
            var precision: tk_precision
            var residual: Bool

            init(_ random: inout TestRandom) {
                (m, n, k) = (random.integer(below: 60), random.integer(below: 130), random.integer(below: 140))
                if random.integer(below: 8) == 0 { k = 512 * random.integer(below: 3) + random.integer(below: 140) }
                batch = 1 + random.integer(below: 2)
                (transposesA, transposesB) = (random.integer(below: 4) == 0, random.integer(below: 2) == 0)
                step = random.integer(below: 4) == 0 ? 2 : 1
                activation = [TK_IDENTITY, TK_RELU, TK_GELU][random.integer(below: 3)]
                precision = [TK_BFLOAT16, TK_BFLOAT16, TK_FLOAT32, TK_INT16, TK_INT8][random.integer(below: 5)]
                residual = random.integer(below: 3) == 0
            }

            func run(_ a: Numbers, _ b: Numbers, _ bias: [Float], rounds: (a: Bool, b: Bool, c: Bool)) -> [Float] {
                var product = tk_product()
                (product.m, product.n, product.k, product.batch) = (Int64(m), Int64(n), Int64(k), Int64(batch))
                (product.a_row, product.a_column) = transposesA ? (1, Int64(m + 1)) : (Int64(k * step + 2), Int64(step))
                (product.b_row, product.b_column) = transposesB ? (1, Int64(k + k % 2)) : (Int64(n + 3), 1)
                (product.a_batch, product.b_batch) = (Int64(a.floats.count / 2), Int64(b.floats.count / 2))
                (product.c_row, product.c_batch) = (Int64(n), Int64(m * n))
                (product.residual_row, product.residual_batch) = (product.c_row, product.c_batch)
                (product.alpha, product.activation, product.precision) = (0.5, activation, precision)
                (product.a_is_rounded, product.b_is_rounded, product.c_is_rounded) = rounds
                var sums = [Float](repeating: 7, count: m + 1)
                var c = [Float](repeating: 7, count: batch * m * n + 1)
                var halves = [UInt16](repeating: 7, count: batch * m * n + 1)
                let residual = [Float](repeating: 0.25, count: batch * m * n + 1)
                a.withPointer(isRounded: rounds.a) { a in
                    b.withPointer(isRounded: rounds.b) { b in
                        c.withUnsafeMutableBufferPointer { c in
                            halves.withUnsafeMutableBytes { halves in
                                (product.a, product.b) = (a, b)
                                product.c =
                                    rounds.c ? halves.baseAddress!.assumingMemoryBound(to: Float.self) : c.baseAddress!
                                bias.withUnsafeBufferPointer { bias in
                                    residual.withUnsafeBufferPointer { residual in
                                        product.bias = bias.baseAddress
                                        product.residual = self.residual ? residual.baseAddress : nil
                                        sums.withUnsafeMutableBufferPointer {
                                            product.row_sums = batch == 1 ? $0.baseAddress : nil
                                            tk_multiply(&product)
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
                #expect(c.last == 7 && halves.last == 7 && sums.last == 7, "\(self) wrote behind its result")
                return Array((rounds.c ? widened(halves) : c).dropLast()) + (rounds.c ? [] : sums.dropLast())
            }
        }

        @Test func products() {
            var random = TestRandom(seed: 17)
            for _ in 0..<250 {
                let c = Case(&random)
                let a = Numbers(2 * ((c.k * c.step + 2) * (c.m + 1) + (c.m + 1) * c.k), &random)
                let b = Numbers(2 * ((c.k + 1) * (c.n + 3) + c.n + 4), &random)
                let bias = random.floats(c.n + 1)
                let rounds = (a: random.integer(below: 4) > 0, b: random.integer(below: 3) > 0)
                forEachLevel { level in
                    // With the sums of rows behind it.
                    let floats = c.run(a, b, bias, rounds: (false, false, false))
                    let isSame = c.run(a, b, bias, rounds: (rounds.a, rounds.b, false)) == floats
                    #expect(isSame, "\(level): \(rounds) \(c)")
                    let exact = floats.dropLast(c.m)
                    let rounded = c.run(a, b, bias, rounds: (rounds.a, rounds.b, true))
                    if c.activation == TK_GELU {
                        let worst = zip(rounded, exact).map { abs($0 - $1) - abs($1) / 256 }.max() ?? 0
                        #expect(worst <= 2.5e-4, "\(level): \(c)")
                    } else {
                        let isRounded = rounded == exact.map(roundedToBFloat16)
                        #expect(isRounded, "\(level): \(rounds) \(c)")
                    }
                }
            }
        }

        /// What only rounding follows: near enough to the exact function everywhere, and not a number stays so.
        @Test func roughActivation() {
            forEachLevel { level in
                for x in Array(stride(from: Float(-12), through: 12, by: 1 / 64)) + [-1e6, 1e6, .infinity, .nan] {
                    var (a, b, c, gelu) = (x, Float(1), UInt16(0), Float(0))
                    var product = tk_product()
                    (product.m, product.n, product.k, product.batch) = (1, 1, 1, 1)
                    (product.a_row, product.a_column, product.b_row, product.b_column) = (1, 1, 1, 1)
                    (product.c_row, product.alpha, product.activation, product.precision) = (1, 1, TK_GELU, TK_FLOAT32)
                    withUnsafeMutableBytes(of: &c) { c in
                        withUnsafePointer(to: &a) { a in
                            withUnsafePointer(to: &b) { b in
                                (product.a, product.b) = (a, b)
                                product.c = c.baseAddress!.assumingMemoryBound(to: Float.self)
                                product.c_is_rounded = true
                                tk_multiply(&product)
                            }
                        }
                    }
                    tk_activate(&a, &gelu, 1, TK_GELU)
                    let rounded = widened([c])[0]
                    let isNear = gelu.isFinite ? abs(rounded - gelu) <= abs(gelu) / 256 + 2e-4 : rounded == gelu
                    #expect(x.isNaN ? rounded.isNaN : isNear, "\(level): \(x)")
                }
            }
        }

        /// Attention in bfloat16 over tokens that are dense in memory, without its operands.
        private static func selfAttention(
            _ batch: Int, _ heads: Int, _ tokens: Int, _ size: Int, _ valueSize: Int
        ) -> tk_attention {
            func strides(_ size: Int) -> tk_strides {
                tk_strides(row: Int64(heads * size), head: Int64(size), batch: Int64(tokens * heads * size))
            }
            var a = tk_attention()
            (a.batch, a.heads, a.queries, a.keys) = (Int64(batch), Int64(heads), Int64(tokens), Int64(tokens))
            (a.head_size, a.value_size) = (Int64(size), Int64(valueSize))
            (a.q_strides, a.k_strides) = (strides(size), strides(size))
            (a.v_strides, a.out_strides) = (strides(valueSize), strides(valueSize))
            (a.scale, a.precision) = (1 / Float(size).squareRoot(), TK_BFLOAT16)
            return a
        }

        @Test(arguments: [(2, 3, 197, 64, 64), (1, 2, 50, 32, 24), (3, 4, 9, 7, 5), (1, 16, 33, 16, 16)])
        func attention(batch: Int, heads: Int, tokens: Int, size: Int, valueSize: Int) {
            var random = TestRandom(seed: 5)
            let (row, valueRow) = (heads * size, heads * valueSize)
            let q = Numbers(batch * tokens * row, &random), k = Numbers(batch * tokens * row, &random)
            let v = Numbers(batch * tokens * valueRow, &random)
            func run(_ rounds: (q: Bool, k: Bool, v: Bool, out: Bool)) -> [Float] {
                var a = Self.selfAttention(batch, heads, tokens, size, valueSize)
                (a.q_is_rounded, a.k_is_rounded, a.v_is_rounded, a.out_is_rounded) = rounds
                var out = [Float](repeating: 0, count: batch * tokens * valueRow)
                var halves = [UInt16](repeating: 0, count: out.count)
                q.withPointer(isRounded: rounds.q) { q in
                    k.withPointer(isRounded: rounds.k) { k in
                        v.withPointer(isRounded: rounds.v) { v in
                            (a.q, a.k, a.v) = (q, k, v)
                            out.withUnsafeMutableBufferPointer { out in
                                halves.withUnsafeMutableBytes { halves in
                                    a.out =
                                        rounds.out
                                        ? halves.baseAddress!.assumingMemoryBound(to: Float.self) : out.baseAddress
                                    tk_attention_forward(&a)
                                }
                            }
                        }
                    }
                }
                return rounds.out ? widened(halves) : out
            }
            forEachLevel { level in
                let exact = run((false, false, false, false)), rounded = exact.map(roundedToBFloat16)
                let isSame = [
                    run((true, true, true, false)) == exact, run((false, true, false, true)) == rounded,
                    run((true, true, true, true)) == rounded,
                ]
                #expect(isSame == [true, true, true], "\(level)")
            }
        }

        /// The gradient of the output, and those of queries, keys and values, in bfloat16: what floats give, rounded.
        @Test(arguments: [(2, 3, 197, 64, 64), (3, 4, 9, 7, 5), (1, 2, 600, 16, 8)])
        func attentionGradients(batch: Int, heads: Int, tokens: Int, size: Int, valueSize: Int) {
            var random = TestRandom(seed: 6)
            let (row, valueRow) = (heads * size, heads * valueSize)
            let q = random.floats(batch * tokens * row), k = random.floats(batch * tokens * row)
            let v = random.floats(batch * tokens * valueRow)
            let gradient = Numbers(batch * tokens * valueRow, &random)
            func run(_ areRounded: Bool) -> [[Float]] {
                var a = Self.selfAttention(batch, heads, tokens, size, valueSize)
                var out = v, logSumExp = [Float](repeating: 0, count: batch * heads * tokens)
                var (dq, dk, dv) = (q, k, v)
                q.withUnsafeBufferPointer { q in
                    k.withUnsafeBufferPointer { k in
                        v.withUnsafeBufferPointer { v in
                            out.withUnsafeMutableBufferPointer { out in
                                logSumExp.withUnsafeMutableBufferPointer { logSumExp in
                                    (a.q, a.k, a.v, a.out) = (
                                        q.baseAddress, k.baseAddress, v.baseAddress, out.baseAddress
                                    )
                                    a.log_sum_exp = logSumExp.baseAddress
                                    tk_attention_forward(&a)
                                    gradient.withPointer(isRounded: areRounded) {
                                        tk_attention_backward(
                                            &a, $0, areRounded, &dq, &dk, &dv, areRounded, nil)
                                    }
                                }
                            }
                        }
                    }
                }
                return areRounded ? [dq, dk, dv].map(firstHalves) : [dq, dk, dv]
            }
            forEachLevel { level in
                let isSame = run(true) == run(false).map { $0.map(roundedToBFloat16) }
                #expect(isSame, "\(level)")
            }
        }

        /// Dropout of bfloat16 numbers: the mask of floats, and their results rounded.
        @Test func dropout() {
            var random = TestRandom(seed: 9)
            let x = Numbers(70_001, &random)
            func run(isRounded: Bool) -> [Float] {
                var y = x.floats
                x.withPointer(isRounded: isRounded) { tk_dropout($0, &y, isRounded, Int64(y.count), 0.3, 5) }
                return isRounded ? firstHalves(of: y) : y
            }
            forEachLevel { level in
                let floats = run(isRounded: false), isSame = run(isRounded: true) == floats.map(roundedToBFloat16)
                #expect(isSame && floats.contains(0) && floats != x.floats, "\(level)")
            }
        }

        /// A norm's gradients from one in bfloat16 are those from the same numbers as floats.
        @Test(arguments: [(37, 83), (4, 192), (1, 5)]) func normGradients(rows: Int, columns: Int) {
            var random = TestRandom(seed: 7)
            let gradient = Numbers(rows * columns, &random)
            let (x, weight) = (random.floats(rows * columns), random.floats(columns))
            let (mean, inverse) = (random.floats(rows), random.floats(rows))
            func run(isRounded: Bool) -> [[Float]] {
                var (dx, dw, db) = (x, weight, weight)
                gradient.withPointer(isRounded: isRounded) {
                    tk_layer_norm_backward(
                        $0, isRounded, x, weight, mean, inverse, &dx, &dw, &db, Int64(rows), Int64(columns))
                }
                return [dx, dw, db]
            }
            forEachLevel { level in #expect(run(isRounded: true) == run(isRounded: false), "\(level)") }
        }

        /// The gradient of an activation in bfloat16, from numbers in either form.
        @Test func activationGradients() {
            let (rows, columns) = (21, 83)
            var random = TestRandom(seed: 8)
            let gradient = Numbers(rows * columns, &random), x = Numbers(rows * columns, &random)
            func run(_ kind: tk_activation, _ rounds: (gradient: Bool, x: Bool, result: Bool)) -> [Float] {
                var (result, sums) = (x.floats, [Float](repeating: 0, count: columns))
                gradient.withPointer(isRounded: rounds.gradient) { gradient in
                    x.withPointer(isRounded: rounds.x) { x in
                        tk_activation_backward(
                            gradient, rounds.gradient, x, rounds.x, kind, &result, rounds.result, &sums, Int64(rows),
                            Int64(columns))
                    }
                }
                return (rounds.result ? firstHalves(of: result) : result) + sums
            }
            forEachLevel { level in
                for kind in activations {
                    let floats = run(kind, (false, false, false)), all = run(kind, (true, true, true))
                    let isSame = [(true, false), (false, true), (true, true)].allSatisfy {
                        run(kind, ($0.0, $0.1, false)) == floats
                    }
                    #expect(isSame, "\(level), activation \(kind.rawValue)")
                    let result = floats.dropLast(columns), sums = floats.suffix(columns)
                    let rounded = run(kind, (false, true, true))
                    #expect(rounded == result.map(roundedToBFloat16) + sums, "\(level), rounded \(kind.rawValue)")
                    // Where all of it is in bfloat16, the slope of GELU is off by up to 0.0003.
                    let slack: Float = kind == TK_GELU ? 3e-4 : 0
                    let isClose = zip(all, zip(floats, gradient.floats)).allSatisfy { found, expected in
                        abs(found - expected.0) <= abs(expected.0) / 256 + slack * abs(expected.1)
                    }
                    #expect(isClose, "\(level), all rounded \(kind.rawValue)")
                    let isNear = zip(all.suffix(columns), sums).allSatisfy {
                        abs($0 - $1) <= slack * Float(rows) + 1e-4
                    }
                    #expect(isNear, "\(level), sums of \(kind.rawValue)")
                }
            }
        }

        /// The slope that only rounding follows, everywhere, against the one in double precision.
        @Test func roughSlope() {
            let x = (Array(stride(from: Float(-12), through: 12, by: 1 / 64)) + [-1e6, 1e6]).map(roundedToBFloat16)
            let halves = x.map { UInt16($0.bitPattern >> 16) }
            let ones = [UInt16](repeating: 0x3F80, count: x.count)
            forEachLevel { level in
                var result = [Float](repeating: 0, count: x.count)
                ones.withUnsafeBytes { ones in
                    halves.withUnsafeBytes { halves in
                        tk_activation_backward(
                            ones.baseAddress!.assumingMemoryBound(to: Float.self), true,
                            halves.baseAddress!.assumingMemoryBound(to: Float.self), true, TK_GELU, &result, true, nil,
                            1,
                            Int64(x.count))
                    }
                }
                for (x, slope) in zip(x, firstHalves(of: result)) {
                    let z = Double(x), density = exp(-z * z / 2) / (2 * Double.pi).squareRoot()
                    let expected = 0.5 * erfc(-z / 2.0.squareRoot()) + (density > 0 ? z * density : 0)
                    #expect(abs(Double(slope) - expected) <= abs(expected) / 256 + 3e-4, "\(level): \(x)")
                }
            }
        }
    }
}

/// The bfloat16 numbers, as many as there are floats, that lie in the first half of their memory.
func firstHalves(of values: [Float]) -> [Float] {
    values.withUnsafeBytes { widened($0.bindMemory(to: UInt16.self).prefix(values.count)) }
}
