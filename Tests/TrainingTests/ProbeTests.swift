import Foundation
import Tessera
import TesseraIO
import TesseraModels
import TesseraNN
import Testing

@testable import TesseraTraining

@Suite struct ProbeTests {
    /// Three directions with noise, of random lengths: only the angle tells the class.
    private static func rays(_ seed: UInt64, count: Int) -> FeatureSet {
        var generator = RandomGenerator(seed: seed)
        let labels = (0..<count).map { Int32($0 % 3) }
        let features = Tensor([count, 4]) { buffer in
            for (row, label) in labels.enumerated() {
                let length = 0.1 + 10 * generator.uniform()
                for column in 0..<4 {
                    buffer[4 * row + column] =
                        length * ((column == Int(label) ? 1 : 0) + 0.1 * generator.normal())
                }
            }
        }
        return FeatureSet(features: features, labels: labels)
    }

    @Test func nearestNeighborsCompareAngles() {
        let model = NearestNeighbors(Self.rays(1, count: 30), neighbors: 5, classes: 3)
        #expect(model.accuracy(on: Self.rays(2, count: 300)) == 1)
    }

    /// Two votes of cosine 0.6 and 0.8 weigh less than one of 1 when similarity counts as it should:
    /// e^(1/0.07) > e^(0.8/0.07) + e^(0.6/0.07).
    @Test func votesWeighTheirSimilarity() {
        let known = FeatureSet(
            features: Tensor([3, 4, 4, 3, 5, 0, 0, -1], [4, 2]), labels: [1, 1, 0, 2])
        let answers = { NearestNeighbors(known, neighbors: $0, classes: 3)(Tensor([2, 0], [1, 2])) }
        #expect(answers(3) == [0])
        // More neighbours than there are images is all of them.
        #expect(answers(100) == [0])
        let turned = NearestNeighbors(known, neighbors: 2, classes: 3)(Tensor([3.5, 3.5, 0, -9], [2, 2]))
        #expect(turned == [1, 2])
    }

    @Test func cosineIsTheMeanOfImages() {
        let (a, b) = (Tensor([3, 4, 1, 0], [2, 2]), Tensor([6, 8, 0, 5], [2, 2]))
        let (first, second) = (FeatureSet(features: a, labels: [0, 0]), FeatureSet(features: b, labels: [0, 0]))
        #expect(abs(first.meanCosine(with: second) - 0.5) < 1e-6)
    }

    @Test func minimumOfAQuadratic() {
        let curvatures: [Float] = [1, 10, 100, 1000]
        let minimum = LBFGS.minimum(from: [5, -4, 3, 2], iterations: 100) { point in
            let distances = point.indices.map { point[$0] - Float($0) }
            let gradient = distances.indices.map { curvatures[$0] * distances[$0] }
            return (distances.indices.reduce(0) { $0 + Double(gradient[$1] * distances[$1]) / 2 }, gradient)
        }
        for (found, expected) in zip(minimum, 0...) { #expect(abs(found - Float(expected)) < 1e-2) }
    }

    @Test func linearProbeSeparatesRays() {
        let train = Self.rays(3, count: 300)
        let probe = LinearProbe(train, classes: 3)
        #expect(probe.accuracy(on: Self.rays(4, count: 300)) > 0.97)
        #expect(LinearProbe.penalties.contains(probe.penalty))
        // At the minimum the derivative by the bias vanishes: the classes' mean probabilities are their shares.
        let means = probe(train.features).softmax(axis: -1).mean(axes: [0])
        for mean in means.scalars { #expect(abs(mean - 1 / 3) < 2e-3) }
    }

    /// A model without a head gets the probe for one, and then answers what the probe answers.
    @Test func probeBecomesTheHead() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("tessera-probe-\(UUID())").path
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let file = TesseraIO.ModelConfiguration(
            architecture: "vit_small_patch14_dinov2", classCount: 0,
            modelArguments: try JSON(parsing: #"{"embed_dim": 12, "depth": 1, "num_heads": 2}"#),
            preprocessing: .init(
                inputSize: [3, 28, 28], interpolation: .bicubic, cropFraction: 1, mean: [0, 0, 0], deviation: [1, 1, 1])
        )
        let bare = try file.buildModel()
        bare.initialize(seed: 5)
        // With the layer scales of a new model, all images have nearly the same features.
        for (key, parameter) in bare.parameters where key.hasSuffix("gamma") {
            parameter.value = Tensor(repeating: 1, parameter.shape)
        }
        let run = try RunFolder.create(at: folder + "/bare")
        try run.write(file)
        try run.saveBest(bare.stateDictionary.map { ($0.key, $0.tensor) })
        let images = Tensor([6, 28, 28, 3]) { buffer in
            var generator = RandomGenerator(seed: 6)
            for index in buffer.indices { buffer[index] = generator.normal() }
        }
        let trained = try TrainedModel(run.path)
        let features = trained.compiled.features(images).pooled
        let probe = LinearProbe(FeatureSet(features: features, labels: [0, 1, 2, 0, 1, 2]), classes: 3)
        let out = try RunFolder.create(at: folder + "/probed")
        try trained.write(probe, labels: ["a", "b", "c"], from: run.path, to: out)
        let probed = try TrainedModel(out.path)
        #expect(probed.labels == ["a", "b", "c"])
        let (found, expected) = (probed.compiled(images).scalars, probe(features).scalars)
        let greatest = expected.map(abs).max()!
        for (found, expected) in zip(found, expected) { #expect(abs(found - expected) < 1e-4 * greatest) }
    }
}
