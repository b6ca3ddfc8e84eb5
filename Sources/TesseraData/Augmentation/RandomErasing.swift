import Foundation
import Tessera

/// Random erasing (Zhong et al. 2017, arXiv 1708.04896) of a rectangle of a normalised image.
public struct RandomErasing: Codable, Sendable, Equatable {
    /// Zeros, one normal number for each channel, or one for each pixel and channel.
    public enum Fill: String, Codable, Sendable {
        case const, rand, pixel
    }

    public var probability: Double
    public var fill: Fill

    public init(probability: Double = 0.25, fill: Fill = .pixel) {
        self.probability = probability
        self.fill = fill
    }

    static let areaFraction: ClosedRange<Float> = 0.02...1 / 3
    static let logAspect = Foundation.log(Float(0.3))

    func apply(
        to image: UnsafeMutableBufferPointer<Float>, height: Int, width: Int, channels: Int,
        random: inout RandomGenerator
    ) {
        guard Double(random.uniform()) < probability else { return }
        for _ in 0..<10 {
            let area = random.uniform(Self.areaFraction.lowerBound, Self.areaFraction.upperBound)
            let aspect = random.uniform(Self.logAspect, -Self.logAspect)
            guard let box = Self.box(area: Double(area), logAspect: Double(aspect), height: height, width: width) else {
                continue
            }
            let top = random.integer(below: height - box.height + 1)
            let left = random.integer(below: width - box.width + 1)
            let colour = (0..<channels).map { _ in fill == .rand ? random.normal() : 0 }
            for y in top..<top + box.height {
                for x in left..<left + box.width {
                    for c in 0..<channels {
                        image[(y * width + x) * channels + c] = fill == .pixel ? random.normal() : colour[c]
                    }
                }
            }
            return
        }
    }

    /// The rectangle of a share of the area and an aspect ratio (height over width); nil when it does not fit.
    static func box(area: Double, logAspect: Double, height: Int, width: Int) -> (height: Int, width: Int)? {
        let target = area * Double(height * width)
        let aspect = exp(logAspect)
        let h = Int((target * aspect).squareRoot().rounded(.toNearestOrEven))
        let w = Int((target / aspect).squareRoot().rounded(.toNearestOrEven))
        return h < height && w < width ? (h, w) : nil
    }
}
