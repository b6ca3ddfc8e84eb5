import CKernels
import Foundation
import Testing

/// A product with its operands in arrays, laid out with gaps that must stay untouched.
private struct ProductCase {
    var m = 1, n = 1, k = 1, batch = 1
    var transposesA = false, transposesB = false
    var strideBetweenColumns = 1
    var alpha: Float = 1
    var accumulates = false
    var hasBias = false, hasResidual = false, keepsPreactivation = false
    var sumsRows = false
    var activation = TK_IDENTITY
    var precision = TK_FLOAT32
    var sharesB = false

    static let gap: Float = 12345

    /// A row of the left operand or a column of the right one, as the product takes it.
    private func operand(_ values: [Float]) -> [Double] {
        switch precision {
        case TK_BFLOAT16: values.map { Double(roundedToBFloat16($0)) }
        case TK_INT16: coded(values)
        case TK_INT8: tk_has_vnni() ? coded(values, upTo: 127) : coded(values)
        default: values.map(Double.init)
        }
    }

    /// The result and, if wanted, what it should be.
    func run(seed: UInt64, wantsExpected: Bool = true) -> (result: [Float], expected: [Double], what: String) {
        var random = TestRandom(seed: seed)
        let step = strideBetweenColumns
        let (aRow, aColumn) = transposesA ? (step, m * step + 3) : (k * step + 5, step)
        let (bRow, bColumn) = transposesB ? (1, k + 2) : (n + 1, 1)
        let aBatch = m * aRow + k * aColumn + 7, bBatch = sharesB ? 0 : n * bColumn + k * bRow + 1
        let cRow = n + 2, cBatch = m * cRow + 4
        let a = random.floats(batch * aBatch + 1), b = random.floats(batch * bBatch + n * bColumn + k * bRow + 1)
        let bias = random.floats(n + 1), residual = random.floats(batch * cBatch + 1)
        let start = random.floats(batch * cBatch + 1)
        var c = start
        var preactivation = [Float](repeating: Self.gap, count: batch * cBatch + 1)
        var rowSums = [Float](repeating: Self.gap, count: m + 1)
        let isOutside = c.indices.map { !($0 < batch * cBatch && $0 % cBatch < m * cRow && $0 % cBatch % cRow < n) }
        for i in c.indices where isOutside[i] { c[i] = Self.gap }

        a.withUnsafeBufferPointer { a in
            b.withUnsafeBufferPointer { b in
                bias.withUnsafeBufferPointer { bias in
                    residual.withUnsafeBufferPointer { residual in
                        c.withUnsafeMutableBufferPointer { c in
                            preactivation.withUnsafeMutableBufferPointer { preactivation in
                                var product = tk_product()
                                (product.m, product.n, product.k) = (Int64(m), Int64(n), Int64(k))
                                product.batch = Int64(batch)
                                product.a = a.baseAddress
                                (product.a_row, product.a_column) = (Int64(aRow), Int64(aColumn))
                                product.a_batch = Int64(aBatch)
                                product.b = b.baseAddress
                                (product.b_row, product.b_column) = (Int64(bRow), Int64(bColumn))
                                product.b_batch = Int64(bBatch)
                                product.c = c.baseAddress
                                (product.c_row, product.c_batch) = (Int64(cRow), Int64(cBatch))
                                product.alpha = alpha
                                product.accumulate = accumulates
                                product.bias = hasBias ? bias.baseAddress : nil
                                product.activation = activation
                                product.preactivation = keepsPreactivation ? preactivation.baseAddress : nil
                                product.residual = hasResidual ? residual.baseAddress : nil
                                (product.residual_row, product.residual_batch) = (Int64(cRow), Int64(cBatch))
                                product.precision = precision
                                rowSums.withUnsafeMutableBufferPointer { rowSums in
                                    product.row_sums = sumsRows ? rowSums.baseAddress : nil
                                    tk_multiply(&product)
                                }
                            }
                        }
                    }
                }
            }
        }

        var expected = c.map { _ in Double(Self.gap) }
        var expectedPreactivation = expected
        for image in 0..<(wantsExpected ? batch : 0) {
            let rows = (0..<m).map { i in operand((0..<k).map { a[image * aBatch + i * aRow + $0 * aColumn] }) }
            let columns = (0..<n).map { j in operand((0..<k).map { b[image * bBatch + $0 * bRow + j * bColumn] }) }
            for i in 0..<m {
                for j in 0..<n {
                    var sum = 0.0
                    for p in 0..<k { sum += rows[i][p] * columns[j][p] }
                    let place = image * cBatch + i * cRow + j
                    var value = Double(alpha) * sum + (hasBias ? Double(bias[j]) : 0)
                    if keepsPreactivation { expectedPreactivation[place] = value }
                    value = activated(value, activation)
                    if hasResidual { value += Double(residual[place]) }
                    if accumulates { value += Double(start[place]) }
                    expected[place] = value
                }
            }
        }
        #expect(rowSums[m] == Self.gap, "\(self) wrote beside its sums")
        // As means, so that a tolerance relative to the largest value is as strict for everything else.
        var means: [Float] = []
        var expectedMeans: [Double] = []
        if sumsRows, n > 0, k > 0 {
            means += rowSums.dropLast().map { $0 / Float(k) }
            for i in 0..<(wantsExpected ? m : 0) {
                expectedMeans.append((0..<k).reduce(0) { $0 + Double(a[i * aRow + $1 * aColumn]) } / Double(k))
            }
        }
        for i in c.indices where isOutside[i] {
            #expect(c[i] == Self.gap && preactivation[i] == Self.gap, "\(self) wrote beside its result")
            (c[i], expected[i], preactivation[i], expectedPreactivation[i]) = (0, 0, 0, 0)
        }
        if !keepsPreactivation { (preactivation, expectedPreactivation) = ([], []) }
        return (c + preactivation + means, expected + expectedPreactivation + expectedMeans, "\(self)")
    }
}

