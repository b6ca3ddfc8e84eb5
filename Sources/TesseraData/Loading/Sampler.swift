import Tessera

/// In which order an epoch visits the samples.
public enum Sampler: Sendable, Equatable {
    /// 0, 1, 2, …
    case sequential
    /// A new permutation every epoch.
    case shuffled
    /// Repeated augmentation (Hoffer et al. 2020, as DeiT samples it): a permutation in which each sample stands
    /// `repeats` times in a row, cut so that an epoch is about as long as the data set and sees 1/`repeats` of it.
    case repeated(Int)

    /// Sample indices in the order of the epoch.
    public func order(count: Int, random: RandomGenerator) -> [Int] {
        var random = random
        switch self {
        case .sequential: return Array(0..<count)
        case .shuffled: return random.permutation(count)
        case .repeated(let repeats):
            return Self.repeated(random.permutation(count), repeats: repeats, replica: 0, of: 1)
        }
    }

    /// The part of a repeated permutation that one of several replicas trains on.
    ///
    /// The repetitions are dealt in turn to the replicas (after wrapping around to a multiple of their number), and each
    /// keeps `floor(floor(n / 256) * 256 / replicas)` of them; data sets of fewer than 256 samples keep n / replicas.
    public static func repeated(_ permutation: [Int], repeats: Int, replica: Int, of replicas: Int) -> [Int] {
        let count = permutation.count
        let total = (count * repeats + replicas - 1) / replicas * replicas
        let kept = (count < 256 ? count : count / 256 * 256) / replicas
        return stride(from: replica, to: total, by: replicas).prefix(kept)
            .map { permutation[$0 % (count * repeats) / repeats] }
    }
}
