import CKernels
import Tessera

/// What each step of a plan costs, beside what the machine can do.
public struct Profile {
    public struct Row {
        public let step: StepLabel
        /// Of a run, summed over threads; the median of the runs.
        public let seconds: Double
        /// For one run.
        public let cost: Cost
    }

    /// A stretch of work of one thread, in seconds since the first one.
    public struct Event {
        public let step: Int
        public let thread: Int
        public let images: Int
        public let start: Double
        public let seconds: Double
    }

    public let rows: [Row]
    /// Of the last run.
    public let events: [Event]
    public let threads: Int
    /// The median time of a run.
    public let seconds: Double
    /// What all threads reach together: multiply-adds a second of products in the caches, and bytes a second of reading.
    public let peakMultiplyAdds: Double
    public let bandwidth: Double

    /// Runs the plan on `images` after one run to warm up.
    public init(_ plan: Plan, images: Tensor, runs: Int, precision: Precision) {
        _ = plan(images)
        var (stepTimes, times) = ([[Double]](repeating: [], count: plan.steps.count), [Double]())
        var last: [tk_event] = []
        for _ in 0..<runs {
            let start = tk_seconds()
            last = plan.profile(images)
            times.append(tk_seconds() - start)
            var sums = [Double](repeating: 0, count: plan.steps.count)
            for event in last { sums[Int(event.step)] += event.end - event.start }
            for (step, sum) in sums.enumerated() { stepTimes[step].append(sum) }
        }
        let batch = images.shape[0]
        rows = zip(plan.steps, stepTimes).map { step, times in
            Row(step: step, seconds: Profile.median(times), cost: step.cost(of: batch))
        }
        let first = last.map(\.start).min() ?? 0
        events = last.map {
            Event(
                step: Int($0.step), thread: Int($0.worker), images: Int($0.images), start: $0.start - first,
                seconds: $0.end - $0.start)
        }
        (threads, seconds) = (Processor.threads, Profile.median(times))
        peakMultiplyAdds = tk_measure_multiply_adds(precision.kernel)
        bandwidth = tk_measure_bandwidth()
    }

    private static func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

    /// The share of the time that all threads had in which any of them worked on a step.
    public var busyShare: Double { rows.reduce(0) { $0 + $1.seconds } / (seconds * Double(threads)) }

    /// A row's multiply-adds as a share of what its time would have allowed.
    public func shareOfPeak(_ row: Row) -> Double {
        Double(row.cost.multiplyAdds) / max(1e-12, row.seconds / Double(threads) * peakMultiplyAdds)
    }

    /// A row's bytes, each operand and result once, as a share of what its time would have allowed.
    public func shareOfBandwidth(_ row: Row) -> Double {
        Double(row.cost.bytes) / max(1e-12, row.seconds / Double(threads) * bandwidth)
    }

    /// The last run in the Trace Event Format, which Perfetto and Chrome show.
    public var trace: JSON {
        let labels = rows.map(\.step)
        let events = events.map { event in
            JSON.object([
                JSON.Member("name", .string(labels[event.step].name)), JSON.Member("ph", .string("X")),
                JSON.Member("ts", JSON(event.start * 1e6)), JSON.Member("dur", JSON(event.seconds * 1e6)),
                JSON.Member("pid", JSON(1)), JSON.Member("tid", JSON(event.thread)),
                JSON.Member(
                    "args",
                    .object([
                        JSON.Member("step", JSON(event.step)),
                        JSON.Member("shape", .string(labels[event.step].shape.description)),
                        JSON.Member("images", JSON(event.images)),
                    ])),
            ])
        }
        return .object([JSON.Member("traceEvents", .array(events)), JSON.Member("displayTimeUnit", .string("ms"))])
    }
}
