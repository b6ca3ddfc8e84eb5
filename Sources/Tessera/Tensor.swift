/// A dense, contiguous, row-major array of `Float`.
///
/// Tensors are values: operations return new ones and never change their operands. Memory is shared by `reshaped` and
/// freed with its last user. A tensor computed under a ``Tape`` remembers how, so that the tape can differentiate or
/// trace it. An *abstract* tensor has a shape and no memory: models run on abstract tensors to count their cost.
public struct Tensor: @unchecked Sendable {
    public let shape: Shape
    package let storage: Storage?
    package let node: Node?

    package init(shape: Shape, storage: Storage?, node: Node? = nil) {
        self.shape = shape
        self.storage = storage
        self.node = node
    }

    /// Uninitialised memory, for an operation to fill through `mutablePointer` before anyone else sees the tensor.
    package init(uninitialized shape: Shape) { self.init(shape: shape, storage: Storage(count: shape.count)) }

    /// Zeros.
    public init(zeros shape: Shape) { self.init(shape: shape, storage: Storage(zeros: shape.count)) }

    /// Copies `scalars`, in row-major order.
    /// - Precondition: their number is the shape's count.
    public init(_ scalars: [Float], _ shape: Shape) {
        precondition(scalars.count == shape.count, "\(scalars.count) scalars do not fill shape \(shape)")
        self.init(uninitialized: shape)
        scalars.withUnsafeBufferPointer { buffer in
            if let base = buffer.baseAddress { mutablePointer.update(from: base, count: buffer.count) }
        }
    }

    /// A scalar: shape `[]`.
    public init(_ scalar: Float) { self.init([scalar], []) }

    /// One value everywhere.
    public init(repeating value: Float, _ shape: Shape) {
        self.init(uninitialized: shape)
        mutablePointer.update(repeating: value, count: shape.count)
    }

    /// Memory written by `body`, which must set every element.
    public init(_ shape: Shape, initializingWith body: (UnsafeMutableBufferPointer<Float>) throws -> Void) rethrows {
        self.init(uninitialized: shape)
        try body(UnsafeMutableBufferPointer(start: mutablePointer, count: shape.count))
    }

    /// Memory that `owner` keeps alive and nobody writes, such as a mapped weight file.
    public init(borrowing pointer: UnsafePointer<Float>, _ shape: Shape, owner: AnyObject) {
        self.init(shape: shape, storage: Storage(borrowing: pointer, count: shape.count, owner: owner))
    }

    /// A shape without memory.
    public init(abstract shape: Shape) { self.init(shape: shape, storage: nil) }

    public var isAbstract: Bool { storage == nil }
    public var count: Int { shape.count }
    public var rank: Int { shape.rank }

    /// All elements in row-major order.
    public var scalars: [Float] { withUnsafeBuffer { Array($0) } }

    /// The only element.
    /// - Precondition: there is exactly one.
    public var scalar: Float {
        precondition(count == 1, "a tensor of shape \(shape) is not one scalar")
        return pointer[0]
    }

    public func withUnsafeBuffer<Result>(_ body: (UnsafeBufferPointer<Float>) throws -> Result) rethrows -> Result {
        try withExtendedLifetime(storage) { try body(UnsafeBufferPointer(start: pointer, count: count)) }
    }

    /// The same values, cut off from the tape: no gradient flows through.
    public var detached: Tensor { Tensor(shape: shape, storage: storage) }

    /// Valid while this tensor lives: keep the tensor alive around its use.
    package var pointer: UnsafePointer<Float> { UnsafePointer(mutablePointer) }

    package var mutablePointer: UnsafeMutablePointer<Float> {
        guard let storage else { preconditionFailure("an abstract tensor of shape \(shape) has no values") }
        return storage.pointer
    }
}
