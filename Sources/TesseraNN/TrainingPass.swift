import Tessera

/// Marks a forward pass as training: dropout and stochastic depth draw from its generator and batch norm uses the
/// statistics of the batch. Without one, models run in evaluation mode.
///
/// ```swift
/// let loss = TrainingPass(generator.fork(step)).run { objective(model, batch) }
/// ```
public final class TrainingPass: @unchecked Sendable {
    @TaskLocal public static var current: TrainingPass?

    private var generator: RandomGenerator

    public init(_ generator: RandomGenerator) { self.generator = generator }

    public func run<Result>(_ body: () throws -> Result) rethrows -> Result {
        try TrainingPass.$current.withValue(self, operation: body)
    }

    /// A name for the next random mask; layers draw in the order in which they run.
    public func nextSeed() -> UInt64 { generator.next() }
}
