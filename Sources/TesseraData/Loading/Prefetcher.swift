import Foundation

/// Threads that make batches ahead of their use. Whoever is free takes the next step; finished batches wait in a table
/// until they are asked for in order, and nobody runs further ahead than the table is long.
final class Prefetcher: @unchecked Sendable {
    private let epoch: Epoch
    private let end: Int
    private let depth: Int
    private let condition = NSCondition()
    // Guarded by the condition.
    private var nextToMake: Int
    private var nextToTake: Int
    private var finished: [Int: Result<Batch, any Error>] = [:]
    private var stopped = false

    init(_ epoch: Epoch, steps: Range<Int>, workers: Int) {
        self.epoch = epoch
        end = steps.upperBound
        nextToMake = steps.lowerBound
        nextToTake = steps.lowerBound
        depth = 2 * workers + 1
        for number in 0..<min(workers, steps.count) {
            let thread = Thread { [self] in work() }
            thread.name = "loader \(number)"
            thread.stackSize = 1 << 20
            thread.start()
        }
    }

    private func work() {
        while let step = claim() {
            let result = Result { try epoch.batch(step) }
            condition.lock()
            finished[step] = result
            condition.broadcast()
            condition.unlock()
        }
    }

    /// The next step to make, after waiting for room; nil when there is none.
    private func claim() -> Int? {
        condition.lock()
        defer { condition.unlock() }
        while !stopped && nextToMake < end && nextToMake >= nextToTake + depth { condition.wait() }
        guard !stopped && nextToMake < end else { return nil }
        defer { nextToMake += 1 }
        return nextToMake
    }

    /// Waits for the batch of a step. Steps must be taken in order.
    func take(_ step: Int) throws -> Batch {
        condition.lock()
        defer { condition.unlock() }
        while true {
            if let result = finished.removeValue(forKey: step) {
                nextToTake = step + 1
                condition.broadcast()
                return try result.get()
            }
            condition.wait()
        }
    }

    func stop() {
        condition.lock()
        stopped = true
        finished.removeAll()
        condition.broadcast()
        condition.unlock()
    }
}
