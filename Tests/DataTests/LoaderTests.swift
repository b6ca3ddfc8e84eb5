import Foundation
import Tessera
import Testing

@testable import TesseraData

@Suite struct LoaderTests {
    /// Colour images made from their number; some cannot be read.
    struct Synthetic: Dataset {
        var count = 37
        var broken: Set<Int> = []
        let classNames = ["a", "b", "c"]
        func label(at index: Int) -> Int32 { Int32(index % 3) }
        func name(at index: Int) -> String { "sample \(index)" }
        func image(at index: Int) throws -> Image {
            if broken.contains(index) { throw DataError(name(at: index), "broken") }
            var random = RandomGenerator(seed: UInt64(index))
            return Image(
                height: 10, width: 9, channels: 3, pixels: (0..<270).map { _ in UInt8(random.integer(below: 256)) })
        }
    }

    func loader(_ data: Synthetic = Synthetic(), workers: Int, mixup: Mixup? = Mixup()) throws -> Loader {
        let preprocessing = Preprocessing(
            height: 8, width: 8, mean: Preprocessing.imageNetMean, std: Preprocessing.imageNetStd)
        var augmentation = Augmentation.deit(inputSize: 8)
        augmentation.jitter = [0.3, 0.3, 0.3, 0.1]
        return Loader(
            data, transform: try TrainingTransform(preprocessing, augmentation), batchSize: 4, sampler: .shuffled,
            dropLast: true, workers: workers, seed: 9, mixup: mixup)
    }

    struct Seen: Equatable {
        let values: [Float]
        let labels: [Int32]
        let targets: [Float]?
    }

    func seen(_ batches: Batches) throws -> [Seen] {
        var result: [Seen] = []
        while let batch = try batches.nextBatch() {
            result.append(Seen(values: Array(batch.values), labels: batch.labels, targets: batch.targets))
        }
        return result
    }

    @Test func sameBatchesForAnyNumberOfWorkers() throws {
        let reference = try seen(loader(workers: 0).epoch(2))
        #expect(reference.count == 9)
        for workers in [1, 3] { #expect(try seen(loader(workers: workers).epoch(2)) == reference) }
        #expect(try seen(loader(workers: 0).epoch(3)) != reference)
        #expect(try seen(loader(workers: 2).epoch(2, startingAt: 5)) == Array(reference[5...]))
    }

    /// The second input of an image is the first one's crop and flip without its colours and holes, mixed like it.
    @Test func plainViews() throws {
        let preprocessing = Preprocessing(height: 8, width: 8, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25])
        func batch(_ augmentation: Augmentation, mixup: Mixup? = nil, views: Bool = true) throws -> Batch {
            let transform = try TrainingTransform(preprocessing, augmentation, addsPlainView: views)
            let loader = Loader(Synthetic(), transform: transform, batchSize: 4, workers: 2, seed: 9, mixup: mixup)
            return try #require(try loader.epoch(1).nextBatch())
        }
        var augmentation = Augmentation(crop: .resized(scale: 0.3...1, ratio: 0.75...1.3), flipProbability: 0.5)
        let (geometry, single) = (try batch(augmentation), try batch(augmentation, views: false))
        #expect(geometry.views == 2 && single.views == 1)
        #expect(Array(geometry.values) == Array(single.values))
        #expect(Array(geometry.values(view: 1)) == Array(single.values))

        (augmentation.jitter, augmentation.erasing) = ([0.4, 0.4, 0.4, 0], RandomErasing(probability: 1))
        let coloured = try batch(augmentation)
        #expect(Array(coloured.values(view: 1)) == Array(single.values))
        #expect(Array(coloured.values) != Array(single.values))
        let mixed = try batch(augmentation, mixup: Mixup(cutmixAlpha: 0))
        let plainMixed = try batch(
            Augmentation(crop: augmentation.crop, flipProbability: 0.5), mixup: Mixup(cutmixAlpha: 0))
        #expect(Array(mixed.values(view: 1)) == Array(plainMixed.values) && mixed.targets == plainMixed.targets)
        #expect(Array(mixed.values(view: 1)) != Array(single.values))
    }

    @Test func unreadableSamples() throws {
        let data = Synthetic(broken: [0, 5, 6])
        let replacing = try loader(data, workers: 2, mixup: nil)
        #expect(try seen(replacing.epoch(0)).allSatisfy { $0.labels.count == 4 })

        let plain = Preprocessing(height: 8, width: 8, mean: [0.5, 0.5, 0.5], std: [1, 1, 1])
        let skipping = Loader(data, transform: plain, batchSize: 4, workers: 2, unreadable: .skip)
        let labels = try seen(skipping.epoch(0)).flatMap(\.labels)
        #expect(labels == (0..<37).filter { !data.broken.contains($0) }.map { Int32($0 % 3) })
        #expect(skipping.unreadableSamples.map(\.index) == [0, 5, 6])
        #expect(skipping.unreadableSamples.first?.reason == "sample 0: broken")

        let failing = Loader(data, transform: plain, batchSize: 4, workers: 1, unreadable: .fail)
        #expect(throws: DataError("sample 0", "broken")) { try failing.epoch(0).nextBatch() }
        let hopeless = Loader(Synthetic(count: 4, broken: [0, 1, 2, 3]), transform: plain, batchSize: 4)
        #expect(throws: DataError.self) { try hopeless.epoch(0).nextBatch() }
    }

    @Test func abandonedEpochsStop() throws {
        for _ in 0..<50 { _ = try loader(workers: 3).epoch(0).nextBatch() }
    }
}
