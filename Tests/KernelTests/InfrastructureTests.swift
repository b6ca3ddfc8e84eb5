import CKernels
import Dispatch
import Foundation
import Synchronization
import Testing

/// How often each index ran.
private final class Visits: Sendable {
    let counts: [Counter]
    let nested: Bool

    final class Counter: Sendable {
        let value = Atomic<Int>(0)
    }

    init(_ count: Int, nested: Bool = false) {
        counts = (0..<count).map { _ in Counter() }
        self.nested = nested
    }

    func run() {
        tk_parallel(
            Int64(counts.count),
            { context, index, worker in
                let visits = Unmanaged<Visits>.fromOpaque(context!).takeUnretainedValue()
                if visits.nested && index % 7 == 0 { Visits(5).expectOnceEach() }
                precondition(worker >= 0 && worker < tk_thread_count())
                visits.counts[Int(index)].value.add(1, ordering: .relaxed)
            }, Unmanaged.passUnretained(self).toOpaque())
    }

    func expectOnceEach() {
        run()
        #expect(counts.allSatisfy { $0.value.load(ordering: .relaxed) == 1 })
    }
}

extension KernelTests {
    @Suite struct Infrastructure {
        @Test func everyIndexRunsOnce() {
            let before = tk_thread_count()
            defer { tk_set_thread_count(before) }
            for threads in [1, 2, 5, 3] as [Int32] {
                tk_set_thread_count(threads)
                #expect(tk_thread_count() == threads)
                for count in [0, 1, 2, 3, 100, 1000] { Visits(count).expectOnceEach() }
                for _ in 0..<2000 { Visits(3).expectOnceEach() }
                Visits(50, nested: true).expectOnceEach()
            }
            tk_set_thread_count(0)
            #expect(tk_thread_count() == 1)
            tk_set_thread_count(100_000)
            #expect(tk_thread_count() == 256)
        }

        @Test func callersOnSeveralThreadsDoNotDisturbEachOther() {
            DispatchQueue.concurrentPerform(iterations: 8) { _ in
                for _ in 0..<200 { Visits(20).expectOnceEach() }
            }
        }

        /// A large buffer comes back where up to a third less is wanted, and keeps its size.
        @Test func largeBuffersAreReusedWhereALittleLarger() {
            tk_trim()
            let before = tk_bytes_in_use()
            let memory = tk_allocate(1_000_000)!
            let held = tk_bytes_in_use() - before
            tk_release(memory, 1_000_000)
            let again = tk_allocate(800_000)!
            #expect(again == memory && tk_bytes_in_use() - before == held)
            let other = tk_allocate(400_000)!
            #expect(other != memory)
            tk_release(again, 800_000)
            let (fourth, third) = (tk_allocate(400_000)!, tk_allocate(1_000_000)!)
            #expect(fourth != memory && third == memory)
            for buffer in [other, fourth] { tk_release(buffer, 400_000) }
            tk_release(third, 1_000_000)
        }

        @Test func memoryIsAlignedZeroedAndCounted() {
            tk_trim()
            let before = tk_bytes_in_use()
            var buffers: [(UnsafeMutablePointer<Float>, Int)] = []
            for count in [0, 1, 15, 17, 100, 129, 1000, 65_535, 65_537, 300_000, 5_000_000] {
                for _ in 0..<2 {
                    let memory = tk_allocate_zeroed(Int64(count))!
                    #expect(UInt(bitPattern: memory) % 64 == 0)
                    #expect((0..<count).allSatisfy { memory[$0] == 0 })
                    for i in 0..<count { memory[i] = 1 }
                    buffers.append((memory, count))
                }
            }
            let held = tk_bytes_in_use() - before
            let wanted = buffers.reduce(0) { $0 + max($1.1 * 4, 64) }
            #expect(held >= wanted - 128 && held <= wanted * 9 / 8 + 64 * 22)
            #expect(tk_peak_bytes() >= held)
            for (memory, count) in buffers { tk_release(memory, Int64(count)) }
            #expect(tk_bytes_in_use() == before)
            let again = tk_allocate_zeroed(300_000)!
            #expect((0..<300_000).allSatisfy { again[$0] == 0 })
            tk_release(again, 300_000)
        }

        @Test func releasedMemoryIsHandedOutAgain() {
            for count in [10, 1000, 300_000] as [Int64] {
                let first = tk_allocate(count)!
                tk_release(first, count)
                let second = tk_allocate(count)!
                #expect(first == second)
                tk_release(second, count)
            }
        }

        /// Sines and cosines of every size, against the C library in double precision: those beyond the range of the vector
        /// code, infinities and NaN among them, each beside ordinary values in one vector.
        @Test func sinesAndCosines() {
            var numbers = TestRandom(seed: 9)
            let scales: [Float] = [0x1p-20, 1, 40, 8191, 1e6, 1e30]
            var x = (0..<600).flatMap { index in numbers.floats(1).map { $0 * scales[index / 100] } }
            x += [0, -0.0, .infinity, 1, .nan, 2, -.infinity, 8192, -8192, 3]
            forEachLevel { name in
                for (function, exact) in [(TK_SINE, sin), (TK_COSINE, cos)] as [(tk_unary, (Double) -> Double)] {
                    var y = [Float](repeating: 0, count: x.count)
                    tk_unary_function(function, x, &y, Int64(x.count))
                    for (x, y) in zip(x, y) {
                        let expected = exact(Double(x))
                        #expect(expected.isNaN ? y.isNaN : abs(Double(y) - expected) <= 2e-7, "\(name): \(x)")
                    }
                }
            }
        }

        @Test func levelsHaveNamesAndCanBeSelected() {
            let best = tk_current_level()
            #expect(tk_level_is_supported(TK_PORTABLE) && tk_level_is_supported(best))
            #expect(String(cString: tk_level_name(TK_AVX512)) == "avx512")
            for level in [TK_PORTABLE, TK_AVX2, TK_AVX512, TK_AMX] {
                let before = tk_current_level()
                #expect(tk_select_level(level) == tk_level_is_supported(level))
                #expect(tk_current_level() == (tk_level_is_supported(level) ? level : before))
            }
            #expect(tk_select_level(best))
        }
    }
}
