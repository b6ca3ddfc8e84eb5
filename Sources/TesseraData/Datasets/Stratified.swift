import Tessera

extension Subset {
    /// A part of each class of a data set: `fraction` of its samples, rounded, but at least one.
    ///
    /// The seed and the samples' names decide which ones: a smaller fraction takes some of what a larger one takes.
    public static func stratified(_ base: any Dataset, fraction: Double, seed: UInt64) -> Subset {
        let root = RandomGenerator(seed: seed).fork("fraction")
        var classes: [[(rank: UInt64, index: Int)]] = Array(repeating: [], count: base.classNames.count)
        for index in 0..<base.count {
            var stream = root.fork(base.splitKey(at: index))
            classes[Int(base.label(at: index))].append((stream.next(), index))
        }
        let kept = classes.flatMap { samples in
            let count = min(samples.count, max(1, Int((fraction * Double(samples.count)).rounded())))
            return samples.sorted { $0 < $1 }.prefix(count).map(\.index)
        }
        return Subset(base, indices: kept.sorted())
    }
}
