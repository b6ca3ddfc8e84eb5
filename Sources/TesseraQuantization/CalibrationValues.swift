import Tessera

/// What calibration images showed of one operand: its greatest values, and a sample to search ranges on.
struct CalibrationValues {
    private(set) var greatest = -Float.infinity
    private(set) var greatestMagnitude: Float = 0
    private(set) var isFinite = true
    /// Every `stride`-th value in the order of images, if values are wanted.
    private(set) var sample: [Float] = []
    private let stride: Int
    private var next = 0

    /// Enough for a search among a few hundred quantizers.
    private static let sampleCount = 1 << 18

    /// - Parameters:
    ///   - total: values of all images
    ///   - channels: the innermost extent; a stride without a common divisor meets all of them
    ///   - keepsSample: whether the search needs values
    init(total: Int, channels: Int, keepsSample: Bool) {
        var stride = keepsSample ? max(1, total / CalibrationValues.sampleCount) : 0
        while stride > 1 && CalibrationValues.divisor(stride, channels) > 1 { stride += 1 }
        self.stride = stride
    }

    private static func divisor(_ a: Int, _ b: Int) -> Int { b == 0 ? a : divisor(b, a % b) }

    mutating func add(_ x: Tensor) {
        x.withUnsafeBuffer { values in
            for value in values {
                greatest = max(greatest, value)
                greatestMagnitude = max(greatestMagnitude, abs(value))
                isFinite = isFinite && value.isFinite
            }
            guard stride > 0 else { return }
            while next < values.count {
                sample.append(values[next])
                next += stride
            }
            next -= values.count
        }
    }
}

/// The range of each channel over all rows.
struct ChannelRanges {
    private var low: [Float] = []
    private var high: [Float] = []

    var ranges: [ClosedRange<Float>] { zip(low, high).map { $0...max($0, $1) } }

    mutating func add(_ x: Tensor) {
        let channels = x.shape[-1]
        if low.isEmpty {
            low = [Float](repeating: .infinity, count: channels)
            high = [Float](repeating: -.infinity, count: channels)
        }
        x.withUnsafeBuffer { values in
            for row in Swift.stride(from: 0, to: values.count, by: channels) {
                for channel in 0..<channels {
                    low[channel] = min(low[channel], values[row + channel])
                    high[channel] = max(high[channel], values[row + channel])
                }
            }
        }
    }
}
