import Tessera

/// The operations of RandAugment and AutoAugment, under timm's names, with a magnitude of 0 to 10.
public enum ImageOperation: String, Codable, Sendable, CaseIterable {
    case autoContrast = "AutoContrast"
    case equalize = "Equalize"
    case invert = "Invert"
    case rotate = "Rotate"
    case posterize = "Posterize"
    case posterizeIncreasing = "PosterizeIncreasing"
    case posterizeOriginal = "PosterizeOriginal"
    case solarize = "Solarize"
    case solarizeIncreasing = "SolarizeIncreasing"
    case solarizeAdd = "SolarizeAdd"
    case color = "Color"
    case colorIncreasing = "ColorIncreasing"
    case contrast = "Contrast"
    case contrastIncreasing = "ContrastIncreasing"
    case brightness = "Brightness"
    case brightnessIncreasing = "BrightnessIncreasing"
    case sharpness = "Sharpness"
    case sharpnessIncreasing = "SharpnessIncreasing"
    case shearX = "ShearX"
    case shearY = "ShearY"
    case translateX = "TranslateXRel"
    case translateY = "TranslateYRel"
    case desaturate = "Desaturate"
    case gaussianBlur = "GaussianBlur"
    case gaussianBlurRandom = "GaussianBlurRand"

    /// Whether the sign of the argument is drawn.
    var isSigned: Bool {
        switch self {
        case .rotate, .shearX, .shearY, .translateX, .translateY, .colorIncreasing, .contrastIncreasing,
            .brightnessIncreasing, .sharpnessIncreasing:
            true
        default: false
        }
    }

    /// What a magnitude means: degrees, bits, a threshold, a factor, a share of the side or a radius.
    func argument(magnitude: Double, negative: Bool = false) -> Double {
        let level = magnitude / 10
        let sign: Double = negative ? -1 : 1
        switch self {
        case .autoContrast, .equalize, .invert: return 0
        case .rotate: return sign * 30 * level
        case .shearX, .shearY: return sign * 0.3 * level
        case .translateX, .translateY: return sign * 0.45 * level
        case .posterize: return Double(Int(4 * level))
        case .posterizeIncreasing: return Double(4 - Int(4 * level))
        case .posterizeOriginal: return Double(4 + Int(4 * level))
        case .solarize: return Double(min(256, Int(256 * level)))
        case .solarizeIncreasing: return Double(256 - min(256, Int(256 * level)))
        case .solarizeAdd: return Double(min(128, Int(110 * level)))
        case .color, .contrast, .brightness, .sharpness: return 1.8 * level + 0.1
        case .colorIncreasing, .contrastIncreasing, .brightnessIncreasing, .sharpnessIncreasing:
            return max(0.1, 1 + sign * 0.9 * level)
        case .desaturate: return 0.5 + 0.5 * level
        case .gaussianBlur: return 0.1 + 1.9 * level
        case .gaussianBlurRandom: return level
        }
    }

    /// The changed image. Changes of colour leave a grey image as it is; `fill` has one value for each channel.
    func apply(
        _ image: Image, argument: Double, filter: Resampling, fill: [UInt8], random: inout RandomGenerator
    ) -> Image {
        switch self {
        case .autoContrast: return image.autoContrasted()
        case .equalize: return image.equalized()
        case .invert: return image.inverted()
        case .posterize, .posterizeIncreasing, .posterizeOriginal: return image.posterized(bits: Int(argument))
        case .solarize, .solarizeIncreasing: return image.solarized(threshold: Int(argument))
        case .solarizeAdd: return image.solarizedByAdding(Int(argument))
        case .color, .colorIncreasing: return image.saturated(Float(argument))
        case .contrast, .contrastIncreasing: return image.contrasted(Float(argument))
        case .brightness, .brightnessIncreasing: return image.brightened(Float(argument))
        case .sharpness, .sharpnessIncreasing: return image.sharpened(Float(argument))
        case .desaturate: return image.saturated(Float(max(0, min(1, 1 - argument))))
        case .gaussianBlur: return image.gaussianBlurred(radius: argument)
        case .gaussianBlurRandom:
            let radius = random.uniform(0.1, max(0.1, Float(2 * argument)))
            return image.gaussianBlurred(radius: Double(radius))
        case .rotate, .shearX, .shearY, .translateX, .translateY:
            return image.transformed(map(argument, image), filter: filter, fill: fill)
        }
    }

    private func map(_ argument: Double, _ image: Image) -> AffineMap {
        switch self {
        case .shearX: AffineMap(b: argument)
        case .shearY: AffineMap(d: argument)
        case .translateX: AffineMap(c: argument * Double(image.width))
        case .translateY: AffineMap(f: argument * Double(image.height))
        default: .rotation(degrees: argument, height: image.height, width: image.width)
        }
    }
}
