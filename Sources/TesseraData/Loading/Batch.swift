import Foundation

/// The samples of one step.
public final class Batch: @unchecked Sendable {
    /// `[count, height, width, channels]`, row-major.
    public let images: UnsafeMutableBufferPointer<Float>
    /// How many samples there are; the last batch of an epoch may be smaller than the others.
    public internal(set) var count = 0
    public let height: Int
    public let width: Int
    public let channels: Int
    /// One class for each sample.
    public internal(set) var labels: [Int32] = []
    /// Place in the data set of each sample.
    public internal(set) var indices: [Int] = []
    /// `[count, classes]`, row-major: what mixup or cutmix made of the labels; nil without them.
    public internal(set) var targets: [Float]?
    /// Where in the epoch the batch stands.
    public internal(set) var step = 0

    private let pool: BatchPool

    /// The floats of all samples; valid as long as the batch lives.
    public var values: UnsafeBufferPointer<Float> { UnsafeBufferPointer(rebasing: images[..<(count * sampleSize)]) }

    var sampleSize: Int { height * width * channels }

    func sample(_ place: Int) -> UnsafeMutableBufferPointer<Float> {
        UnsafeMutableBufferPointer(rebasing: images[place * sampleSize..<(place + 1) * sampleSize])
    }

    init(pool: BatchPool) {
        self.pool = pool
        (height, width, channels) = (pool.height, pool.width, pool.channels)
        images = pool.take()
    }

    deinit { pool.give(images) }
}

/// Float buffers that are handed from finished batches to new ones, so that a steady epoch allocates no pixels.
final class BatchPool: @unchecked Sendable {
    let height: Int
    let width: Int
    let channels: Int
    private let capacity: Int
    private let lock = NSLock()
    private var free: [UnsafeMutableBufferPointer<Float>] = []
    private let keep = 8

    init(capacity: Int, height: Int, width: Int, channels: Int) {
        self.capacity = capacity * height * width * channels
        (self.height, self.width, self.channels) = (height, width, channels)
    }

    deinit { free.forEach { $0.deallocate() } }

    func take() -> UnsafeMutableBufferPointer<Float> {
        lock.withLock { free.popLast() } ?? .allocate(capacity: capacity)
    }

    func give(_ buffer: UnsafeMutableBufferPointer<Float>) {
        lock.withLock {
            if free.count < keep { free.append(buffer) } else { buffer.deallocate() }
        }
    }
}
