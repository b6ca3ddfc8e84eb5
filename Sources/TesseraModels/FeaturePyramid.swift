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
