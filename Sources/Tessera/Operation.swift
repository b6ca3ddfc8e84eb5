/// A primitive, described in one place: the shape of its result, how to compute it, its gradient and its cost.
///
/// Three readers use it: eager execution with the ``Tape``, tracing, and the cost counter. An operation is a small value
/// that holds its attributes (strides, axes, rates); tensors are its inputs. It is applied with ``apply(_:_:)``, usually
/// from a method on `Tensor` or a free function in the operation's own file.
public protocol Operation: Sendable {
    /// The name in traces, profiles and tables, such as `linear`.
    static var name: String { get }

    /// The shape of the result.
    /// - Precondition: the inputs fit; a mistake stops the program with both shapes in the message.
    func shape(_ inputs: [Shape]) -> Shape

    /// Computes the result. What the gradient will need goes into `saved`, when `saved.isNeeded`.
    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor

    /// The gradients of the inputs, in their order, given the gradient of the result: nil where `wanted` is false.
    func backward(_ context: BackwardContext) -> [Tensor?]

    /// What one evaluation costs.
    func cost(_ inputs: [Shape], _ output: Shape) -> Cost
}

extension Operation {
    /// Moving data: no multiply-adds.
    public func cost(_ inputs: [Shape], _ output: Shape) -> Cost { Cost(multiplyAdds: 0, inputs, output) }
}

/// An operation that can write its result where a plan wants it.
package protocol DirectOperation: Operation {
    /// Computes what ``Operation/forward(_:_:_:)`` does, into memory of the result's shape.
    func compute(_ inputs: [Tensor], into output: Tensor)
}

extension DirectOperation {
    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        compute(inputs, into: output)
        return output
    }
}

/// An operation whose result is cheap to compute from what it keeps for its gradient in any case: a normalisation, a
/// nonlinearity.
///
/// Nobody keeps such a result for the backward pass. Where another operation would, the ``Tape`` notes who made it, and
/// the backward pass makes it again: with the same bits, unless what it keeps is rounded to bfloat16.
package protocol RecomputableOperation: Operation {
    /// Whether this one can, with its attributes.
    var isRecomputable: Bool { get }

    /// The result, from what ``Operation/forward(_:_:_:)`` saved, by its place there.
    func recompute(_ saved: (_ place: Int) -> Tensor, _ shape: Shape) -> Tensor
}

/// An operation of one input that changes only some places of its gradient: where others have contributed to that
/// already, adding to those places in place is cheaper than a gradient of its own that is mostly zeros.
package protocol AccumulatingOperation: Operation {
    /// Adds the gradient of the input to `sum`.
    func accumulate(_ context: BackwardContext, into sum: Tensor)
}

/// What a forward pass keeps for the backward pass.
public struct Saved {
    /// False when no gradient will be asked for; then nothing should be kept.
    public let isNeeded: Bool
    public var tensors: [Tensor] = []
    /// The places of tensors that only products in bfloat16 will read: they may be kept rounded.
    package var operands: Range<Int> = 0..<0

    /// For a forward pass that nobody will differentiate.
    package static var nothing: Saved { Saved(isNeeded: false) }
}

/// What a backward pass is given.
public struct BackwardContext {
    /// The gradient of the result; it has the result's shape.
    public let gradient: Tensor
    public let inputShapes: [Shape]
    /// What ``Operation/forward(_:_:_:)`` kept.
    public let saved: [Tensor]
    /// For each input, whether anyone will use its gradient.
    public let wanted: [Bool]
    /// For each input, whether it is held in bfloat16: then its gradient may be as well.
    package let rounded: [Bool]
}

/// Multiply-adds and bytes of memory traffic (each operand and result once, in float32).
///
/// Convolutions, linear layers and attention products count, as is the custom in the literature; elementwise work does
/// not.
public struct Cost: Sendable, Equatable {
    public var multiplyAdds: Int
    public var bytes: Int

    public init(multiplyAdds: Int, bytes: Int) {
        self.multiplyAdds = multiplyAdds
        self.bytes = bytes
    }

    public init(multiplyAdds: Int, _ inputs: [Shape], _ output: Shape) {
        self.init(multiplyAdds: multiplyAdds, bytes: 4 * inputs.reduce(output.count) { $0 + $1.count })
    }

    public static func + (a: Cost, b: Cost) -> Cost {
        Cost(multiplyAdds: a.multiplyAdds + b.multiplyAdds, bytes: a.bytes + b.bytes)
    }
}

/// Applies an operation: computes its result now, and notes it on the current ``Tape`` if there is one.
public func apply(_ operation: some Operation, _ inputs: [Tensor]) -> Tensor {
    let inputShapes = inputs.map(\.shape)
    let shape = operation.shape(inputShapes)
    let tape = Tape.current
    if inputs.contains(where: \.isAbstract) {
        let output = Tensor(abstract: shape)
        return tape?.note(operation, inputs, output, .nothing) ?? output
    }
    let isNoted = tape?.notes(inputs) ?? false
    var saved = Saved(isNeeded: isNoted && tape?.purpose == .gradients)
    let output = operation.forward(inputs, shape, &saved)
    assert(output.shape == shape, "\(type(of: operation).name) computed \(output.shape), not \(shape)")
    guard isNoted, let tape else { return output }
    return tape.note(operation, inputs, output, saved)
}
