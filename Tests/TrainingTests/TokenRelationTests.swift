import Foundation
import Tessera
import TesseraModels
import TesseraNN
import Testing

@testable import TesseraTraining

/// TinyMIM against its reference and against its definition.
@Suite struct TokenRelationTests {
    private typealias Distillation = TokenRelationDistillation

    @Test(.enabled(if: hasAllFixtures)) func followsTheReference() throws {
        let golden = try fixture("tinymim", "relation")
        let student = plainTransformer(16, 12, 2, side: 32, patch: 8, ratio: 2)
        let teacher = plainTransformer(24, 3, 4, side: 32, patch: 8, ratio: 2)
        try student.loadGolden(golden, "param.student.")
        try teacher.loadGolden(golden, "param.teacher.")
        let objective = Distillation(
            student, teacher: { Distillation.answers(teacher, $0, .relations, block: 2, heads: 4).map(\.detached) },
            teacherWidth: 24, target: .relations, heads: 4)
        let images = Tape.leaf(golden["input"]!.transposed([0, 2, 3, 1]))
        let plain = golden["input.teacher_image"]!.transposed([0, 2, 3, 1])
        for (model, name, block, input) in [(student, "student", 12, images.detached), (teacher, "teacher", 2, plain)] {
            let scores = Distillation.answers(model, input, .relations, block: block, heads: 4)
            for (part, scores) in zip(["qk", "vv"], scores) {
                let expected = golden["feature.\(name)_\(part)"]!
                #expect(relativeError(scores.softmax(axis: -1).scalars, expected.scalars) < 1e-5, "\(name) \(part)")
                let loss = Distillation.divergence(
                    golden["feature.teacher_\(part)"]!.log(), golden["feature.student_\(part)"]!.log())
                #expect(relativeError([loss.scalar], golden["output.\(part)_loss"]!.scalars) < 2e-5)
            }
        }
        let tape = Tape()
        let batch = TrainingBatch(images: images, plainImages: plain, labels: [0, 0], targets: Tensor(zeros: [2, 3]))
        let moment = TrainingMoment(epoch: 0, epochs: 1, update: 0, updates: 1, random: RandomGenerator(seed: 1))
        let loss = tape.record { objective(batch, at: moment).loss }
        #expect(relativeError([loss.scalar], golden["output.loss"]!.scalars) < 1e-5)
        let gradients = tape.gradients(of: loss)
        let errors = student.gradientErrors(gradients, golden, "grad.student.")
        #expect(errors.count == golden.keys.count { $0.hasPrefix("grad.student.") })
        for (key, error) in errors { #expect(error < 5e-5, "\(key)") }
        #expect(
            relativeError(gradients[images]!.transposed([0, 3, 1, 2]).scalars, golden["grad_input"]!.scalars) < 5e-5)
        #expect(student.parameters.filter { gradients[$0.parameter.tensor] == nil }.map(\.key) == Self.unused(12))
    }

    /// What lies behind the last queries, keys and values, in the order of the model.
    private static func unused(_ depth: Int) -> [String] {
        let last = ["attn.proj", "norm2", "mlp.fc1", "mlp.fc2"].map { "blocks.\(depth - 1).\($0)" }
        return ["pos_embed"] + (last + ["norm", "head"]).flatMap { ["\($0).weight", "\($0).bias"] }
    }

    /// Scores and divergence by their sums, for a number of heads that is not the model's.
    @Test func relationsAreWhatTheyAreDefinedToBe() throws {
        let model = plainTransformer(8, 1, 2, side: 4, patch: 2)
        model.initialize(seed: 4)
        // Larger weights, so that the relations differ from token to token.
        for (_, parameter) in model.parameters { parameter.value = (parameter.value * 20).detached }
        let images = Tensor((0..<96).map { sin(Float($0)) }, [2, 4, 4, 3])
        let (heads, size, count) = (4, 2, 5)
        let scores = Distillation.answers(model, images, .relations, block: 1, heads: heads)
        let block = model.blocks[0]
        let packed = block.attn.qkv(block.norm1(model.embedded(images).tokens)).scalars
        func value(_ image: Int, _ token: Int, _ part: Int, _ channel: Int) -> Float {
            packed[((image * count + token) * 3 + part) * 8 + channel]
        }
        for (scores, parts) in zip(scores, [(0, 1), (2, 2)]) {
            var expected: [Float] = []
            for (image, head, i, j) in Self.places([2, heads, count, count]) {
                let products = (head * size..<(head + 1) * size).map {
                    value(image, i, parts.0, $0) * value(image, j, parts.1, $0)
                }
                expected.append(products.reduce(0, +) / Float(size).squareRoot())
            }
            #expect(scores.shape == [2, heads, count, count] && relativeError(scores.scalars, expected) < 1e-5)
        }
        func probabilities(_ row: ArraySlice<Float>) -> [Float] {
            let sum = row.map { exp($0) }.reduce(0, +)
            return row.map { exp($0) / sum }
        }
        let (a, b) = (scores[0].scalars.map { tanh($0) }, scores[1].scalars.map { tanh($0) })
        let rows = 2 * heads * count
        let expected =
            (0..<rows).map { row -> Float in
                let (t, s) = (
                    probabilities(a[row * count..<(row + 1) * count]), probabilities(b[row * count..<(row + 1) * count])
                )
                return zip(t, s).map { $0 * log($0 / $1) }.reduce(0, +)
            }.reduce(0, +) / Float(rows)
        let found = Distillation.divergence(Tensor(a, scores[0].shape), Tensor(b, scores[0].shape)).scalar
        #expect(expected > 0.01 && abs(found / expected - 1) < 1e-4)
    }

