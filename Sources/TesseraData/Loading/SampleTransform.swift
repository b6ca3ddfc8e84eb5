import Tessera

/// What a loader does to each image: from 8-bit pixels of any size to the floats of one model input.
public protocol SampleTransform: Sendable {
    var height: Int { get }
    var width: Int { get }
    var channels: Int { get }

    /// Writes `height * width * channels` floats. Every random choice must come from `random`, so that a sample depends
    /// on the seed, the epoch and its place in the epoch, never on the thread that made it.
    func apply(_ image: Image, random: inout RandomGenerator, into output: UnsafeMutableBufferPointer<Float>)
}
