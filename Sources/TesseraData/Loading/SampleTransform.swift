import Tessera

/// What a loader does to each image: from 8-bit pixels of any size to the floats of a model's input, or of several.
public protocol SampleTransform: Sendable {
    var height: Int { get }
    var width: Int { get }
    var channels: Int { get }

    /// How many inputs are made of one image.
    var views: Int { get }

    /// Writes `height * width * channels` floats into each of as many outputs as there are views. Every random choice
    /// must come from `random`, so that a sample depends on the seed, the epoch and its place in the epoch, never on the
    /// thread that made it.
    func apply(_ image: Image, random: inout RandomGenerator, into outputs: [UnsafeMutableBufferPointer<Float>])
}

extension SampleTransform {
    public var views: Int { 1 }
}
