import Foundation
import Tessera

/// What is done at random to each training image, in this order: crop, flip, policy, colour jitter, then (after
/// normalisation) erasing.
public struct Augmentation: Codable, Sendable, Equatable {
    public enum Crop: Codable, Sendable, Equatable {
        /// The evaluation's resize and crop.
        case none
        /// A border of zeros of so many pixels, then a crop of the model's size: for inputs of up to about 64 pixels.
        case padded(Int)
        /// A rectangle of a random share of the area and a random aspect ratio, resized to the model's size
        /// (Szegedy et al. 2014).
        case resized(scale: ClosedRange<Double>, ratio: ClosedRange<Double>)
    }

    public var crop: Crop
    public var flipProbability: Double
    /// An ``AugmentationPolicy`` in timm's notation.
    public var policy: String?
    /// Strengths of brightness, contrast, saturation (factors in 1 ± strength) and hue (share of the circle).
    public var jitter: [Double]?
    public var erasing: RandomErasing?

    public init(
        crop: Crop = .none, flipProbability: Double = 0, policy: String? = nil, jitter: [Double]? = nil,
        erasing: RandomErasing? = nil
    ) {
        self.crop = crop
        self.flipProbability = flipProbability
        self.policy = policy
        self.jitter = jitter
        self.erasing = erasing
    }

    /// The DeiT recipe for an input size: padded crops up to 32 pixels, random resized crops above.
    public static func deit(inputSize: Int) -> Augmentation {
        Augmentation(
            crop: inputSize <= 32 ? .padded(4) : .resized(scale: 0.08...1, ratio: 3 / 4...4 / 3),
            flipProbability: 0.5, policy: "rand-m9-mstd0.5-inc1", erasing: RandomErasing())
    }
}

/// A training image's way into the model: ``Augmentation`` around ``Preprocessing``.
public struct TrainingTransform: SampleTransform {
    public let preprocessing: Preprocessing
    public let augmentation: Augmentation
    public let views: Int
    private let policy: AugmentationPolicy?
    private let fill: [UInt8]

    /// - Parameter addsPlainView: make a second input of each image, of the same crop and flip, to which nothing else is
    ///   done
    /// - Throws: `DataError` when the policy is not understood, or a strength is out of range.
    public init(_ preprocessing: Preprocessing, _ augmentation: Augmentation, addsPlainView: Bool = false) throws {
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        views = addsPlainView ? 2 : 1
        policy = try augmentation.policy.map(AugmentationPolicy.init)
        fill = preprocessing.fillColour
        if let jitter = augmentation.jitter, jitter.count != 4 || !jitter.allSatisfy({ (0...1).contains($0) }) {
            throw DataError("colour jitter", "\(jitter); expected 4 strengths (brightness, contrast, saturation, hue)")
        }
        if case .padded(let border) = augmentation.crop, border < 0 {
            throw DataError("crop padding", "\(border); expected 0 or more")
        }
    }

    public var height: Int { preprocessing.height }
    public var width: Int { preprocessing.width }
    public var channels: Int { preprocessing.channels }

    public func apply(
        _ image: Image, random: inout RandomGenerator, into outputs: [UnsafeMutableBufferPointer<Float>]
    ) {
        var image = crop(image, &random)
        if augmentation.flipProbability > 0, Double(random.uniform()) < augmentation.flipProbability {
            image = image.flippedHorizontally()
        }
        for plain in outputs.dropFirst() { preprocessing.normalize(image, into: plain) }
        if let policy {
            image = policy.apply(image, filter: preprocessing.interpolation, fill: fill, random: &random)
        }
        if let jitter = augmentation.jitter { image = Self.jittered(image, jitter, &random) }
        preprocessing.normalize(image, into: outputs[0])
        augmentation.erasing?.apply(to: outputs[0], height: height, width: width, channels: channels, random: &random)
    }

    private func crop(_ original: Image, _ random: inout RandomGenerator) -> Image {
        switch augmentation.crop {
        case .none: return preprocessing.sized(original)
        case .padded(let border):
            let image = preprocessing.sized(original)
            let top = random.integer(below: 2 * border + 1)
            let left = random.integer(below: 2 * border + 1)
            return image.padded(top: border, left: border, bottom: border, right: border)
                .cropped(top: top, left: left, height: height, width: width)
        case .resized(let scale, let ratio):
            let box = Self.randomBox(original, scale, ratio, &random)
            return original.cropped(top: box.top, left: box.left, height: box.height, width: box.width)
                .converted(toChannels: channels)
                .resized(height: height, width: width, filter: preprocessing.interpolation)
        }
    }

    /// Ten tries at a rectangle that fits; then the largest centred one of an allowed ratio.
    static func randomBox(
        _ image: Image, _ scale: ClosedRange<Double>, _ ratio: ClosedRange<Double>, _ random: inout RandomGenerator
    ) -> (top: Int, left: Int, height: Int, width: Int) {
        let area = Double(image.height * image.width)
        for _ in 0..<10 {
            let target = area * Double(random.uniform(Float(scale.lowerBound), Float(scale.upperBound)))
            let aspect = exp(
                Double(random.uniform(Float(log(ratio.lowerBound)), Float(log(ratio.upperBound)))))
            let w = Int((target * aspect).squareRoot().rounded(.toNearestOrEven))
            let h = Int((target / aspect).squareRoot().rounded(.toNearestOrEven))
            guard w > 0 && h > 0 && w <= image.width && h <= image.height else { continue }
            let top = random.integer(below: image.height - h + 1)
            return (top, random.integer(below: image.width - w + 1), h, w)
        }
        let own = Double(image.width) / Double(image.height)
        let allowed = max(ratio.lowerBound, min(ratio.upperBound, own))
        let w = own > allowed ? max(1, Int((Double(image.height) * allowed).rounded())) : image.width
        let h = own < allowed ? max(1, Int((Double(image.width) / allowed).rounded())) : image.height
        return ((image.height - h) / 2, (image.width - w) / 2, h, w)
    }

    private static func jittered(_ image: Image, _ strength: [Double], _ random: inout RandomGenerator) -> Image {
        var result = image
        for kind in random.permutation(4) where strength[kind] > 0 {
            let change = random.uniform(-Float(strength[kind]), Float(strength[kind]))
            switch kind {
            case 0: result = result.brightened(1 + change)
            case 1: result = result.contrasted(1 + change)
            case 2: result = result.saturated(1 + change)
            default: result = result.hueShifted(Double(change))
            }
        }
        return result
    }
}
