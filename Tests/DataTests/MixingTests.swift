import Foundation
import Tessera
import Testing

@testable import TesseraData

/// Mixup, cutmix, erasing and repeated augmentation with the draws of the reference.
@Suite struct MixingTests {
    let fixture: Fixture
    init() throws { fixture = try Fixture("mixup_ema_misc") }

    private func images(_ name: String) throws -> [Float] {
        let values = try fixture.floats(name)
        return stride(from: 0, to: values.count, by: 360)
            .flatMap { channelsLast(values[$0..<$0 + 360], channels: 3, plane: 120) }
    }

    private func check(_ draws: [Mixup.Draw], _ name: String, smoothing: Float = 0) throws {
        var mixed = try images("input.image")
        let weights = Mixup.mix(&mixed, height: 12, width: 10, channels: 3, draws: draws)
        for (a, b) in zip(mixed, try images("output.\(name).image")) { #expect(abs(a - b) < 2e-6) }
        let labels = try fixture.integers("input.label").map { Int32($0) }
        let targets = Mixup.targets(labels: labels, weights: weights, classes: 5, smoothing: smoothing)
        for (a, b) in zip(targets, try fixture.floats("output.\(name).target")) { #expect(abs(a - b) < 1e-6) }
    }

    @Test func mixup() throws { try check(Array(repeating: .mix(0.3), count: 4), "mixup", smoothing: 0.1) }

    @Test func cutmix() throws {
        let box = try fixture.integers("input.cutmix.bbox_yl_yh_xl_xh")
        try check(
            Array(repeating: .cut(rows: box[0]..<box[1], columns: box[2]..<box[3]), count: 4), "cutmix", smoothing: 0.1)
    }

    @Test func mixupOfPairsAndElements() throws {
        let pair = try fixture.floats("input.mixup_pair.lam").map { Mixup.Draw.mix($0) }
        try check(pair + pair.reversed(), "mixup_pair")
        try check(try fixture.floats("input.mixup_elem.lam").map { Mixup.Draw.mix($0) }, "mixup_elem")
    }

    @Test func erasing() throws {
        let draws = try fixture.floats("input.erasing.draws").map { Double($0) }
        let box = try #require(RandomErasing.box(area: draws[1], logAspect: draws[2], height: 12, width: 10))
        var image = [Float](repeating: 1, count: 360)
        for y in Int(draws[3])..<Int(draws[3]) + box.height {
            for x in Int(draws[4])..<Int(draws[4]) + box.width {
                for c in 0..<3 { image[(y * 10 + x) * 3 + c] = 0 }
            }
        }
        let expected = channelsLast(try fixture.floats("output.erasing.const_image")[...], channels: 3, plane: 120)
        #expect(image == expected)
    }

    @Test func repeatedAugmentation() throws {
        let permutation = try fixture.integers("input.repeated_aug.permutation")
        for rank in 0..<2 {
            let order = Sampler.repeated(permutation, repeats: 3, replica: rank, of: 2)
            #expect(try order == fixture.integers("output.repeated_aug.rank\(rank)"))
        }
    }

    @Test func policiesEqualTheReference() throws {
        let url = Fixture.folder.appendingPathComponent("training_recipe/policies.json")
        let json = try #require(try JSONSerialization.jsonObject(with: Data(contentsOf: url)) as? [String: Any])
        for name in ["v0", "v0r", "original", "originalr", "3a"] {
            let expected = try #require((json[name] ?? json["\(name)_policy"]) as? [[[Any]]])
            let found = try #require(AugmentationPolicy.policies[name])
            #expect(found.count == expected.count)
            for (steps, reference) in zip(found, expected) {
                #expect(steps.map(\.operation.rawValue) == reference.map { $0[0] as? String })
                #expect(steps.map(\.probability) == reference.map { ($0[1] as? NSNumber)?.doubleValue })
                #expect(steps.map(\.magnitude) == reference.map { ($0[2] as? NSNumber)?.doubleValue })
            }
        }
        for text in ["rand-m9-mstd0.5-inc1", "rand-m9-n3-p1-t3aw", "original-mstd0.5", "v0r"] {
            #expect(throws: Never.self) { try AugmentationPolicy(text) }
        }
        for text in ["", "random", "rand-x3", "rand-mnan", "v0-m9", "rand-n0"] {
            #expect(throws: DataError.self) { try AugmentationPolicy(text) }
        }
    }
}
