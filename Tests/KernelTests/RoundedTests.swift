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
                precision = [TK_BFLOAT16, TK_BFLOAT16, TK_FLOAT32, TK_INT16][random.integer(below: 4)]
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
                                        tk_multiply(&product)
                                    }
                                }
                            }
                        }
                    }
                }
                #expect(c.last == 7 && halves.last == 7, "\(self) wrote behind its result")
                return Array((rounds.c ? widened(halves) : c).dropLast())
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
                    let exact = c.run(a, b, bias, rounds: (false, false, false))
                    let isSame = c.run(a, b, bias, rounds: (rounds.a, rounds.b, false)) == exact
                    #expect(isSame, "\(level): \(rounds) \(c)")
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

        @Test(arguments: [(2, 3, 197, 64, 64), (1, 2, 50, 32, 24), (3, 4, 9, 7, 5), (1, 16, 33, 16, 16)])
        func attention(batch: Int, heads: Int, tokens: Int, size: Int, valueSize: Int) {
            var random = TestRandom(seed: 5)
            let (row, valueRow) = (heads * size, heads * valueSize)
            let q = Numbers(batch * tokens * row, &random), k = Numbers(batch * tokens * row, &random)
            let v = Numbers(batch * tokens * valueRow, &random)
            func run(_ rounds: (q: Bool, k: Bool, v: Bool, out: Bool)) -> [Float] {
                var a = tk_attention()
                (a.batch, a.heads, a.queries, a.keys) = (Int64(batch), Int64(heads), Int64(tokens), Int64(tokens))
                (a.head_size, a.value_size) = (Int64(size), Int64(valueSize))
                a.q_strides = tk_strides(row: Int64(row), head: Int64(size), batch: Int64(tokens * row))
                a.k_strides = a.q_strides
                a.v_strides = tk_strides(row: Int64(valueRow), head: Int64(valueSize), batch: Int64(tokens * valueRow))
                a.out_strides = a.v_strides
                (a.scale, a.precision) = (1 / Float(size).squareRoot(), TK_BFLOAT16)
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
    }
}
