import CKernels
@testable import Tessera
import Testing

/// Passes a value on and notes whether it, and so its gradient, may be rounded.
private final class Witness: Operation, @unchecked Sendable {
    static let name = "witness"
    var inputsWereRounded: [Bool] = []

    func shape(_ inputs: [Shape]) -> Shape { inputs[0] }
    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        saved.tensors = inputs
        return inputs[0]
    }
    func backward(_ context: BackwardContext) -> [Tensor?] {
        inputsWereRounded += context.rounded
        return [context.gradient]
    }
}

@Suite struct TapeTests {
    @Test func aValueUsedTwiceAddsItsGradients() throws {
        let x = Tape.leaf(Tensor([1, 2, 3], [3]))
        let tape = Tape()
        // y = x² used twice: d(y·y + 3y)/dx = 4x³ + 6x.
        let output = tape.record {
            let y = x * x
            return y * y + y * 3
        }
        #expect(try #require(tape.gradients(of: output)[x]).scalars == [10, 44, 126])
    }

    /// x · w keeps x and w, the square keeps its operand twice, the sum keeps nothing, and a view is no second copy.
    @Test func savedBytesCountsEachPieceOnce() {
        let (x, w) = (Tensor(repeating: 1, [4, 8]), Tape.leaf(Tensor(repeating: 2, [4, 8])))
        let tape = Tape()
        let output = tape.record {
            let y = x * w
            return (y * y.reshaped([4, 8])).sum()
        }
        #expect(tape.savedBytes() == 3 * 32 * 4)
        #expect(tape.savedBytes(besides: [x, w]) == 32 * 4)
        _ = tape.gradients(of: output)
        #expect(tape.savedBytes() == 0)
    }

