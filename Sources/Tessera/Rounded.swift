import CKernels

/// Values held in bfloat16, in half of the memory: what products in ``Precision/bfloat16`` read and keep for their
/// gradients, and the gradients of those values. Products round their operands in any case, and what is rounded twice has
/// the same bits. Everyone else sees float32: the values are widened when an operation first asks for them.
extension Tensor {
    /// Memory in bfloat16 for an operation to fill.
    package init(uninitializedRounded shape: Shape) {
        self.init(shape: shape, storage: Storage(roundedCount: shape.count))
    }

    /// The nearest bfloat16 numbers, cut off from the tape.
    package init(rounding tensor: Tensor) {
        guard tensor.halves == nil else {
            self = tensor.detached
            return
        }
        self.init(uninitializedRounded: tensor.shape)
        withExtendedLifetime((tensor, self)) { tk_halve(tensor.pointer, halves!, Int64(count)) }
    }

    /// The values where they are held in bfloat16. Valid while the tensor lives.
    package var halves: UnsafeMutablePointer<UInt16>? { storage?.halves }

    /// The operand of a product as it is held: floats, or bfloat16 numbers behind a pointer of the same type.
    var operand: (pointer: UnsafePointer<Float>, isRounded: Bool) {
        guard let halves else { return (pointer, false) }
        return (UnsafeRawPointer(halves).assumingMemoryBound(to: Float.self), true)
    }

    /// The same to write a result to.
    var target: (pointer: UnsafeMutablePointer<Float>, isRounded: Bool) {
        let (pointer, isRounded) = operand
        return (UnsafeMutablePointer(mutating: pointer), isRounded)
    }
}
