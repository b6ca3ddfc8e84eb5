import CKernels
import Foundation
import Tessera
import Testing

/// All suites that change the number of threads or the instruction set run one after the other inside this one.
@Suite(.serialized) enum Operations {}

/// One use of an operation, with a slow and obvious way to compute what must come out.
struct OperationCase: Sendable, CustomTestStringConvertible {
    let name: String
    let inputs: [Tensor]
    /// Half of the distance over which differences are taken.
    var step: Float = 1e-2
    /// Inputs that are differentiated; nil: all.
    var differentiated: [Int]?
    let function: @Sendable ([Tensor]) -> Tensor
    let expected: @Sendable ([Slow]) -> Slow

    var testDescription: String { name }

    init(
        _ name: String, _ inputs: [Tensor], step: Float = 1e-2, differentiated: [Int]? = nil,
        _ function: @escaping @Sendable ([Tensor]) -> Tensor, expected: @escaping @Sendable ([Slow]) -> Slow
    ) {
        (self.name, self.inputs, self.step, self.differentiated) = (name, inputs, step, differentiated)
        (self.function, self.expected) = (function, expected)
    }

    /// The value against the slow computation, the gradients against differences, at every instruction set; and that
    /// neither depends on the number of threads.
    func verify() {
        let target = expected(inputs.map(Slow.init))
        atEveryLevel { level in
            let output = function(inputs)
            #expect(output.shape.dimensions == target.shape, "\(name)")
            expectClose(output.scalars.map(Double.init), target.values, 1e-5, "\(name) at \(level)")
            checkGradients(of: self, at: level)
        }
        expectSameBits(name) { [function(inputs)] + gradients().map { $0 ?? Tensor(0) } }
    }

    /// The gradients of Σ cotangent · output; nil for inputs that are not differentiated.
    func gradients() -> [Tensor?] {
        let wanted = differentiated ?? Array(inputs.indices)
        let leaves = inputs.enumerated().map { wanted.contains($0) ? Tape.leaf($1) : $1 }
        let tape = Tape()
        let output = tape.record { function(leaves) }
        let gradients = tape.gradients(of: output, cotangent: cotangent(output.shape))
        return leaves.map { gradients[$0] }
    }

    func cotangent(_ shape: Shape) -> Tensor { random(shape, seed: 4711) }
}

/// An array in double precision that is filled by a function of the index.
struct Slow: Sendable {
    let shape: [Int]
    private(set) var values: [Double]

    init(_ shape: [Int], _ value: ([Int]) -> Double) {
        self.shape = shape
        values = (0..<shape.reduce(1, *)).map { place in
            var (rest, index) = (place, shape)
            for axis in shape.indices.reversed() {
                (rest, index[axis]) = rest.quotientAndRemainder(dividingBy: shape[axis])
            }
            return value(index)
        }
    }

    init(_ tensor: Tensor) {
        shape = tensor.shape.dimensions
        values = tensor.scalars.map(Double.init)
    }

    subscript(_ index: [Int]) -> Double { values[zip(index, shape).reduce(0) { $0 * $1.1 + $1.0 }] }
    subscript(_ index: Int...) -> Double { self[index] }

    func map(_ transform: (Double) -> Double) -> Slow {
        var result = self
        result.values = values.map(transform)
        return result
    }

    /// The value where broadcasting reads this array for `index` of the result.
    func broadcast(_ index: [Int]) -> Double {
        self[zip(index.suffix(shape.count), shape).map { $1 == 1 ? 0 : $0 }]
    }
}

/// Standard normal values.
func random(_ shape: Shape, seed: UInt64 = 1) -> Tensor {
    var generator = RandomGenerator(seed: seed)
    return Tensor((0..<shape.count).map { _ in generator.normal() }, shape)
}

/// Different values around zero, at least 0.05 from each other and from zero: no step of a difference meets a kink.
func spread(_ shape: Shape, seed: UInt64 = 1) -> Tensor {
    var generator = RandomGenerator(seed: seed)
    let order = generator.permutation(shape.count)
    return Tensor(order.map { 0.1 * (Float($0) - Float(shape.count / 2)) + 0.05 }, shape)
}

