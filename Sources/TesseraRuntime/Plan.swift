import CKernels
import Synchronization
import Tessera

/// A compiled forward pass for one image shape: runs any number of images.
///
/// All memory but the outputs is planned and allocated once: an arena for each thread, and the packed weights. A plan
/// that has run only one image has not packed them yet: reading them once is cheaper, and a process that names one
/// picture is done sooner. The results are the same bits for every number of threads and of images.
public final class Plan: @unchecked Sendable {
    public let graph: Graph
    /// What each step of the program computes.
    public let steps: [StepLabel]
    private let program: UnsafeBox<tk_step>
    private let owned: [AnyObject]
    /// What products multiply by, as the graph holds it, by step.
    private let weights: [Int: Storage]
    /// Whether any weight stands in codes: those are always packed.
    private let isQuantized: Bool
    /// Floats that the activations of one image take.
    public let arenaCount: Int
    /// Images that a thread takes through the network at a time.
    private let group: Int
    /// Taken during a run: the memory serves one at a time.
    private let memory = Mutex(Memory())

    private struct Memory {
        var arenas: [Tensor] = []
        var packedWeights: Tensor?
        var hasRun = false
    }

    /// What the activations of a group may take of the second cache, in floats.
    private static let cachedFloats = 192 << 10
    private static let largestGroup = 32

    /// - Parameter graph: of one image, before any rewrite.
    public init(_ graph: Graph) {
        self.graph = graph.optimized()
        let lowering = Lowering(self.graph)
        steps = lowering.labels
        arenaCount = lowering.arena
        group = min(Plan.largestGroup, max(1, Plan.cachedFloats / max(1, arenaCount)))
        program = UnsafeBox(count: lowering.steps.count)
        for (index, step) in lowering.steps.enumerated() { program.pointer[index] = step }
        (owned, weights) = (lowering.owned, lowering.weights)
        isQuantized = lowering.steps.contains { $0.kind == TK_STEP_PRODUCT && $0.product.is_quantized }
    }

    private var description: tk_program {
        tk_program(
            steps: program.pointer, step_count: Int64(steps.count), arena: Int64(arenaCount), group: Int64(group))
    }

    /// Computes the graph's outputs for `images` `[batch, ...]`.
    public func callAsFunction(_ images: Tensor) -> [Tensor] { run(images, events: nil).outputs }

    /// One run, and what each thread did when.
    func profile(_ images: Tensor) -> [tk_event] {
        // A step of shared images falls into a few parts for each thread.
        let capacity = steps.count * (images.shape[0] + 64 * Processor.threads)
        let events = UnsafeBox<tk_event>(count: capacity)
        let count = run(images, events: (events.pointer, capacity)).eventCount
        return (0..<count).map { events.pointer[$0] }
    }

    private func run(
        _ images: Tensor, events: (UnsafeMutablePointer<tk_event>, Int)?
    ) -> (outputs: [Tensor], eventCount: Int) {
        let batch = images.shape[0]
        precondition(
            images.shape.replacing(0, with: 1) == graph.shape(graph.input),
            "a plan for \(graph.shape(graph.input)) cannot run on \(images.shape)")
        let outputs = graph.outputs.map { Tensor(uninitialized: graph.shape($0).replacing(0, with: batch)) }
        let count = memory.withLock { memory in
            if memory.packedWeights == nil, memory.hasRun || batch > 1 || isQuantized {
                memory.packedWeights = packWeights()
            }
            memory.hasRun = true
            while memory.arenas.count < Processor.threads {
                memory.arenas.append(Tensor(uninitialized: [max(1, arenaCount * group)]))
            }
            return withExtendedLifetime((images, outputs)) {
                withUnsafeTemporaryPointers(outputs) { outputs in
                    withUnsafeTemporaryPointers(memory.arenas) { arenas in
                        var description = self.description
                        var run = tk_program_run()
                        (run.images, run.input) = (Int64(batch), images.pointer)
                        (run.outputs, run.arenas) = (outputs, arenas)
                        (run.events, run.event_capacity) = (events?.0, Int64(events?.1 ?? 0))
                        if memory.packedWeights == nil { letGoOfWeights(&run) }
                        return Int(tk_program_execute(&description, &run))
                    }
                }
            }
        }
        return (outputs, count)
    }

    /// Lets a run that reads the weights as they are let go of each behind it: a mapped file is never in memory as a whole.
    private func letGoOfWeights(_ run: inout tk_program_run) {
        run.context = Unmanaged.passUnretained(self).toOpaque()
        run.after_step = { context, step in
            Unmanaged<Plan>.fromOpaque(context!).takeUnretainedValue().weights[Int(step)]?.discard()
        }
    }

    /// Packs the weights of all products, on all threads, into one piece of memory, and lets go of what was packed: a
    /// mapped file of weights and their packed copy are never both in memory.
    private func packWeights() -> Tensor {
        let sizes = steps.indices.map { index in
            let step = program.pointer[index]
            guard step.kind == TK_STEP_PRODUCT else { return 0 }
            var product = step.product
            return Int(tk_packed_size(&product))
        }
        let packed = Tensor(uninitialized: [max(1, sizes.reduce(0, +))])
        var next = packed.mutablePointer
        for (index, size) in sizes.enumerated() where size > 0 {
            program.pointer[index].product.packed = next
            tk_product_pack(&program.pointer[index].product)
            weights[index]?.discard()
            next += size
        }
        return packed
    }
}

private func withUnsafeTemporaryPointers<Result>(
    _ tensors: [Tensor], _ body: (UnsafePointer<UnsafeMutablePointer<Float>?>) -> Result
) -> Result {
    withUnsafeTemporaryAllocation(of: UnsafeMutablePointer<Float>?.self, capacity: max(1, tensors.count)) { pointers in
        for (index, tensor) in tensors.enumerated() { pointers[index] = tensor.mutablePointer }
        return body(UnsafePointer(pointers.baseAddress!))
    }
}