    /// x → layerNorm → linear with GELU, read by two → a product of both: of the normalised tensor and of what GELU gives
    /// nothing is kept, and the gradients have the bits that they have with both kept.
    @Test func cheapResultsAreComputedAgain() throws {
        let x = Tape.leaf(Tensor((0..<32).map { Float($0 * 37 % 19) - 9 }, [4, 8]))
        let w = Tape.leaf(Tensor((0..<48).map { Float($0 * 29 % 23) / 11 - 1 }, [6, 8]))
        func gradients(keeping: (Tensor) -> Tensor) throws -> (Int, [[Float]]) {
            let tape = Tape()
            let output = tape.record {
                let normal = keeping(layerNorm(x, weight: nil, bias: nil, epsilon: 1e-5)).reshaped([2, 2, 8])
                let y = keeping(linear(normal, weight: w, activation: .gelu))
                return (y * y).sum() + normal.multiplied(by: normal, transposing: (false, true)).sum()
            }
            let bytes = tape.savedBytes(besides: [x, w])
            let gradients = tape.gradients(of: output)
            return (bytes, [try #require(gradients[x]).scalars, try #require(gradients[w]).scalars])
        }
        let again = try gradients { $0 }
        #expect(again.0 == 4 * (2 * 4 + 4 * 6))  // the statistics and what GELU was given
        let kept = try gradients { $0 + 0 }
        #expect(kept.0 == again.0 + 4 * (4 * 8 + 4 * 6))
        #expect(again.1 == kept.1)
    }

    /// In bfloat16, what only products read again is kept in half of the memory, and the gradients have the bits that they
    /// have with all of it.
    @Test func operandsOfProductsAreKeptRounded() throws {
        var random = RandomGenerator(seed: 3)
        func tensor(_ shape: Shape) -> Tensor {
            Tensor((0..<shape.count).map { _ in random.uniform(-1, 1) }, shape)
        }
        func check(_ shapes: [Shape], _ operation: (Precision) -> any Operation) throws {
            let inputs = shapes.map(tensor)
            var saved = Saved(isNeeded: true)
            let output = operation(.bfloat16).shape(shapes)
            let cotangent = tensor(output)
            _ = operation(.bfloat16).forward(inputs, output, &saved)
            let expected = operation(.bfloat16).backward(
                BackwardContext(
                    gradient: cotangent, inputShapes: shapes, saved: saved.tensors, wanted: shapes.map { _ in true },
                    rounded: shapes.map { _ in false }))
            let leaves = inputs.map(Tape.leaf)
            let bytes = try [Precision.bfloat16, .float32].map { precision in
                let tape = Tape()
                // Results of an operation, as leaves are kept as they are.
                let y = tape.record { apply(operation(precision), leaves.map { $0 + 0 }) }
                let bytes = tape.savedBytes()
                let gradients = tape.gradients(of: y, cotangent: cotangent)
                if precision == .bfloat16 {
                    for (leaf, expected) in zip(leaves, expected) {
                        let (taped, expected) = (try #require(gradients[leaf]), try #require(expected))
                        #expect(taped.scalars == expected.scalars)
                    }
                }
                return bytes
            }
            #expect(bytes[0] < bytes[1] * 6 / 10, "\(bytes)")
        }
        try check([[4, 64, 96]]) {
            Attention(
                heads: 2, isPacked: true, hasBias: false, scale: 0.3, dropout: 0, seed: 0, precision: $0)
        }
        try check([[300, 64], [80, 64]]) {
            LinearOperation(activation: .gelu, hasBias: false, hasResidual: false, precision: $0)
        }
        try check([[6, 40, 32], [6, 32, 50]]) {
            MatrixProduct(transposesLeft: false, transposesRight: false, precision: $0)
        }
    }

    /// In bfloat16, a result that only products will read is held in half of the memory; everyone else sees its values.
    @Test func resultsForProductsAreHeldRounded() {
        var random = RandomGenerator(seed: 4)
        func tensor(_ shape: Shape) -> Tensor {
            Tensor((0..<shape.count).map { _ in random.uniform(-1, 1) }, shape)
        }
        let (x, weight, deep) = (tensor([2, 5, 12]), tensor([9, 12]), tensor([3, 1300]))
        Precision.bfloat16.use {
            let (held, exact) = (linear(x, weight: weight, isForProducts: true), linear(x, weight: weight))
            #expect(held.halves != nil && exact.halves == nil)
            #expect(held.scalars == Tensor(rounding: exact).scalars && held.scalars != exact.scalars)
            #expect((held + 0).halves == nil && (held + 0).scalars == held.scalars)
            let (long, floats) = (linear(deep, weight: deep, isForProducts: true), linear(deep, weight: deep))
            #expect(long.halves != nil && long.scalars == Tensor(rounding: floats).scalars)
            let normal = layerNorm(x, weight: nil, bias: nil, epsilon: 1e-5)
            let rounded = layerNorm(x, weight: nil, bias: nil, epsilon: 1e-5, isForProducts: true)
            #expect(rounded.halves != nil && rounded.scalars == Tensor(rounding: normal).scalars)
            let (mixed, mean) = (attention(packed: x, heads: 2, isForProducts: true), attention(packed: x, heads: 2))
            #expect(mixed.halves != nil && mixed.scalars == Tensor(rounding: mean).scalars)
            // Products of it are those of the exact values, which they would have rounded.
            let next = tensor([4, 9])
            #expect(linear(held, weight: next).scalars == linear(exact, weight: next).scalars)
        }
        #expect(linear(x, weight: weight, isForProducts: true).halves == nil)
        #expect(layerNorm(x, weight: nil, bias: nil, epsilon: 1e-5, isForProducts: true).halves == nil)
    }

    /// What is held rounded has a rounded gradient, also where several products add theirs; nothing else changes much.
    @Test func gradientsOfRoundedValuesAreRounded() throws {
        var random = RandomGenerator(seed: 5)
        func tensor(_ shape: Shape) -> Tensor {
            Tensor((0..<shape.count).map { _ in random.uniform(-1, 1) }, shape)
        }
        let inputs = [[30, 16], [32, 16], [16, 32], [48, 16]].map { tensor($0) }, bias = tensor([32])
        func gradients(isForProducts: Bool, seen: Witness) throws -> [Tensor] {
            let leaves = (inputs + [bias]).map(Tape.leaf)
            let (x, w1, w2, w3, b) = (leaves[0], leaves[1], leaves[2], leaves[3], leaves[4])
            let tape = Tape()
            let output = Precision.bfloat16.use {
                tape.record {
                    let normal = apply(
                        seen, [layerNorm(x, weight: nil, bias: nil, epsilon: 1e-5, isForProducts: isForProducts)])
                    let hidden = linear(
                        normal, weight: w1, bias: b, activation: .gelu, isForProducts: isForProducts)
                    let qkv = linear(normal, weight: w3, isForProducts: isForProducts)
                    let mixed = attention(packed: qkv.reshaped([2, 15, 48]), heads: 2, isForProducts: isForProducts)
                    return linear(hidden, weight: w2) + mixed.reshaped([30, 16])
                }
            }
            let all = Precision.bfloat16.use { tape.gradients(of: output, cotangent: inputs[0]) }
            return try leaves.map { try #require(all[$0]) }
        }
        let (rounded, floats) = (Witness(), Witness())
        let expected = try gradients(isForProducts: false, seen: floats)
        for (gradient, expected) in zip(try gradients(isForProducts: true, seen: rounded), expected) {
            let greatest = expected.scalars.map(abs).max()!
            let worst = zip(gradient.scalars, expected.scalars).map { abs($0 - $1) }.max()!
            #expect(worst <= greatest / 64 && gradient.halves == nil)
        }
        #expect(rounded.inputsWereRounded == [true] && floats.inputsWereRounded == [false])
    }

    /// SwitchBack: 8-bit codes forward and for the gradient of the input, a weight's gradient as in 16 bits.
    @Test func switchback() throws {
        var random = RandomGenerator(seed: 6)
        func tensor(_ shape: Shape) -> Tensor {
            Tensor((0..<shape.count).map { _ in random.uniform(-1, 1) }, shape)
        }
        let (x, weight, cotangent) = (tensor([40, 96]), tensor([64, 96]), tensor([40, 64]))
        func run(_ precision: Precision) throws -> [[Float]] {
            let (x, weight) = (Tape.leaf(x), Tape.leaf(weight))
            let tape = Tape()
            let (output, gradients) = precision.use {
                let output = tape.record { linear(x, weight: weight) }
                return (output, tape.gradients(of: output, cotangent: cotangent))
            }
            return [output.scalars, try #require(gradients[x]).scalars, try #require(gradients[weight]).scalars]
        }
        let (codes, wide, exact) = (try run(.switchback), try run(.fastest), try run(.float32))
        #expect(codes[2] == wide[2])
        for place in 0..<2 {
            let greatest = exact[place].map(abs).max()!
            let worst = zip(codes[place], exact[place]).map { abs($0 - $1) }.max()!
            #expect(worst <= 0.015 * greatest)
            #expect((codes[place] == wide[place]) == !tk_has_fast_int8())
        }
    }

    /// A tensor of another tape, which ends first: its values are kept, as nobody could compute them again.
    @Test func resultsOfAnotherTapeAreKept() throws {
        let (x, w) = (Tape.leaf(Tensor([-1, 0.5, 2], [3])), Tape.leaf(Tensor([1, 1, 1], [3])))
        let (first, second) = (Tape(), Tape())
        let y = first.record { x.gelu() }
        let product = second.record { (y * w).sum() }
        _ = first.gradients(of: y, cotangent: y)
        #expect(try #require(second.gradients(of: product)[w]).scalars == y.scalars)
    }

    @Test func sumsInPlaceLeaveOthersAlone() throws {
        let x = Tape.leaf(Tensor([1, 2], [2]))
        let cotangent = Tensor([10, 20], [2])
        let tape = Tape()
        // x is reached by the cotangent itself (twice), by a reshaped view of it, and by a product.
        let output = tape.record { x + x + x.reshaped([1, 2]).reshaped([2]) + x * 5 }
        #expect(try #require(tape.gradients(of: output, cotangent: cotangent)[x]).scalars == [80, 160])
        #expect(cotangent.scalars == [10, 20])
    }

    @Test func twoLeavesDoNotShareTheirSums() throws {
        let (a, b) = (Tape.leaf(Tensor([1], [1])), Tape.leaf(Tensor([2], [1])))
        let tape = Tape()
        // The gradient of the inner sum reaches a and b as one tensor; then a alone gets more.
        let output = tape.record { a * 7 + (a + b) }
        let gradients = tape.gradients(of: output)
        #expect(try #require(gradients[a]).scalars == [8])
        #expect(try #require(gradients[b]).scalars == [1])
    }

    @Test func leavesThatAreNotReachedHaveNoGradient() throws {
        let (x, y) = (Tape.leaf(Tensor(2)), Tape.leaf(Tensor(3)))
        let tape = Tape()
        let output = tape.record { x * x + y.detached }
        let gradients = tape.gradients(of: output)
        #expect(try #require(gradients[x]).scalar == 4)
        #expect(gradients[y] == nil)
        #expect(gradients[Tensor(1)] == nil)
    }

    @Test func anOutputWithoutLeavesHasNoGradients() {
        let x = Tape.leaf(Tensor(2))
        let tape = Tape()
        let output = tape.record { Tensor(3) * 2 }
        #expect(tape.nodes.isEmpty)
        #expect(tape.gradients(of: output)[x] == nil)
    }

    @Test func nothingIsRecordedOutsideOrInAPause() {
        let x = Tape.leaf(Tensor(2))
        let tape = Tape()
        _ = x * x
        tape.record { Tape.pause { _ = x * x } }
        #expect(tape.nodes.isEmpty)
        #expect(!Tape.isRecording)
        tape.record { #expect(Tape.isRecording) }
    }

    @Test func aTraceKeepsNamesInputsAndCost() {
        let x = Tape.leaf(Tensor(zeros: [4, 3]))
        let tape = Tape(.trace)
        let y = tape.record { linear(x, weight: Tensor(zeros: [5, 3])).relu().sum() }
        #expect(y.shape == [])
        #expect(tape.nodes.map { type(of: $0.operation!).name } == ["linear", "activation", "sum"])
        #expect(tape.nodes[0].inputs.map(\.shape) == [[4, 3], [5, 3]])
        #expect(tape.cost.multiplyAdds == 60)
    }

    @Test func abstractTensorsHaveShapesAndCost() {
        let x = Tape.leaf(Tensor(abstract: [2, 8, 8, 3]))
        let tape = Tape(.trace)
        let y = tape.record {
            let maps = convolution(x, weight: Tensor(abstract: [16, 3, 3, 3]), padding: Padding(1))
            let pooled = batchNorm(maps, weight: nil, bias: nil, epsilon: 1e-5).output.maxPool(kernel: 2, stride: 2)
            let tokens = pooled.averagePool(kernel: 2, stride: 2).padded([(1, 1, 0)]).rolled(by: 1, axis: 2)
                .reshaped([2, 6, 16])
            return attention(packed: linear(tokens, weight: Tensor(abstract: [48, 16])), heads: 4)
                .gathered([0, 3], axis: 1).softmax(axis: -1).max(axes: [1])
        }
        #expect(y.isAbstract && y.shape == [2, 16])
        let (maps, projection, scores) = (2 * 8 * 8 * 16 * 27, 2 * 6 * 48 * 16, 2 * 4 * 6 * 6 * 8)
        #expect(tape.cost.multiplyAdds == maps + projection + scores)
    }

    @Test func aLongChainIsReleased() {
        let x = Tape.leaf(Tensor(1))
        let tape = Tape()
        let output = tape.record { (0..<100_000).reduce(x) { y, _ in y + 1 } }
        #expect(output.scalar == 100_001)
    }
}
