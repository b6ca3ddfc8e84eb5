import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraModels
import TesseraNN
import Testing

@testable import TesseraTraining

/// Whether a golden result is at hand: the larger ones are only below TESSERA_FIXTURES.
func hasFixture(_ system: String, _ name: String) -> Bool { (try? fixture(system, name)) != nil }

/// Locality guidance against its reference.
@Suite struct LocalityGuidanceTests {
    typealias Comparison = LocalityGuidanceOptions.Comparison

    static func model(_ name: String, _ arguments: String, seed: UInt64 = 1) throws -> any ImageClassifier {
        var configuration = try Registry.entry(name).configuration
        try configuration.apply(Arguments(parsing: arguments, section: "model"))
        let model = configuration.makeModel()
        model.initialize(seed: seed)
        return model
    }

    /// Square images whose normalisation changes nothing.
    static func size(_ side: Int, _ channels: Int) -> Preprocessing {
        Preprocessing(
            height: side, width: side, mean: [Float](repeating: 0, count: channels),
            std: [Float](repeating: 1, count: channels))
    }

    @Test func lossesFollowTheReference() throws {
        let golden = try fixture("locality_guidance", "losses")
        let (student, teacher) = (golden["input.student_feature"]!, golden["input.teacher_feature"]!)
        func map(_ tensor: Tensor) -> Tensor { tensor.transposed([0, 2, 3, 1]) }
        for comparison in Comparison.allCases {
            let loss = comparison.loss(map(student), map(teacher))
            let expected = golden["output.inter_\(comparison.rawValue)"]!
            #expect(relativeError(loss.scalars, expected.scalars) < 1e-5, "\(comparison)")
        }
        let resized = map(teacher).resized(height: 9, width: 10, interpolation: .bilinear)
        #expect(relativeError(resized.scalars, map(golden["output.teacher_resized"]!).scalars) < 2e-6)
        // What has another size is compared at the larger one.
        let larger = resized + 0.25
        #expect(abs(Comparison.linear.loss(map(teacher), larger).scalar - 0.0625) < 1e-6)
        #expect(abs(Comparison.linear.loss(larger, map(teacher)).scalar - 0.0625) < 1e-6)
        for (name, loss) in [("soft", DistillationLoss.soft), ("hard", .hard)] {
            let found = loss(golden["input.student_logits"]!, golden["input.teacher_logits"]!, temperature: 2)
            #expect(relativeError(found.scalars, golden["output.logit_\(name)"]!.scalars) < 1e-5)
        }
    }

    /// Images for the teacher are made smaller without antialiasing.
    @Test(.enabled(if: hasFixture("locality_guidance", "downsample"))) func imagesAreMadeSmaller() throws {
        let golden = try fixture("locality_guidance", "downsample")
        for side in [16, 20, 32] {
            let arguments = #"{"img_size": \#(side), "depth": 8, "num_classes": 3}"#
            let trained = try Self.trained("cifar_resnet56_c100", arguments, side: side, channels: 3)
            let student = Self.size(56, 3)
            let images = golden["input"]!.transposed([0, 2, 3, 1])
            let found = Teacher(trained, student: student).adapted(images, antialias: false)
            let expected = golden["output.size\(side)"]!.transposed([0, 2, 3, 1])
            // The reference computes places in single precision.
            #expect(relativeError(found.scalars, expected.scalars) < 1e-5)
        }
    }

    static func trained(
        _ name: String, _ arguments: String, side: Int, channels: Int, classes: Int = 3
    ) throws -> TrainedModel {
        try TrainedModel(
            model: model(name, arguments),
            configuration: .init(
                architecture: name, classCount: classes, modelArguments: try JSON(parsing: arguments),
                preprocessing: Self.size(side, channels).file, labels: [], tessera: nil))
    }

    private static let names = [
        ("layers.", "blocks."), ("qkv_transform", "qkv"), ("attn.projection", "attn.proj"),
        ("patch_embed.projection", "patch_embed.proj"),
    ]

