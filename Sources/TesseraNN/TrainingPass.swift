import Tessera

/// Marks a forward pass as training: dropout and stochastic depth draw from its generator and batch norm uses the
/// statistics of the batch. Without one, models run in evaluation mode.
///
/// ```swift
/// let loss = TrainingPass(generator.fork(step)).run { objective(model, batch) }
/// ```
public final class TrainingPass: @unchecked Sendable {
    @TaskLocal public static var current: TrainingPass?

    /// Whether ``checkpointed(_:_:_:)`` trades time for memory.
    public let checkpointsActivations: Bool
    /// Whether samples that lose a residual branch are left out of it. Without, every step takes the most memory.
    let skipsSamples: Bool
    /// Whether this is the second run of the same step: running statistics have seen the batch already.
    public let isRepetition: Bool
    private var generator: RandomGenerator

    public init(
        _ generator: RandomGenerator, checkpointsActivations: Bool = false, isRepetition: Bool = false,
        skipsSamples: Bool = true
    ) {
        (self.generator, self.skipsSamples) = (generator, skipsSamples)
        (self.checkpointsActivations, self.isRepetition) = (checkpointsActivations, isRepetition)
    }

    /// A pass that draws once more what this one draws from here on.
    var repetition: TrainingPass { TrainingPass(generator, isRepetition: true, skipsSamples: skipsSamples) }

    public func run<Result>(_ body: () throws -> Result) rethrows -> Result {
        try TrainingPass.$current.withValue(self, operation: body)
    }

    /// A name for the next random mask; layers draw in the order in which they run.
    public func nextSeed() -> UInt64 { generator.next() }
}
