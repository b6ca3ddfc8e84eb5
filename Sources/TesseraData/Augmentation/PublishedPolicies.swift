/// The published policies, as data: (operation, probability, magnitude).
extension AugmentationPolicy {
    /// RandAugment's operations.
    static let plain: [ImageOperation] = [
        .autoContrast, .equalize, .invert, .rotate, .posterize, .solarize, .solarizeAdd, .color, .contrast,
        .brightness, .sharpness, .shearX, .shearY, .translateX, .translateY,
    ]

    /// The same, with strengths that grow with the magnitude.
    static let increasing: [ImageOperation] = [
        .autoContrast, .equalize, .invert, .rotate, .posterizeIncreasing, .solarizeIncreasing, .solarizeAdd,
        .colorIncreasing, .contrastIncreasing, .brightnessIncreasing, .sharpnessIncreasing, .shearX, .shearY,
        .translateX, .translateY,
    ]

    static let threeAugment: [ImageOperation] = [
        .solarizeIncreasing, .desaturate, .gaussianBlur,
    ]

    static let weightedThreeAugment: [(ImageOperation, Int)] = [
        (.solarizeIncreasing, 6), (.desaturate, 6), (.gaussianBlur, 6), (.rotate, 3), (.shearX, 2), (.shearY, 2),
        (.posterizeIncreasing, 1), (.autoContrast, 1), (.colorIncreasing, 1), (.sharpnessIncreasing, 1),
        (.contrastIncreasing, 1), (.brightnessIncreasing, 1), (.equalize, 1), (.invert, 1),
    ]

    static let policies: [String: [[Step]]] = [
        "v0": policyV0,
        "v0r": policyV0.map(increasingPosterize),
        "original": policyOriginal,
        "originalr": policyOriginal.map(increasingPosterize),
        "3a": policyThreeAugment,
    ]

    /// The `r` variants differ in one operation.
    private static func increasingPosterize(_ steps: [Step]) -> [Step] {
        steps.map {
            let posterizes = $0.operation == .posterize || $0.operation == .posterizeOriginal
            return posterizes ? Step(.posterizeIncreasing, $0.probability, $0.magnitude) : $0
        }
    }

    private static let policyV0: [[Step]] = [
        [Step(.equalize, 0.8, 1), Step(.shearY, 0.8, 4)],
        [Step(.color, 0.4, 9), Step(.equalize, 0.6, 3)],
        [Step(.color, 0.4, 1), Step(.rotate, 0.6, 8)],
        [Step(.solarize, 0.8, 3), Step(.equalize, 0.4, 7)],
        [Step(.solarize, 0.4, 2), Step(.solarize, 0.6, 2)],
        [Step(.color, 0.2, 0), Step(.equalize, 0.8, 8)],
        [Step(.equalize, 0.4, 8), Step(.solarizeAdd, 0.8, 3)],
        [Step(.shearX, 0.2, 9), Step(.rotate, 0.6, 8)],
        [Step(.color, 0.6, 1), Step(.equalize, 1.0, 2)],
        [Step(.invert, 0.4, 9), Step(.rotate, 0.6, 0)],
        [Step(.equalize, 1.0, 9), Step(.shearY, 0.6, 3)],
        [Step(.color, 0.4, 7), Step(.equalize, 0.6, 0)],
        [Step(.posterize, 0.4, 6), Step(.autoContrast, 0.4, 7)],
        [Step(.solarize, 0.6, 8), Step(.color, 0.6, 9)],
        [Step(.solarize, 0.2, 4), Step(.rotate, 0.8, 9)],
        [Step(.rotate, 1.0, 7), Step(.translateY, 0.8, 9)],
        [Step(.shearX, 0.0, 0), Step(.solarize, 0.8, 4)],
        [Step(.shearY, 0.8, 0), Step(.color, 0.6, 4)],
        [Step(.color, 1.0, 0), Step(.rotate, 0.6, 2)],
        [Step(.equalize, 0.8, 4), Step(.equalize, 0.0, 8)],
        [Step(.equalize, 1.0, 4), Step(.autoContrast, 0.6, 2)],
        [Step(.shearY, 0.4, 7), Step(.solarizeAdd, 0.6, 7)],
        [Step(.posterize, 0.8, 2), Step(.solarize, 0.6, 10)],
        [Step(.solarize, 0.6, 8), Step(.equalize, 0.6, 1)],
        [Step(.color, 0.8, 6), Step(.rotate, 0.4, 5)],
    ]

    private static let policyOriginal: [[Step]] = [
        [Step(.posterizeOriginal, 0.4, 8), Step(.rotate, 0.6, 9)],
        [Step(.solarize, 0.6, 5), Step(.autoContrast, 0.6, 5)],
        [Step(.equalize, 0.8, 8), Step(.equalize, 0.6, 3)],
        [Step(.posterizeOriginal, 0.6, 7), Step(.posterizeOriginal, 0.6, 6)],
        [Step(.equalize, 0.4, 7), Step(.solarize, 0.2, 4)],
        [Step(.equalize, 0.4, 4), Step(.rotate, 0.8, 8)],
        [Step(.solarize, 0.6, 3), Step(.equalize, 0.6, 7)],
        [Step(.posterizeOriginal, 0.8, 5), Step(.equalize, 1.0, 2)],
        [Step(.rotate, 0.2, 3), Step(.solarize, 0.6, 8)],
        [Step(.equalize, 0.6, 8), Step(.posterizeOriginal, 0.4, 6)],
        [Step(.rotate, 0.8, 8), Step(.color, 0.4, 0)],
        [Step(.rotate, 0.4, 9), Step(.equalize, 0.6, 2)],
        [Step(.equalize, 0.0, 7), Step(.equalize, 0.8, 8)],
        [Step(.invert, 0.6, 4), Step(.equalize, 1.0, 8)],
        [Step(.color, 0.6, 4), Step(.contrast, 1.0, 8)],
        [Step(.rotate, 0.8, 8), Step(.color, 1.0, 2)],
        [Step(.color, 0.8, 8), Step(.solarize, 0.8, 7)],
        [Step(.sharpness, 0.4, 7), Step(.invert, 0.6, 8)],
        [Step(.shearX, 0.6, 5), Step(.equalize, 1.0, 9)],
        [Step(.color, 0.4, 0), Step(.equalize, 0.6, 3)],
        [Step(.equalize, 0.4, 7), Step(.solarize, 0.2, 4)],
        [Step(.solarize, 0.6, 5), Step(.autoContrast, 0.6, 5)],
        [Step(.invert, 0.6, 4), Step(.equalize, 1.0, 8)],
        [Step(.color, 0.6, 4), Step(.contrast, 1.0, 8)],
        [Step(.equalize, 0.8, 8), Step(.equalize, 0.6, 3)],
    ]

    private static let policyThreeAugment: [[Step]] = [
        [Step(.solarize, 1.0, 5)],
        [Step(.desaturate, 1.0, 10)],
        [Step(.gaussianBlurRandom, 1.0, 10)],
    ]
}