/// Values between `low` and `high`.
func uniform(_ shape: Shape, _ low: Float, _ high: Float, seed: UInt64 = 1) -> Tensor {
    var generator = RandomGenerator(seed: seed)
    return Tensor((0..<shape.count).map { _ in generator.uniform(low, high) }, shape)
}

/// Runs `body` at every instruction set of this processor.
func atEveryLevel(_ body: (String) -> Void) {
    let before = tk_current_level()
    defer { _ = tk_select_level(before) }
    for level in [TK_PORTABLE, TK_AVX2, TK_AVX512, TK_AMX] where tk_select_level(level) {
        body(String(cString: tk_level_name(level)))
    }
}

/// The largest difference, relative to the largest expected value.
func expectClose(
    _ found: [Double], _ expected: [Double], _ tolerance: Double, _ name: String,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(found.count == expected.count, "\(name)", sourceLocation: sourceLocation)
    let scale = max(expected.map(abs).max() ?? 0, 1e-30)
    for (index, (a, b)) in zip(found, expected).enumerated() where !(abs(a - b) <= tolerance * scale) {
        Issue.record("\(name): element \(index) is \(a), expected \(b)", sourceLocation: sourceLocation)
        return
    }
}

/// The same bits with one, two and five threads.
func expectSameBits(_ name: String, sourceLocation: SourceLocation = #_sourceLocation, _ body: () -> [Tensor]) {
    let before = tk_thread_count()
    defer { tk_set_thread_count(before) }
    let results = [1, 2, 5].map { threads in
        tk_set_thread_count(Int32(threads))
        return body().map { $0.scalars.map(\.bitPattern) }
    }
    #expect(results[0] == results[1] && results[0] == results[2], "\(name)", sourceLocation: sourceLocation)
}

/// Compares directional derivatives with central differences of the loss Σ cotangent · output, which is summed in
/// double precision. Each input is moved along a few random directions of ±1 and along a few single coordinates.
///
/// Float32 outputs of order 1 carry errors of 10⁻⁷, so a difference over 2 · 10⁻² is good to about 10⁻⁵ · √outputs; the
/// tolerance, 2 · 10⁻³ of the largest gradient (times the direction's length), leaves room for the step's own error.
func checkGradients(of operation: OperationCase, at level: String, sourceLocation: SourceLocation = #_sourceLocation) {
    let gradients = operation.gradients()
    var generator = RandomGenerator(seed: 99)
    for (index, input) in operation.inputs.enumerated() {
        guard operation.differentiated?.contains(index) ?? true else { continue }
        guard let gradient = gradients[index] else {
            Issue.record("\(operation.name): input \(index) has no gradient", sourceLocation: sourceLocation)
            continue
        }
        #expect(gradient.shape == input.shape, "\(operation.name)", sourceLocation: sourceLocation)
        let analytic = gradient.scalars.map(Double.init)
        let largest = max(analytic.map(abs).max() ?? 0, 1e-3)
        var directions: [[Float]] = (0..<3).map { _ in
            (0..<input.count).map { _ in generator.next() & 1 == 0 ? 1 : -1 }
        }
        for _ in 0..<min(5, input.count) {
            var direction = [Float](repeating: 0, count: input.count)
            direction[generator.integer(below: input.count)] = 1
            directions.append(direction)
        }
        for direction in directions {
            func loss(_ step: Float) -> Double {
                var inputs = operation.inputs
                inputs[index] = Tensor(zip(input.scalars, direction).map { $0 + step * $1 }, input.shape)
                let output = operation.function(inputs)
                return zip(output.scalars, operation.cotangent(output.shape).scalars)
                    .reduce(0) { $0 + Double($1.0) * Double($1.1) }
            }
            let step = operation.step
            let numeric = (loss(step) - loss(-step)) / (2 * Double(step))
            let exact = zip(analytic, direction).reduce(0) { $0 + $1.0 * Double($1.1) }
            let length = direction.reduce(0) { $0 + Double($1 * $1) }.squareRoot()
            #expect(
                abs(numeric - exact) <= 2e-3 * largest * length,
                "\(operation.name) at \(level), input \(index): difference \(numeric), gradient \(exact)",
                sourceLocation: sourceLocation)
        }
    }
}