    private static func places(_ shape: [Int]) -> [(Int, Int, Int, Int)] {
        (0..<shape.reduce(1, *)).map {
            (
                $0 / (shape[1] * shape[2] * shape[3]), $0 / (shape[2] * shape[3]) % shape[1], $0 / shape[3] % shape[2],
                $0 % shape[3]
            )
        }
    }

    /// The first block drops its branches as often as the others, not never.
    @Test func pathsAreDroppedEqually() {
        var c = VisionTransformer.Configuration.tiny16
        (c.width, c.depth, c.heads, c.dropPath, c.imageSize, c.patchSize) = (16, 3, 2, 0.9, Size(8), Size(4))
        let model = VisionTransformer(c)
        model.initialize(seed: 1)
        let tokens = Tensor((0..<320).map { sin(Float($0)) }, [4, 5, 16])
        func first() -> [Float] {
            TrainingPass(RandomGenerator(seed: 2)).run { model.transformed(tokens, blocks: 1).scalars }
        }
        let whole = model.transformed(tokens, blocks: 1).scalars
        #expect(first() == whole)
        model.dropPathsEqually()
        #expect(first() != whole && model.transformed(tokens, blocks: 1).scalars == whole)
    }

    /// A student that is its teacher has nothing to learn; another one does, and only what the target reads moves.
    @Test(arguments: TokenRelationOptions.Target.allCases)
    func onlyWhatIsReadIsTrained(_ target: TokenRelationOptions.Target) throws {
        let (student, teacher) = (
            plainTransformer(16, 2, 2, side: 12, patch: 4), plainTransformer(16, 2, 2, side: 12, patch: 4)
        )
        for (model, seed) in [(student, 1), (teacher, 1)] { model.initialize(seed: UInt64(seed)) }
        let objective = Distillation(
            student,
            teacher: { images in
                Tape.pause { Distillation.answers(teacher, images, target, block: 2, heads: 2) }
            }, teacherWidth: 16, target: target, heads: 2)
        var options = TrainerTests.options
        options.epochs = 1
        options.emaDecay = nil
        let source = ColoredBars()
        let trainer = Trainer(objective, source: source, options: options)
        let batch = source.batch(0)
        if let linear = (objective.companion as? TokenRelationDistillation.Projection)?.tinymim {
            linear.weight.value = Tensor((0..<256).map { $0 % 17 == 0 ? 1 : 0 }, [16, 16])
            linear.bias!.value = Tensor(zeros: [16])
        }
        #expect(abs(trainer.validationLoss(batch, step: 0)) < 1e-6)
        teacher.initialize(seed: 9)
        #expect(trainer.validationLoss(batch, step: 0) > 1e-6)
        let before = student.parameters.map { $0.parameter.value.scalars }
        _ = try trainer.run(evaluate: { (0, nil) }, report: { _ in })
        let same = zip(student.parameters, before).filter { $0.parameter.value.scalars == $1 }.map(\.0.key)
        #expect(
            same
                == (target == .relations
                    ? Self.unused(2) : ["pos_embed", "norm.weight", "norm.bias", "head.weight", "head.bias"]))
    }

    /// ``Bars`` of three equal channels.
    private struct ColoredBars: BatchSource {
        let bars = Bars()
        var batchesPerEpoch: Int { bars.batchesPerEpoch }
        var imageShape: Shape { [1, 12, 12, 3] }

        func batch(_ seed: UInt64) -> TrainingBatch {
            let grey = bars.batch(seed)
            return TrainingBatch(
                images: grey.images.broadcast(to: [16, 12, 12, 3]), labels: grey.labels, targets: grey.targets)
        }

        func forEachBatch(epoch: Int, from start: Int, _ body: (TrainingBatch) throws -> Bool) throws {
            for index in start..<batchesPerEpoch {
                guard try body(batch(UInt64(epoch * 1000 + index))) else { return }
            }
        }
    }

    @Test func blocksAreThePublishedOnes() {
        var options = TokenRelationOptions()
        #expect(options.block(of: 24) == 18 && options.block(of: 12) == 12)
        options.block = 5
        #expect(options.block(of: 24) == 5)
    }
}
