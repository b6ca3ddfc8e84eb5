import CKernels

/// A buffer of floats, 64-byte aligned, given back when the last tensor that uses it goes.
package final class Storage: @unchecked Sendable {
    package let pointer: UnsafeMutablePointer<Float>
    package let count: Int
    private let owner: AnyObject?

    /// Whether this memory may be written: it is not someone else's.
    var isOwned: Bool { owner == nil }

    /// Uninitialised memory.
    init(count: Int) {
        self.count = count
        pointer = tk_allocate(Int64(count))
        owner = nil
    }

    /// Zeros. Large buffers stay untouched system pages until they are written.
    init(zeros count: Int) {
        self.count = count
        pointer = tk_allocate_zeroed(Int64(count))
        owner = nil
    }

    /// Memory that `owner` keeps alive, such as a mapped file. It is never written.
    init(borrowing pointer: UnsafePointer<Float>, count: Int, owner: AnyObject) {
        self.count = count
        self.pointer = UnsafeMutablePointer(mutating: pointer)
        self.owner = owner
    }

    /// Lets the system have the memory until it is read again, if it can be read again.
    package func discard() {
        (owner as? any DiscardableMemory)?.discard(UnsafeRawBufferPointer(start: pointer, count: 4 * count))
    }

    deinit {
        if owner == nil { tk_release(pointer, Int64(count)) }
    }
}

/// Memory that the system can take away and fill again when it is read, such as a mapped file's.
package protocol DiscardableMemory: AnyObject {
    func discard(_ bytes: UnsafeRawBufferPointer)
}
