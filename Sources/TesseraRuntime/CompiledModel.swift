import Dispatch
import Synchronization
import Tessera

/// A function of images that is compiled for each image shape and precision that it meets.
///
/// The function must treat the images of a batch independently, as models in evaluation mode do, and the parameters that
/// it uses must not change: plans hold copies of the weights in the order in which products read them.
public final class CompiledModel: @unchecked Sendable {
    private struct Key: Hashable {
        let shape: Shape
        let precision: Precision
        let instructionSet: String
    }

    private let function: (Tensor) -> [Tensor]
    private let annotate: (inout Graph) -> Void
    private let plans = Mutex<[Key: Plan]>([:])

    /// - Parameter function: from images `[batch, height, width, channels]` to tensors whose first axis is the batch
    /// - Parameter annotate: says what a plan should do otherwise than the function, such as ``Graph/quantize(_:names:weights:)``
    public init(
        annotate: @escaping (inout Graph) -> Void = { _ in }, _ function: @escaping (Tensor) -> [Tensor]
    ) {
        (self.annotate, self.function) = (annotate, function)
    }

    /// The function's results for `images`, in the current precision.
    public func callAsFunction(_ images: Tensor) -> [Tensor] { plan(for: images.shape)(images) }

    /// Starts to compile for images of this shape while the caller does something else.
    public func prepare(for shape: Shape) {
        let precision = Precision.current
        DispatchQueue.global(qos: .userInitiated).async { precision.use { _ = self.plan(for: shape) } }
    }

    /// The plan for images of this shape, whatever the extent of the first axis. What is only for training it computes in
    /// ``Precision/wide``.
    public func plan(for shape: Shape) -> Plan {
        let (image, precision) = (shape.replacing(0, with: 1), Precision.current.wide)
        let key = Key(shape: image, precision: precision, instructionSet: Processor.instructionSet)
        return plans.withLock { plans in
            if let plan = plans[key] { return plan }
            var graph = precision.use { Graph(input: image, tracing: function) }
            annotate(&graph)
            let plan = Plan(graph)
            plans[key] = plan
            return plan
        }
    }
}
