import Foundation
import Tessera

/// What a loader does about an image that cannot be read.
public enum UnreadablePolicy: String, Sendable {
    /// Throws the image's error.
    case fail
    /// Takes the next readable sample of the data set instead, so that batches keep their size: for training.
    case replace
    /// Leaves the sample out, so that nothing is counted twice: for evaluation.
    case skip
}

/// Makes the batches of an epoch ahead of their use on a few threads.
///
/// A batch depends on the seed, the epoch and its step alone: neither the number of workers nor their timing changes a
/// bit, and an epoch may be entered at any step.
public final class Loader: Sendable {
    public let dataset: any Dataset
    public let transform: any SampleTransform
    public let batchSize: Int
    public let sampler: Sampler
    /// Whether the samples that do not fill a batch are left for another epoch.
    public let dropLast: Bool
    /// Threads that prepare batches; 0 prepares each batch when it is asked for.
    public let workers: Int
    public let seed: UInt64
    public let mixup: Mixup?
    public let unreadable: UnreadablePolicy

    let pool: BatchPool
    private let failures = Failures()

    /// - Parameter mixup: Mixes the samples of each batch; batches must then be even.
    public init(
        _ dataset: any Dataset, transform: any SampleTransform, batchSize: Int, sampler: Sampler = .sequential,
        dropLast: Bool = false, workers: Int = 1, seed: UInt64 = 0, mixup: Mixup? = nil,
        unreadable: UnreadablePolicy = .replace
    ) {
        precondition(batchSize > 0 && workers >= 0, "batch size \(batchSize), \(workers) workers")
        self.dataset = dataset
        self.transform = transform
        self.batchSize = batchSize
        self.sampler = sampler
        self.dropLast = dropLast
        self.workers = workers
        self.seed = seed
        self.mixup = mixup
        self.unreadable = unreadable
        pool = BatchPool(capacity: batchSize, transform)
    }

    /// How many samples an epoch visits.
    public var samplesPerEpoch: Int {
        if case .repeated = sampler, dataset.count >= 256 { return dataset.count / 256 * 256 }
        return dataset.count
    }

    /// How many batches an epoch has.
    public var stepsPerEpoch: Int {
        dropLast ? samplesPerEpoch / batchSize : (samplesPerEpoch + batchSize - 1) / batchSize
    }

    /// The batches of an epoch from a step on.
    public func epoch(_ epoch: Int, startingAt step: Int = 0) -> Batches {
        Batches(Epoch(loader: self, number: epoch), from: step)
    }

    /// The samples that could not be read so far: place in the data set and what was wrong, by place.
    public var unreadableSamples: [(index: Int, reason: String)] { failures.sorted }

    fileprivate func note(_ error: any Error, at index: Int) { failures.note("\(error)", at: index) }

    private final class Failures: @unchecked Sendable {
        private let lock = NSLock()
        private var reasons: [Int: String] = [:]

        func note(_ reason: String, at index: Int) { lock.withLock { reasons[index] = reason } }

        var sorted: [(index: Int, reason: String)] {
            lock.withLock { reasons.sorted { $0.key < $1.key }.map { (index: $0.key, reason: $0.value) } }
        }
    }
}

/// One pass over the data: the order of the samples and the random streams of its steps.
struct Epoch: Sendable {
    let loader: Loader
    let order: [Int]
    private let random: RandomGenerator

    init(loader: Loader, number: Int) {
        self.loader = loader
        random = RandomGenerator(seed: loader.seed).fork("loader").fork(UInt64(number))
        order = loader.sampler.order(count: loader.dataset.count, random: random.fork("order"))
    }

    /// Makes the batch of a step.
    func batch(_ step: Int) throws -> Batch {
        let batch = Batch(pool: loader.pool)
        batch.step = step
        let first = step * loader.batchSize
        for place in first..<min(first + loader.batchSize, order.count) {
            guard let (index, image) = try read(order[place]) else { continue }
            var random = random.fork("sample").fork(UInt64(place))
            loader.transform.apply(image, random: &random, into: batch.sample(batch.count))
            batch.indices.append(index)
            batch.labels.append(loader.dataset.label(at: index))
            batch.count += 1
        }
        if let mixup = loader.mixup {
            var random = random.fork("mixup").fork(UInt64(step))
            mixup.apply(to: batch, classes: loader.dataset.classNames.count, random: &random)
        }
        return batch
    }

    /// The sample, or what stands in for it; nil when it is to be left out.
    private func read(_ index: Int) throws -> (Int, Image)? {
        let attempts = loader.unreadable == .replace ? min(loader.dataset.count, 64) : 1
        for offset in 0..<attempts {
            let candidate = (index + offset) % loader.dataset.count
            do {
                return (candidate, try loader.dataset.image(at: candidate))
            } catch {
                if loader.unreadable == .fail || (attempts > 1 && offset == attempts - 1) { throw error }
                loader.note(error, at: candidate)
            }
        }
        if loader.unreadable == .replace {
            throw DataError(loader.dataset.name(at: index), "cannot be read, and there is nothing to take its place")
        }
        return nil
    }
}

/// The batches of one epoch, in order. Not to be shared between threads; letting go of it stops the workers.
public final class Batches: Sequence, IteratorProtocol {
    private let epoch: Epoch
    private let prefetcher: Prefetcher?
    private var step: Int
    private let end: Int

    init(_ epoch: Epoch, from step: Int) {
        self.epoch = epoch
        self.step = step
        end = epoch.loader.stepsPerEpoch
        let workers = epoch.loader.workers
        prefetcher = workers > 0 && step < end ? Prefetcher(epoch, steps: step..<end, workers: workers) : nil
    }

    deinit { prefetcher?.stop() }

    /// The next batch; nil after the last one. Ends early when a batch throws: see ``nextBatch()``.
    public func next() -> Batch? { try? nextBatch() }

    /// The next batch; nil after the last one.
    ///
    /// - Throws: the error of an image that cannot be read, under ``UnreadablePolicy/fail``.
    public func nextBatch() throws -> Batch? {
        while step < end {
            defer { step += 1 }
            let batch = try prefetcher?.take(step) ?? epoch.batch(step)
            if batch.count > 0 { return batch }
        }
        return nil
    }
}
