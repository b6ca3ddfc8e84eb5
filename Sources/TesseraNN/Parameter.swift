import Tessera

/// A named tensor of a module: a weight that training changes, or a buffer that it does not.
///
/// A parameter is declared with its shape and initialiser and has no memory until ``Module/initialize(seed:)`` or a
/// checkpoint fills it. Until then its tensor is abstract, so the largest model can be built, counted and traced
/// without allocating it.
public final class Parameter {
    /// How a weight is laid out in PyTorch checkpoints, where it differs from ours.
    public enum Layout: Sendable {
        case same
        /// Here `[outputs, height, width, inputs]`, there `[outputs, inputs, height, width]`.
        case convolution
        /// Here `[outputs, inputs]`, there `[outputs, inputs, 1, 1]`: a linear layer written as a convolution.
        case pointwise
    }

    public let shape: Shape
    public let initializer: Initializer
    public let layout: Layout
    /// False for running statistics and fixed tables: they are saved, and never trained.
    public let isTrainable: Bool
    private let node: Node
    private var stored: Tensor?

    public init(_ shape: Shape, _ initializer: Initializer, layout: Layout = .same, isTrainable: Bool = true) {
        self.shape = shape
        self.initializer = initializer
        self.layout = layout
        self.isTrainable = isTrainable
        node = Node(leaf: shape)
    }

    public var isInitialized: Bool { stored != nil }

    /// The values, without a tie to any tape.
    /// - Precondition: a new value has the parameter's shape.
    public var value: Tensor {
        get { stored ?? Tensor(abstract: shape) }
        set {
            precondition(newValue.shape == shape, "a parameter of shape \(shape) cannot hold \(newValue.shape)")
            stored = newValue.detached
        }
    }

    /// The values as a leaf that tapes differentiate with respect to.
    public var tensor: Tensor {
        Tensor(shape: shape, storage: stored?.storage, node: isTrainable ? node : nil)
    }
}