    struct Case: Sendable, CustomTestStringConvertible {
        let name: String
        let student: String
        let teacherSide: Int
        let comparison: Comparison
        let pairs: [(block: Int, stage: Int)]

        var testDescription: String { name }
    }

    static let cases = [
        Case(
            name: "deit_linear", student: #""img_size": 48, "embed_dim": 24, "num_heads": 3"#, teacherSide: 16,
            comparison: .linear, pairs: [(0, 0), (1, 1), (2, 2)]),
        Case(
            name: "deit_attention", student: #""img_size": 32, "embed_dim": 16, "num_heads": 2"#, teacherSide: 16,
            comparison: .attention, pairs: [(0, 1), (2, 2)]),
    ].filter { hasFixture("locality_guidance", $0.name) }

    /// Features, losses and gradients, in evaluation mode and in the training mode of the reference.
    @Test(arguments: cases) func followsTheReference(_ test: Case) throws {
        let golden = try fixture("locality_guidance", test.name)
        func parameters(_ prefix: String) -> [String: Tensor] {
            Dictionary(
                uniqueKeysWithValues: golden.compactMap { key, tensor in
                    key.hasPrefix(prefix) ? (String(key.dropFirst(prefix.count)), tensor) : nil
                })
        }
        let student = try Self.model(
            "deit_tiny_patch16_224",
            #"{\#(test.student), "patch_size": 8, "depth": 3, "mlp_ratio": 2, "num_classes": 7, "drop_path_rate": 0}"#)
        func ours(_ key: String) -> String { Self.names.reduce(key) { $0.replacing($1.0, with: $1.1) } }
        try student.load(
            Dictionary(uniqueKeysWithValues: parameters("param.student_model.").map { (ours($0.key), $0.value) }))
        let guide = try #require(
            try Self.model(
                "cifar_resnet56_c100",
                #"{"img_size": \#(test.teacherSide), "depth": 8, "widths": [4, 8, 12], "num_classes": 7}"#)
                as? any FeaturePyramid)
        try guide.load(parameters("param.teacher_model."))

        var options = LocalityGuidanceOptions()
        options.comparison = test.comparison
        (options.blocks, options.stages) = (test.pairs.map(\.block), test.pairs.map(\.stage))
        let width = student.observed(golden["input"]!.transposed([0, 2, 3, 1])).blocks[0].shape[3]
        let teach = { (images: Tensor) in
            Tape.pause {
                guide.pyramid(
                    images.detached.resized(
                        height: test.teacherSide, width: test.teacherSide, interpolation: .bilinear))
            }
        }
        let objective = LocalityGuidance(
            student, teacher: teach, blocks: options.blocks,
            channels: test.pairs.map { (width, guide.pyramidChannels[$0.stage]) }, criterion: Criterion(),
            options: options)
        try objective.companion?.load(parameters("param.").filter { $0.key.hasPrefix("feature_transforms.") })
        #expect((objective.companion == nil) == (test.comparison != .linear))

        let images = Tape.leaf(golden["input"]!.transposed([0, 2, 3, 1]))
        let labels = golden["input.label"]!.scalars.map { Int32($0) }
        let batch = TrainingBatch(
            images: images, labels: labels, targets: smoothedTargets(labels, classes: 7, smoothing: 0))
        for (index, map) in teach(images).enumerated() {
            let expected = golden["feature.teacher\(index)"]!.transposed([0, 2, 3, 1])
            #expect(relativeError(map.scalars, expected.scalars) < 2e-5)
        }
        for (index, map) in student.observed(images).blocks.enumerated() {
            guard let expected = golden["feature.student\(index)"] else { continue }
            #expect(relativeError(map.scalars, expected.transposed([0, 2, 3, 1]).scalars) < 2e-5)
        }
        let moment = TrainingMoment(epoch: 0, epochs: 1, update: 0, updates: 1, random: RandomGenerator(seed: 1))
        let tape = Tape()
        let value = tape.record { objective(batch, at: moment) }
        let guidance = objective.guidance(student.observed(images).blocks, teach(images))
        for (name, found) in [
            ("logits", value.logits!), ("loss", value.loss), ("loss_guidance", guidance),
            ("loss_cls", value.loss - guidance * 2.5),
        ] {
            #expect(relativeError(found.scalars, golden["output.\(name)"]!.scalars) < 2e-5, "\(name)")
        }
        let gradients = tape.gradients(of: value.loss)
        let input = gradients[images]!.transposed([0, 3, 1, 2])
        #expect(relativeError(input.scalars, golden["grad_input"]!.scalars) < 5e-5)
        var compared = 0
        for (prefix, module) in [("student_model.", student as Module), ("", objective.companion)].compactMap({
            prefix, module in module.map { (prefix, $0) }
        }) {
            let expected = Dictionary(
                uniqueKeysWithValues: parameters("grad.\(prefix)").map { (ours($0.key), $0.value) })
            for (key, parameter) in module.parameters where parameter.isTrainable {
                let found = parameter.exported(gradients[parameter.tensor] ?? Tensor(zeros: parameter.shape))
                #expect(relativeError(found.scalars, expected[key]!.scalars) < 5e-5, "\(key)")
                compared += 1
            }
        }
        #expect(compared == parameters("grad.").count)

        // The norms of the guide with the statistics of the batch, which move their running means.
        let trained = TrainingPass(RandomGenerator(seed: 1)).run { objective(batch, at: moment).loss }
        #expect(relativeError(trained.scalars, golden["train.output.loss"]!.scalars) < 2e-5)
        for (key, tensor) in guide.stateDictionary {
            guard let expected = golden["train.buffer.teacher_model.\(key)"] else { continue }
            #expect(relativeError(tensor.scalars, expected.scalars) < 2e-5, "\(key)")
        }
    }

    /// The published pairs: of transformers of one grid, and of pyramids, where the middle block ends a stage.
    @Test func guidedBlocksAreSpread() {
        func blocks(_ stages: [Int: Int]) -> [Int] {
            let maps = stages.sorted { $0.key > $1.key }.flatMap { side, depth in
                [Shape](repeating: [1, side, side, 8], count: depth)
            }
            return LocalityGuidanceOptions().blocks(of: maps)
        }
        #expect(blocks([14: 12]) == [0, 6, 11])
        #expect(blocks([14: 7]) == [0, 3, 6] && blocks([14: 14]) == [0, 7, 13])
        #expect(blocks([56: 2, 28: 2, 14: 2, 7: 2]) == [0, 3, 7])
        #expect(blocks([27: 2, 14: 6, 7: 4]) == [0, 6, 11])
        #expect(blocks([8: 1]) == [0, 0, 0])
        var options = LocalityGuidanceOptions()
        options.stages = [2]
        #expect(options.blocks(of: [[1, 8, 8, 4], [1, 8, 8, 4]]) == [1])
        options.blocks = [0]
        #expect(options.blocks(of: [[1, 8, 8, 4], [1, 8, 8, 4]]) == [0])
    }

    @Test func impossibleSettings() {
        var options = TrainingOptions()
        options.guidance.blocks = [1, 2]
        options.guidance.weight = -1
        let problems = options.problems(images: 1000, classes: 10)
        #expect(problems.contains { $0.hasPrefix("--guidance-…: found with --method supervised") })
        #expect(problems.contains { $0.hasPrefix("--guidance-blocks: found [1, 2], expected 3") })
        #expect(problems.contains { $0.hasPrefix("--guidance-weight: found -1.0") })
        options.guidance.stages = []
        #expect(options.problems(images: 1000, classes: 10).contains { $0.hasPrefix("--guidance-stages: found none") })
    }
}
