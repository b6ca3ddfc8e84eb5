import CKernels
import Synchronization

/// A buffer of floats, 64-byte aligned, given back when the last tensor that uses it goes. It may hold its values in
/// bfloat16 (see ``Tensor/init(uninitializedRounded:)``).
package final class Storage: @unchecked Sendable {
    package let count: Int
    private let memory: UnsafeMutablePointer<Float>
    private let owner: AnyObject?
    private let isRounded: Bool
    /// Rounded values in float32, once someone has asked for them.
    private let widened = Mutex<Storage?>(nil)

    /// Whether this memory may be written: it is not someone else's.
    var isOwned: Bool { owner == nil && !isRounded }

    /// Uninitialised memory.
    init(count: Int) {
        self.count = count
        memory = tk_allocate(Int64(count))
        (owner, isRounded) = (nil, false)
    }

    /// Zeros. Large buffers stay untouched system pages until they are written.
    init(zeros count: Int) {
        self.count = count
        memory = tk_allocate_zeroed(Int64(count))
        (owner, isRounded) = (nil, false)
    }

    /// Uninitialised memory for `roundedCount` bfloat16 numbers.
    init(roundedCount count: Int) {
        self.count = count
        memory = tk_allocate(Int64((count + 1) / 2))
        (owner, isRounded) = (nil, true)
    }

    /// Memory that `owner` keeps alive, such as a mapped file. It is never written.
    init(borrowing pointer: UnsafePointer<Float>, count: Int, owner: AnyObject) {
        self.count = count
        memory = UnsafeMutablePointer(mutating: pointer)
        (self.owner, isRounded) = (owner, false)
    }

    /// The values in float32.
    package var pointer: UnsafeMutablePointer<Float> {
        guard let halves else { return memory }
        return widened.withLock { widened in
            if let widened { return widened }
            let floats = Storage(count: count)
            tk_widen(halves, floats.memory, Int64(count))
            widened = floats
            return floats
        }.memory
    }

    /// The values where they are held in bfloat16.
    var halves: UnsafeMutablePointer<UInt16>? {
        isRounded ? UnsafeMutableRawPointer(memory).assumingMemoryBound(to: UInt16.self) : nil
    }

    private var floats: Int { isRounded ? (count + 1) / 2 : count }

    /// The memory that the values take, without what widening them has added.
    var bytes: Int { floats * MemoryLayout<Float>.size }

    /// Lets the system have the memory until it is read again, if it can be read again.
    package func discard() {
        (owner as? any DiscardableMemory)?.discard(UnsafeRawBufferPointer(start: memory, count: bytes))
    }

    deinit {
        if owner == nil { tk_release(memory, Int64(floats)) }
    }
}

/// Memory that the system can take away and fill again when it is read, such as a mapped file's.
package protocol DiscardableMemory: AnyObject {
    func discard(_ bytes: UnsafeRawBufferPointer)
}
