import CKernels
import Tessera
import TesseraModels
import TesseraRuntime
import Testing

/// How plans run: threads, groups, memory, instruction sets, precisions.
@Suite(.serialized) struct ExecutionTests {
    /// Runs `body` with a number of threads, then restores it.
    private func threads<Result>(_ count: Int, _ body: () throws -> Result) rethrows -> Result {
        let before = Processor.threads
        Processor.threads = count
        defer { Processor.threads = before }
        return try body()
    }

    @Test(arguments: PlanCase.all) func sameBitsForAllThreadsAndBatches(_ test: PlanCase) throws {
        let (model, configuration) = try test.model()
        let images = input(configuration, batch: 7)
        for precision in Precision.allCases {
            let results = precision.use {
                let compiled = CompiledModel(everything(model))
                let one = threads(1) { compiled(images).map(\.scalars) }
                // Alone, each image takes the path that divides every step between threads.
                let count = images.count / 7
                let alone = threads(5) {
                    (0..<7).map { i in
                        compiled(
                            Tensor(
                                Array(images.scalars[i * count..<(i + 1) * count]), images.shape.replacing(0, with: 1)))
                    }
                }
                #expect((0..<3).map { output in alone.flatMap { $0[output].scalars } } == one)
                return [
                    one, threads(2) { compiled(images).map(\.scalars) }, threads(5) { compiled(images).map(\.scalars) },
                ]
            }
            #expect(results[1] == results[0])
            #expect(results[2] == results[0])
        }
    }

    /// The first image runs before the weights are packed.
    @Test(arguments: Precision.allCases) func packingChangesNoBit(_ precision: Precision) throws {
        for test in [PlanCase.all[0], PlanCase.all[6]] {
            let (model, configuration) = try test.model()
            let image = input(configuration, batch: 1)
            let results = precision.use {
                let compiled = CompiledModel { [model($0)] }
                return (0..<3).map { _ in compiled(image)[0].scalars }
            }
            #expect(results[0] == results[1] && results[1] == results[2])
        }
    }

    /// Memory that counts what it is asked to let go.
    private final class Lent: DiscardableMemory {
        let memory = UnsafeMutableBufferPointer<Float>.allocate(capacity: 96)
        var discarded = 0

        init() { memory.initialize(repeating: 0.5) }
        deinit { memory.deallocate() }
        func discard(_ bytes: UnsafeRawBufferPointer) { discarded += bytes.count }
    }

    /// A weight of a mapped file is let go behind the first image, which reads it as it is, and when it has been packed.
    @Test(arguments: [1, 2]) func weightsAreLetGo(_ threads: Int) {
        let lent = Lent()
        let weight = Tensor(borrowing: lent.memory.baseAddress!, [8, 12], owner: lent)
        let image = Tensor(repeating: 1, [1, 5, 12])
        let compiled = CompiledModel { [linear($0, weight: weight)] }
        let discarded = self.threads(threads) {
            (0..<3).map { _ in
                #expect(compiled(image)[0].scalars.allSatisfy { $0 == 6 })
                return lent.discarded
            }
        }
        #expect(discarded == [384, 768, 768])
    }

    @Test(arguments: [TK_PORTABLE, TK_AVX2, TK_AVX512]) func agreesAtEveryLevel(_ level: tk_level) throws {
        let before = tk_current_level()
        guard tk_select_level(level) else { return }
        defer { _ = tk_select_level(before) }
        let (model, configuration) = try PlanCase.all[0].model()
        let compiled = CompiledModel { [model($0)] }
        let images = input(configuration, batch: 3)
        #expect(relativeError(compiled(images)[0], model(images)) <= 2e-5)
    }

    /// Both round each operand of a product once; what differs is that sums in another order may round to the neighbour.
    @Test(arguments: [false, true]) func bfloat16StaysWithinItsRounding(_ emulatesTiles: Bool) throws {
        tk_emulate_tiles(emulatesTiles)
        defer { tk_emulate_tiles(false) }
        for test in PlanCase.all {
            let (model, configuration) = try test.model()
            let images = input(configuration, batch: 3)
            let (found, expected) = Precision.bfloat16.use { (CompiledModel { [model($0)] }(images)[0], model(images)) }
            let exact = model(images)
            let error = relativeError(expected, exact)
            #expect(relativeError(found, expected) <= max(error, 4e-3), "\(test)")
            #expect(relativeError(found, exact) <= 2 * error + 4e-3, "\(test)")
        }
    }

    @Test func runsAllocateOnlyTheirOutputs() throws {
        for name in ["vit_tiny_patch16_224", "cct_2_3x2_32"] {
            var configuration = try Registry.entry(name).configuration
            configuration.imageSize = Size(32)
            let model = configuration.makeModel()
            model.initialize(seed: 1)
            let compiled = CompiledModel { [model($0)] }
            for batch in [1, 6] {
                let images = input(configuration, batch: batch)
                threads(1) {
                    for _ in 0..<2 { _ = compiled(images) }
                    let before = tk_allocation_count()
                    for _ in 0..<5 { _ = compiled(images) }
                    #expect(tk_allocation_count() - before == 5, "\(name) with \(batch) images")
                }
            }
        }
    }

    @Test func memoryOfDifferentLifetimesIsShared() throws {
        let model = try Registry.entry("vit_tiny_patch16_224").configuration.makeModel()
        model.initialize(seed: 1)
        let images = Tensor.random([1, 224, 224, 3], seed: 1)
        let compiled = CompiledModel { [model($0)] }
        _ = compiled(images)
        // Twelve layers take no more than one: the residual stream twice, the widest value, and little else.
        let stream = 197 * 192
        #expect(compiled.plan(for: images.shape).arenaCount <= 2 * stream + 4 * stream + 2 * stream)
    }

    @Test func concurrentRunsDoNotDisturbEachOther() async throws {
        let (model, configuration) = try PlanCase.all[6].model()
        let compiled = CompiledModel { [model($0)] }
        let images = input(configuration, batch: 4)
        let expected = compiled(images)[0].scalars
        await withTaskGroup(of: [Float].self) { group in
            for _ in 0..<8 { group.addTask { compiled(images)[0].scalars } }
            for await result in group { #expect(result == expected) }
        }
    }

    @Test func profilesCoverEveryStepAndImage() throws {
        let (model, configuration) = try PlanCase.all[0].model()
        let compiled = CompiledModel { [model($0)] }
        for batch in [1, 4] {
            let images = input(configuration, batch: batch)
            let plan = compiled.plan(for: images.shape)
            let profile = Profile(plan, images: images, runs: 2, precision: .float32)
            #expect(profile.rows.count == plan.steps.count)
            #expect(profile.rows.allSatisfy { $0.seconds >= 0 } && profile.rows.contains { $0.seconds > 0 })
            for step in plan.steps.indices {
                #expect(profile.events.filter { $0.step == step }.reduce(0) { $0 + $1.images } == batch)
            }
            #expect(profile.peakMultiplyAdds > 1e8 && profile.bandwidth > 1e8)
            #expect(profile.trace["traceEvents"]?.array?.count == profile.events.count)
        }
    }
}
