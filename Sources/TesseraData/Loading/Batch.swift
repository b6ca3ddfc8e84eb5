import Foundation

/// The samples of one step.
public final class Batch: @unchecked Sendable {
    /// For each view room for a whole batch, `[views, capacity, height, width, channels]`, row-major.
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

    /// How many inputs were made of each image.
    public let views: Int

    /// The floats of all samples `[count, height, width, channels]` of the first view; valid as long as the batch lives.
    public var values: UnsafeBufferPointer<Float> { values(view: 0) }

    /// The floats of all samples of a view; valid as long as the batch lives.
    public func values(view: Int) -> UnsafeBufferPointer<Float> {
        let start = view * pool.capacity * sampleSize
        return UnsafeBufferPointer(rebasing: images[start..<start + count * sampleSize])
    }

    var sampleSize: Int { height * width * channels }

    /// Where each view of a sample goes.
    func sample(_ place: Int) -> [UnsafeMutableBufferPointer<Float>] {
        (0..<views).map { view in
            let start = (view * pool.capacity + place) * sampleSize
            return UnsafeMutableBufferPointer(rebasing: images[start..<start + sampleSize])
        }
    }

    init(pool: BatchPool) {
        self.pool = pool
        (height, width, channels, views) = (pool.height, pool.width, pool.channels, pool.views)
        images = pool.take()
    }

    deinit { pool.give(images) }
}

/// Float buffers that are handed from finished batches to new ones, so that a steady epoch allocates no pixels.
final class BatchPool: @unchecked Sendable {
    let height: Int
    let width: Int
    let channels: Int
    let views: Int
    /// Samples a batch.
    let capacity: Int
    private let lock = NSLock()
    private var free: [UnsafeMutableBufferPointer<Float>] = []
    private let keep = 8

    init(capacity: Int, _ transform: any SampleTransform) {
        self.capacity = capacity
        (height, width, channels) = (transform.height, transform.width, transform.channels)
        views = transform.views
    }

    deinit { free.forEach { $0.deallocate() } }

    func take() -> UnsafeMutableBufferPointer<Float> {
        lock.withLock { free.popLast() } ?? .allocate(capacity: views * capacity * height * width * channels)
    }

    func give(_ buffer: UnsafeMutableBufferPointer<Float>) {
        lock.withLock {
            if free.count < keep { free.append(buffer) } else { buffer.deallocate() }
        }
    }
}
