import Tessera

/// A backbone whose stages halve the resolution: what detection and segmentation stand on.
public protocol FeaturePyramid: ImageClassifier {
    /// The maps `[batch, height, width, channels]` after each stage, the finest first.
    func pyramid(_ image: Tensor) -> [Tensor]

    /// Image pixels between two neighbours of each map, such as 4, 8, 16, 32.
    var pyramidStrides: [Int] { get }

    /// Channels of each map.
    var pyramidChannels: [Int] { get }
}

/// A pyramid whose answer follows from its maps, so that one forward pass gives both.
public protocol PyramidClassifier: FeaturePyramid {
    /// What the model makes of the maps that ``FeaturePyramid/pyramid(_:)`` gave.
    func features(of maps: [Tensor]) -> Features
}

extension PyramidClassifier {
    public func features(_ image: Tensor) -> Features { features(of: pyramid(image)) }
}
