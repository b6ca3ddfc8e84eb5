import CKernels

/// Values rounded to bfloat16, in half of the memory: what a forward pass in ``Precision/bfloat16`` keeps for its products'
/// gradients. They round their operands in any case, and what is rounded twice has the same bits.
package struct Rounded: Sendable {
    package let shape: Shape
    /// Two numbers to a float, as memory only.
    package let memory: Tensor

    /// Memory for an operation to fill.
    package init(uninitialized shape: Shape) {
        self.init(shape, memory: Tensor(uninitialized: [(shape.count + 1) / 2]))
    }

    package init(_ shape: Shape, memory: Tensor) { (self.shape, self.memory) = (shape, memory) }

    package init(_ tensor: Tensor) {
        self.init(uninitialized: tensor.shape)
        withExtendedLifetime((tensor, memory)) { tk_halve(tensor.pointer, pointer, Int64(shape.count)) }
    }

    /// Valid while the memory lives.
    package var pointer: UnsafeMutablePointer<UInt16> {
        UnsafeMutableRawPointer(memory.mutablePointer).assumingMemoryBound(to: UInt16.self)
    }

    /// The values in float32.
    package var widened: Tensor {
        let result = Tensor(uninitialized: shape)
        withExtendedLifetime((memory, result)) { tk_widen(pointer, result.mutablePointer, Int64(shape.count)) }
        return result
    }
}