/// Values as codes times their scale, from the definition: by blocks of at most 512, whose greatest sum fits 32 bits.
private func coded(_ values: [Float], upTo limit: Double = 32767) -> [Double] {
    let blocks = (values.count + 511) / 512
    let length = blocks > 1 ? ((values.count + blocks - 1) / blocks + 31) / 32 * 32 : max(values.count, 1)
    return stride(from: 0, to: values.count, by: length).flatMap { first -> [Double] in
        let block = values[first..<min(first + length, values.count)]
        let most = min(limit, (Double(Int32.max) / Double(block.count)).squareRoot().rounded(.down))
        let greatest = block.reduce(0) { max($0, abs($1)) }
        guard greatest > 0 else { return block.map { _ in 0 } }
        let inverse = Float(most) / greatest
        return block.map { Double(($0 * inverse).rounded(.toNearestOrEven)) * Double(greatest) / most }
    }
}

/// An activation in double precision.
func activated(_ x: Double, _ kind: tk_activation) -> Double {
    switch kind {
    case TK_RELU: max(x, 0)
    case TK_GELU: 0.5 * x * erfc(-x / 2.0.squareRoot())
    case TK_GELU_TANH: 0.5 * x * (1 + tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
    case TK_QUICK_GELU: x / (1 + exp(-1.702 * x))
    case TK_SILU: x / (1 + exp(-x))
    case TK_SIGMOID: 1 / (1 + exp(-x))
    case TK_TANH: tanh(x)
    case TK_HARD_SWISH: x * min(max(x + 3, 0), 6) / 6
    case TK_HARD_SIGMOID: min(max(x + 3, 0), 6) / 6
    case TK_RELU6: min(max(x, 0), 6)
    default: x
    }
}

let activations = [
    TK_IDENTITY, TK_RELU, TK_GELU, TK_GELU_TANH, TK_QUICK_GELU, TK_SILU, TK_SIGMOID, TK_TANH, TK_HARD_SWISH,
    TK_HARD_SIGMOID, TK_RELU6,
]

extension KernelTests {
    @Suite struct Products {
        @Test func randomShapesAndEpilogues() {
            forEachLevel { level in
                var random = TestRandom(seed: 1)
                for seed in 0..<300 as Range<UInt64> {
                    var c = ProductCase()
                    c.m = random.element(of: [0, 1, 2, 5, 6, 7, 11, 12, 13, 24, 31, 49, 97])
                    c.n = random.element(of: [0, 1, 3, 8, 10, 15, 16, 17, 31, 32, 33, 64, 71])
                    c.k = random.element(of: [0, 1, 2, 7, 16, 31, 33, 64, 197, 300, 530])
                    c.batch = random.element(of: [1, 1, 2, 3])
                    (c.transposesA, c.transposesB, c.sharesB) = (random.flag(), random.flag(), random.flag())
                    c.strideBetweenColumns = random.element(of: [1, 1, 1, 2])
                    c.alpha = random.element(of: [1, 0.125])
                    c.precision = random.element(of: [TK_FLOAT32, TK_BFLOAT16, TK_SPLIT3, TK_SPLIT6, TK_INT16, TK_INT8])
                    c.accumulates = random.integer(below: 4) == 0
                    if !c.accumulates {
                        (c.hasBias, c.hasResidual, c.keepsPreactivation) = (random.flag(), random.flag(), random.flag())
                        c.activation = random.element(of: activations)
                    }
                    c.sumsRows = c.batch == 1 && random.integer(below: 3) == 0
                    let (result, expected, what) = c.run(seed: seed)
                    // A bounded activation hides how large the sums are whose rounding its error comes from.
                    let isBounded = [TK_SIGMOID, TK_TANH, TK_HARD_SIGMOID, TK_RELU6].contains(c.activation)
                    let floor = isBounded ? Double(c.alpha) * Double(c.k).squareRoot() : 1e-3
                    expectClose(
                        result, expected, tolerance: c.precision == TK_SPLIT3 ? 3e-5 : 2e-6, floor: max(floor, 1e-3),
                        "\(level) \(what)")
                }
            }
        }

        /// Large enough to be divided between threads in each way: rows, columns, depth, batch.
        @Test(arguments: [
            (700, 70, 90, 1), (5, 1500, 40, 1), (20, 40, 9000, 1), (130, 96, 20, 9), (420, 1100, 65, 1),
            (200, 33, 5000, 1),
        ])
        func sharedBetweenThreads(m: Int, n: Int, k: Int, batch: Int) {
            forEachLevel { level in
                for (precision, error) in [
                    (TK_FLOAT32, 0.0), (TK_BFLOAT16, 0), (TK_SPLIT6, 0), (TK_INT16, 1e-3), (TK_INT8, 0.02),
                ] {
                    for (transposesA, transposesB) in [(false, true), (true, false)] {
                        var c = ProductCase(m: m, n: n, k: k, batch: batch)
                        (c.transposesA, c.transposesB, c.precision) = (transposesA, transposesB, precision)
                        if transposesB {
                            (c.hasBias, c.activation, c.keepsPreactivation) = (true, TK_GELU, true)
                        }
                        c.sumsRows = batch == 1
                        let result = sameForAnyThreadCount { c.run(seed: 7, wantsExpected: false).result }
                        // The scales of codes follow the ranges of k that long sums are divided into.
                        expectClose(
                            result, c.run(seed: 7).expected,
                            tolerance: k > 512 ? max(error, 2e-6) : 2e-6, "\(level) \(c)")
                    }
                }
            }
        }

        /// Six products of bfloat16 parts are as good as float32, three nearly so, against sums in double precision.
        @Test(arguments: [64, 300, 1100]) func splitProductsAreOfFloat32Grade(k: Int) {
            func worst(_ precision: tk_precision) -> Double {
                let (result, expected, _) = ProductCase(m: 40, n: 70, k: k, precision: precision).run(seed: 11)
                return zip(result, expected).reduce(0) { max($0, abs(Double($1.0) - $1.1)) }
                    / expected.reduce(0) { max($0, abs($1)) }
            }
            forEachLevel { level in
                let float32 = worst(TK_FLOAT32), three = worst(TK_SPLIT3), six = worst(TK_SPLIT6)
                #expect(six <= 1.05 * float32, "\(level): \(six) against \(float32)")
                #expect(three <= 1e-5, "\(level)")
                if level == "emulated tiles" { #expect(three > six) }
            }
        }

        /// The preactivation in bfloat16 is the one in float32, rounded, and nothing else changes.
        @Test func preactivationsInHalfOfTheMemory() {
            var random = TestRandom(seed: 8)
            let (m, n, k) = (53, 71, 40)
            let (a, b, bias) = (random.floats(m * k), random.floats(k * n), random.floats(n))
            func run(_ keep: (inout tk_product) -> Void) -> [Float] {
                var c = [Float](repeating: 0, count: m * n)
                var product = tk_product()
                (product.m, product.n, product.k, product.batch) = (Int64(m), Int64(n), Int64(k), 1)
                (product.a_row, product.a_column) = (Int64(k), 1)
                (product.b_row, product.b_column, product.c_row) = (Int64(n), 1, Int64(n))
                (product.alpha, product.activation, product.precision) = (1, TK_GELU, TK_BFLOAT16)
                keep(&product)
                a.withUnsafeBufferPointer { a in
                    b.withUnsafeBufferPointer { b in
                        bias.withUnsafeBufferPointer { bias in
                            c.withUnsafeMutableBufferPointer { c in
                                (product.a, product.b, product.c) = (a.baseAddress, b.baseAddress, c.baseAddress)
                                product.bias = bias.baseAddress
                                tk_multiply(&product)
                            }
                        }
                    }
                }
                return c
            }
            forEachLevel { level in
                var (full, halves) = ([Float](repeating: 0, count: m * n), [UInt16](repeating: 0, count: m * n))
                let first = full.withUnsafeMutableBufferPointer { full in
                    run { $0.preactivation = full.baseAddress }
                }
                let second = halves.withUnsafeMutableBufferPointer { halves in
                    run { $0.rounded_preactivation = halves.baseAddress }
                }
                #expect(first == second, "\(level)")
                #expect(widened(halves) == full.map(roundedToBFloat16), "\(level)")
            }
        }

        /// Codes are multiplied without rounding, and so every instruction set finds the same.
        @Test func codesAreTheSameEverywhere() {
            for (m, n, k) in [(50, 70, 96), (33, 100, 700), (64, 48, 3000)] {
                for (transposesA, transposesB) in [(false, true), (true, false)] {
                    var c = ProductCase(m: m, n: n, k: k, precision: TK_INT16)
                    (c.transposesA, c.transposesB) = (transposesA, transposesB)
                    var results: [(level: String, values: [Float])] = []
                    forEachLevel { results.append(($0, c.run(seed: 3, wantsExpected: false).result)) }
                    for (level, values) in results { #expect(values == results[0].values, "\(level) \(m) \(n) \(k)") }
                }
            }
        }

        /// For values of about one size, such as normal ones, codes are nearer than bfloat16.
        @Test(arguments: [192, 768]) func codesAreNearerThanBFloat16(k: Int) {
            func error(_ precision: tk_precision) -> Double {
                let (result, expected, _) = ProductCase(m: 60, n: 60, k: k, precision: precision).run(seed: 5)
                let exact = ProductCase(m: 60, n: 60, k: k).run(seed: 5).expected
                #expect(expected != exact)
                return zip(result, exact).reduce(0) { $0 + (Double($1.0) - $1.1) * (Double($1.0) - $1.1) }.squareRoot()
            }
            forEachLevel { level in
                let (codes, rounded) = (error(TK_INT16), error(TK_BFLOAT16))
                #expect(codes < rounded / 2, "\(level): \(codes), \(rounded)")
            }
        }

        @Test(arguments: [TK_BFLOAT16, TK_SPLIT3, TK_SPLIT6, TK_INT16, TK_INT8].map(\.rawValue))
        func infinitiesAndNaNsStayVisible(precision: UInt32) {
            forEachLevel { _ in
                let a: [Float] = [.nan, .infinity, 3.4e38, 1], b: [Float] = [1]
                var c = [Float](repeating: 0, count: 4)
                var product = tk_product()
                (product.m, product.n, product.k, product.batch) = (4, 1, 1, 1)
                (product.a_row, product.a_column, product.b_row, product.b_column, product.c_row) = (1, 1, 1, 1, 1)
                (product.alpha, product.precision) = (1, tk_precision(precision))
                a.withUnsafeBufferPointer { a in
                    b.withUnsafeBufferPointer { b in
                        c.withUnsafeMutableBufferPointer { c in
                            (product.a, product.b, product.c) = (a.baseAddress, b.baseAddress, c.baseAddress)
                            tk_multiply(&product)
                        }
                    }
                }
                #expect(c[0].isNaN)
                #expect(c[1] == .infinity || (precision != TK_BFLOAT16.rawValue && c[1].isNaN))
                #expect(c[2] >= 3.3e38 || (precision != TK_BFLOAT16.rawValue && c[2].isNaN))
                #expect(c[3] == 1)
            }
        }
    }
}
