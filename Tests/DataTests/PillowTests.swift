import Foundation
import Tessera
import Testing

@testable import TesseraData

/// Resizing and augmentation against what Pillow made of the same image, bit for bit.
@Suite struct PillowTests {
    @Test func resize() throws {
        let fixture = try Fixture("pil_resize")
        let image = try fixture.image("input.image")
        var checked = 0
        for name in fixture.names {
            let parts = name.split(separator: ".").map(String.init)
            guard parts.count == 3, let filter = Resampling(rawValue: parts[1]) else { continue }
            let expected = try fixture.image(name)
            #expect(
                image.resized(height: expected.height, width: expected.width, filter: filter) == expected, "\(name)")
            checked += 1
        }
        #expect(checked == 22)
    }

    /// The same kernels on float tensors, antialiased and plain, against PyTorch's `interpolate`.
    @Test func floatResize() throws {
        let fixture = try Fixture("pil_resize")
        let image = try fixture.image("input.image")
        let input = Tensor(image.pixels.map { Float($0) / 255 }, [1, image.height, image.width, 3])
        var checked = 0
        for name in fixture.names {
            guard let match = name.firstMatch(of: /output\.float_([a-z]+)_([a-z]+)\./) else { continue }
            let shape = try fixture.shape(name)
            let expected = channelsLast(try fixture.floats(name)[...], channels: 3, plane: shape[2] * shape[3])
            let found = input.resized(
                height: shape[2], width: shape[3],
                interpolation: try #require(Interpolation(rawValue: String(match.1))),
                antialias: match.2 == "antialias")
            let error = zip(found.scalars, expected).map { abs($0 - $1) }.max()!
            #expect(error <= 2e-6 * expected.map(abs).max()!, "\(name): \(error)")
            checked += 1
        }
        #expect(checked == 9)
    }

    @Test func cropsThenResize() throws {
        let fixture = try Fixture("pil_resize")
        let image = try fixture.image("input.image")
        let crop = image.cropped(top: 4, left: 7, height: 25, width: 30)
        for size in [16, 40] {
            for filter in [Resampling.bilinear, .bicubic] {
                let expected = try fixture.image("output.resized_crop_\(filter.rawValue).\(size)")
                #expect(crop.resized(height: size, width: size, filter: filter) == expected)
            }
            let shorter = image.resized(shorterSide: size, filter: .bicubic)
            #expect(try shorter == fixture.image("output.shorter_side_bicubic.\(size)"))
            let inner = size * 7 / 8
            let expected = try fixture.image("output.shorter_side_bicubic_centercrop.\(size)_\(inner)")
            #expect(shorter.centerCropped(height: inner, width: inner) == expected)
            let preprocessing = Preprocessing(
                height: inner, width: inner, mean: Preprocessing.imageNetMean, std: Preprocessing.imageNetStd)
            #expect(preprocessing.sized(image) == expected)
        }
    }

    @Test func normalization() throws {
        let fixture = try Fixture("pil_resize")
        let image = try fixture.image("input.image")
        let preprocessing = Preprocessing(
            height: image.height, width: image.width, mean: Preprocessing.imageNetMean,
            std: Preprocessing.imageNetStd)
        let expected = channelsLast(
            try fixture.floats("output.normalized_chw")[...], channels: 3, plane: image.height * image.width)
        for (a, b) in zip(preprocessing(image), expected) { #expect(abs(a - b) < 1e-6) }
    }

    @Test func operations() throws {
        let fixture = try Fixture("randaugment_ops")
        let image = try fixture.image("input.image")
        let arguments = try #require(try fixture.config()["args"] as? [String: [Double]])
        var random = RandomGenerator(seed: 0)
        for (key, list) in arguments {
            let parts = key.split(separator: ".").map(String.init)
            let filter = parts.count > 3 ? try #require(Resampling(rawValue: parts[3])) : .bicubic
            let expected = try fixture.image("output.\(key)")
            let found: Image
            if let operation = ImageOperation(rawValue: parts[0]) {
                let argument = operation.argument(
                    magnitude: parts[1] == "m9" ? 9 : 5, negative: parts[2] == "neg")
                if let value = list.first { #expect(abs(argument - value) < 1e-9, "\(key)") }
                found = operation.apply(
                    image, argument: argument, filter: filter, fill: [124, 116, 104], random: &random)
            } else {
                let map = parts[0] == "TranslateX" ? AffineMap(c: list[0]) : AffineMap(f: list[0])
                found = image.transformed(map, filter: filter, fill: [124, 116, 104])
            }
            let wrong = zip(found.pixels, expected.pixels).count { $0 != $1 }
            #expect(wrong == 0, "\(key): \(wrong) bytes differ")
        }
    }

    @Test func otherChanges() throws {
        let fixture = try Fixture("randaugment_ops")
        let image = try fixture.image("input.image")
        let grey = image.converted(toChannels: 1).converted(toChannels: 3)
        let cases: [(String, Image)] = [
            ("gaussian_blur.0.5", image.gaussianBlurred(radius: 0.5)),
            ("gaussian_blur.1.7", image.gaussianBlurred(radius: 1.7)),
            ("grayscale", grey), ("hflip", image.flippedHorizontally()),
            ("solarize128", image.solarized(threshold: 128)),
            ("jitter.brightness.0.6", image.brightened(0.6)), ("jitter.brightness.1.4", image.brightened(1.4)),
            ("jitter.contrast.0.6", image.contrasted(0.6)), ("jitter.contrast.1.4", image.contrasted(1.4)),
            ("jitter.saturation.0.6", image.saturated(0.6)), ("jitter.saturation.1.4", image.saturated(1.4)),
            ("jitter.hue.-0.1", image.hueShifted(-0.1)), ("jitter.hue.0.25", image.hueShifted(0.25)),
        ]
        for (name, found) in cases {
            let expected = try fixture.image("output.\(name)")
            let wrong = zip(found.pixels, expected.pixels).count { $0 != $1 }
            #expect(wrong == 0, "\(name): \(wrong) bytes differ")
        }
    }

    @Test func greyImagesPassThroughEveryOperation() {
        let image = Image(height: 9, width: 7, channels: 1, pixels: (0..<63).map { UInt8($0 * 4) })
        var random = RandomGenerator(seed: 1)
        for operation in ImageOperation.allCases {
            for magnitude in [0.0, 10] {
                let result = operation.apply(
                    image, argument: operation.argument(magnitude: magnitude, negative: true), filter: .bilinear,
                    fill: [70], random: &random)
                #expect(result.channels == 1 && result.height == 9 && result.width == 7)
            }
        }
    }
}
