import Tessera

/// How an image becomes the input of a model: the fields that timm's `pretrained_cfg` declares, channels last.
///
/// A pixel p of channel c becomes `(p / 255 - mean[c]) / std[c]`.
public struct Preprocessing: Codable, Sendable, Equatable {
    /// What is done about images of another shape than the model's input.
    public enum CropMode: String, Codable, Sendable {
        /// Shorter side to `int(size / cropFraction)`, then the centre.
        case center
        /// Both sides to `int(size / cropFraction)`, then the centre: the shape is not kept.
        case squash
        /// Longer side to the size, the rest filled with the mean colour.
        case border
    }

    /// Height and width of the input.
    public var height: Int
    public var width: Int
    public var interpolation: Resampling
    /// timm's `crop_pct`: which part of the resized image the centre crop keeps.
    public var cropFraction: Double
    public var cropMode: CropMode
    /// One number per channel: one for grey models, three for colour. Their count is the model's channel count.
    public var mean: [Float]
    public var std: [Float]

    public init(
        height: Int, width: Int, interpolation: Resampling = .bicubic, cropFraction: Double = 0.875,
        cropMode: CropMode = .center, mean: [Float], std: [Float]
    ) {
        precondition(mean.count == std.count && (mean.count == 1 || mean.count == 3), "1 or 3 channels")
        self.height = height
        self.width = width
        self.interpolation = interpolation
        self.cropFraction = cropFraction
        self.cropMode = cropMode
        self.mean = mean
        self.std = std
    }

    /// Mean and standard deviation of ImageNet's training images, red, green, blue.
    public static let imageNetMean: [Float] = [0.485, 0.456, 0.406]
    public static let imageNetStd: [Float] = [0.229, 0.224, 0.225]

    /// Means and deviations of well-known small data sets, by the name that ``DataSource`` gives them.
    public static let statistics: [String: (mean: [Float], std: [Float])] = [
        "fashion-mnist": ([0.2860], [0.3530]),
        "mnist": ([0.1307], [0.3081]),
        "cifar-10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        "cifar-100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    ]

    public var channels: Int { mean.count }

    /// The floats of one image.
    public var elementCount: Int { height * width * channels }

    /// The mean as a colour: what geometric augmentations leave in the corners.
    var fillColour: [UInt8] { mean.map { UInt8(max(0, min(255, ($0 * 255).rounded(.toNearestOrEven)))) } }

    /// The image at the model's size and channel count, still 8-bit.
    public func sized(_ image: Image) -> Image {
        let image = image.converted(toChannels: channels)
        if image.height == height && image.width == width { return image }
        let (outerHeight, outerWidth) = (Int(Double(height) / cropFraction), Int(Double(width) / cropFraction))
        let scaled: Image
        switch cropMode {
        case .center where outerHeight == outerWidth:
            scaled = image.resized(shorterSide: outerHeight, filter: interpolation)
        case .center:
            // For inputs that are not square, the smallest size of the image's own shape that covers the target.
            let ratio = max(Double(outerHeight) / Double(image.height), Double(outerWidth) / Double(image.width))
            scaled = image.resized(
                height: max(outerHeight, Int(Double(image.height) * ratio)),
                width: max(outerWidth, Int(Double(image.width) * ratio)), filter: interpolation)
        case .squash:
            scaled = image.resized(height: outerHeight, width: outerWidth, filter: interpolation)
        case .border:
            return bordered(image)
        }
        return scaled.centerCropped(height: height, width: width)
    }

    private func bordered(_ image: Image) -> Image {
        let ratio = min(Double(height) / Double(image.height), Double(width) / Double(image.width))
        let inner = image.resized(
            height: max(1, min(height, Int((Double(image.height) * ratio).rounded()))),
            width: max(1, min(width, Int((Double(image.width) * ratio).rounded()))), filter: interpolation)
        var canvas = Image(height: height, width: width, colour: fillColour)
        let (top, left) = ((height - inner.height) / 2, (width - inner.width) / 2)
        for y in 0..<inner.height {
            let start = (top + y) * canvas.rowBytes + left * channels
            canvas.pixels.replaceSubrange(
                start..<start + inner.rowBytes, with: inner.pixels[y * inner.rowBytes..<(y + 1) * inner.rowBytes])
        }
        return canvas
    }

    /// Writes an image of the right size and channels as normalised floats, `[height, width, channels]`.
    public func normalize(_ image: Image, into output: UnsafeMutableBufferPointer<Float>) {
        precondition(
            image.height == height && image.width == width && image.channels == channels
                && output.count == elementCount,
            "an image of \(image.height)x\(image.width)x\(image.channels) for an input of \(height)x\(width)x\(channels)"
        )
        image.pixels.withUnsafeBufferPointer { pixels in
            for c in 0..<channels {
                let (mean, std) = (mean[c], std[c])
                for i in stride(from: c, to: pixels.count, by: channels) {
                    output[i] = (Float(pixels[i]) / 255 - mean) / std
                }
            }
        }
    }

    /// The model's input for one image, `[height, width, channels]`.
    public func callAsFunction(_ image: Image) -> [Float] {
        let sized = sized(image)
        return [Float](unsafeUninitializedCapacity: elementCount) { buffer, count in
            normalize(sized, into: UnsafeMutableBufferPointer(rebasing: buffer[..<elementCount]))
            count = elementCount
        }
    }
}

extension Preprocessing: SampleTransform {
    /// Evaluation draws no random numbers.
    public func apply(
        _ image: Image, random: inout RandomGenerator, into outputs: [UnsafeMutableBufferPointer<Float>]
    ) {
        normalize(sized(image), into: outputs[0])
    }
}
