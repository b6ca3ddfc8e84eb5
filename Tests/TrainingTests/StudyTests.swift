import Foundation
import Testing

@testable import TesseraTraining

/// The search itself, with trainers that only pretend.
@Suite struct StudyTests {
    typealias Job = SuccessiveHalving.Job

    /// Trains nothing: a candidate's score is its quality, and a little more with each rung.
    private final class Pretender {
        let qualities: [Double]
        var jobs: [Job] = []
        var broken: Set<Int> = []

        init(_ qualities: [Double]) { self.qualities = qualities }

        func train(_ job: Job) -> SuccessiveHalving.Outcome {
            jobs.append(job)
            return broken.contains(job.candidate) ? .failed : .score(qualities[job.candidate] + 0.01 * Double(job.rung))
        }
    }

    private func jobs(_ pairs: (Int, Int)...) -> [Job] { pairs.map { Job(candidate: $0.0, rung: $0.1) } }

    @Test func rungsAreFactorsApart() {
        #expect(SuccessiveHalving.rungs(3, upTo: 27, eta: 3) == [3, 9, 27])
        #expect(SuccessiveHalving.rungs(3, upTo: 10, eta: 3) == [1, 3, 10])
        #expect(SuccessiveHalving.rungs(3, upTo: 4, eta: 3) == [1, 4])
        #expect(SuccessiveHalving.rungs(1, upTo: 5, eta: 2) == [5])
    }

    /// Nine candidates, η 3: as soon as three are in, the best of them goes on; as soon as three have gone on, the best
    /// of those goes to the end. Then every newcomer that is better than all before goes all the way.
    @Test func promotionsComeFirst() throws {
        let trainer = Pretender([0.1, 0.3, 0.2, 0.6, 0.5, 0.4, 0.7, 0.8, 0.9])
        var search = SuccessiveHalving(candidates: Array(0..<9), epochs: [1, 3, 9], eta: 3)
        #expect(try search.search(train: trainer.train) { _ in })
        #expect(
            trainer.jobs
                == jobs(
                    (0, 0), (1, 0), (2, 0), (1, 1), (3, 0), (3, 1), (4, 0), (5, 0), (4, 1), (3, 2), (6, 0), (6, 1),
                    (6, 2), (7, 0), (7, 1), (7, 2), (8, 0), (8, 1), (8, 2)))
        #expect(search.next == nil)
    }

    /// Fewer than η at a rung: the best goes on alone. Among equals the one that began first.
    @Test func oneAlwaysReachesTheEnd() throws {
        let trainer = Pretender([0.5, 0.5])
        var search = SuccessiveHalving(candidates: [0, 1], epochs: [1, 3, 9], eta: 3)
        #expect(try search.search(train: trainer.train) { _ in })
        #expect(trainer.jobs == jobs((0, 0), (1, 0), (0, 1), (0, 2)))
    }

    @Test func whatFailsCountsNoLonger() throws {
        let trainer = Pretender([0.9, 0.5, 0.4])
        trainer.broken = [0]
        var search = SuccessiveHalving(candidates: [0, 1, 2], epochs: [1, 2], eta: 2)
        #expect(try search.search(train: trainer.train) { _ in })
        #expect(trainer.jobs == jobs((0, 0), (1, 0), (2, 0), (1, 1)))
        var hopeless = SuccessiveHalving(candidates: [0], epochs: [1, 2], eta: 2)
        #expect(try hopeless.search(train: { _ in .failed }) { _ in })
        var empty = SuccessiveHalving(candidates: [], epochs: [1, 2], eta: 2)
        #expect(try empty.search(train: trainer.train) { _ in })
    }

    /// A budget in jobs: nothing begins when it is spent, and the same job is next again.
    @Test func stopsWhenTimeIsUp() throws {
        let trainer = Pretender([0.1, 0.2, 0.3, 0.4])
        var search = SuccessiveHalving(candidates: Array(0..<4), epochs: [1, 3], eta: 2)
        let isDone = try search.search { job in
            trainer.jobs.count == 3 ? .stopped : trainer.train(job)
        } didChange: {
            _ in
        }
        #expect(!isDone && trainer.jobs.count == 3)
        let next = search.next
        #expect(next == Job(candidate: 2, rung: 0))
    }

    /// Stopped after every job, written, read and resumed: the jobs of a search that was not.
    @Test func resumedEqualsNeverStopped() throws {
        let qualities = (0..<20).map { Double(($0 * 7) % 20) / 20 }
        let whole = Pretender(qualities)
        var search = SuccessiveHalving(candidates: Array(0..<20), epochs: [1, 3, 9], eta: 3)
        let begun = search
        #expect(try search.search(train: whole.train) { _ in })

        let parts = Pretender(qualities)
        var stopped = begun
        var isDone = false
        while !isDone {
            let bytes = try JSONEncoder().encode(stopped)
            stopped = try JSONDecoder().decode(SuccessiveHalving.self, from: bytes)
            #expect(stopped.isPossible)
            let before = parts.jobs.count
            isDone = try stopped.search { job in
                parts.jobs.count > before ? .stopped : parts.train(job)
            } didChange: { _ in
            }
        }
        #expect(parts.jobs == whole.jobs && stopped == search)
    }

    @Test func lengthFollowsFromTheTime() {
        // 9 candidates, rungs at R/9, R/3 and R: 9 · 1 + 3 · 2 + 1 · 6 = 21 epochs for R = 9.
        #expect(SuccessiveHalving.expectedEpochs(candidates: 9, rungs: 3, upTo: 9, eta: 3) == 21)
        func longest(_ seconds: Double) -> Int {
            SuccessiveHalving.longest(
                candidates: 9, rungs: 3, eta: 3, secondsPerEpoch: 2, seconds: seconds, limit: 300)
        }
        #expect(longest(42) >= 9 && longest(41) < longest(84))
        #expect(longest(0) == 1 && longest(1e6) == 300)
    }

    @Test func theParetoFrontHasWhatNoOtherBeats() {
        let points: [(cost: Double, score: Double)] = [(3, 0.9), (1, 0.5), (2, 0.4), (1, 0.6), (4, 0.9), (5, 0.95)]
        #expect(paretoFront(points) == [3, 0, 5])
        #expect(paretoFront([]) == [])
    }

    @Test func wordsForAShell() {
        #expect(quotedForShell("a/b-c.1") == "a/b-c.1")
        #expect(quotedForShell("my photos") == "'my photos'")
        #expect(quotedForShell("it's") == #"'it'\''s'"#)
        #expect(quotedForShell("$(rm)") == "'$(rm)'")
    }
}
