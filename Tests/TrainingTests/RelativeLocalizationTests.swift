import Tessera
import TesseraModels
import Testing

@testable import TesseraTraining

/// Dense relative localisation against its reference.
@Suite struct RelativeLocalizationTests {
    @Test(arguments: [
        ("l1_abs", RelativeLocalizationOptions.Mode.l1, false), ("ce_abs", .ce, false), ("cbr_signed", .cbr, true),
    ]) func followsTheReference(_ name: String, _ mode: RelativeLocalizationOptions.Mode, _ isSigned: Bool) throws {
        let golden = try fixture("drloc", name)
        var options = RelativeLocalizationOptions()
        (options.mode, options.isSigned, options.width) = (mode, isSigned, 24)
        let tokens = golden["input"]!.transposed([0, 2, 3, 1])
        let side = tokens.shape[1]
        let head = RelativeLocalizationHead(grid: tokens.shape, options)
        try head.load(
            Dictionary(
                uniqueKeysWithValues: golden.compactMap { key, tensor in
                    key.hasPrefix("param.") ? (String(key.dropFirst(6)), tensor) : nil
                }))
        func places(_ name: String) -> [Int32] {
            let values = golden["input.\(name)"]!.scalars
            return stride(from: 0, to: values.count, by: 2).map {
                Int32(values[$0]) * Int32(side) + Int32(values[$0 + 1])
            }
        }
        let pairs = TokenPairs(
            first: places("positions_x"), second: places("positions_y"), pairs: golden["input.positions_x"]!.shape[1])

        let predicted = head.predictions(tokens, pairs)
        let expected = golden["output.pred"]!
        if mode == .l1 {
            #expect(relativeError(predicted[0].scalars, expected.scalars) < 2e-6)
        } else {
            for (axis, logits) in predicted.enumerated() {
                let part = expected.sliced(axis: 2, from: axis, to: axis + 1)
                #expect(relativeError(logits.scalars, part.scalars) < 2e-6)
            }
        }
        let (rows, columns) = head.targets(pairs)
        #expect(zip(rows, columns).flatMap { [$0, $1] } == golden["output.target"]!.scalars)

        let tape = Tape()
        let leaf = Tape.leaf(tokens)
        let loss = tape.record { head.loss(leaf, pairs) * 0.5 }
        #expect(relativeError([loss.scalar], golden["output.loss"]!.scalars) < 2e-6)
        #expect(relativeError([loss.scalar * 2], golden["output.loss_unweighted"]!.scalars) < 2e-6)
        let gradients = tape.gradients(of: loss)
        #expect(
            relativeError(gradients[leaf]!.transposed([0, 3, 1, 2]).scalars, golden["grad_input"]!.scalars) < 2e-5)
        for (key, parameter) in head.parameters {
            #expect(
                relativeError(gradients[parameter.tensor]!.scalars, golden["grad.\(key)"]!.scalars) < 2e-5, "\(key)")
        }
    }

    @Test func weightsFollowTheReference() throws {
        let golden = try fixture("drloc", "lambda_schedule")
        for (lambda, total) in [(0.5, 300), (0.1, 100)] {
            var options = RelativeLocalizationOptions()
            options.lambda = lambda
            let expected = golden["output.lambda_w\(lambda)_total\(total)"]!.scalars
            let found = golden["input.epoch"]!.scalars.map { Float(options.weight(epoch: Int($0), of: total)) }
            #expect(relativeError(found, expected) < 1e-6)
        }
    }

    /// Heads of the published sizes (variants of the sheet), counted.
    @Test func headsHaveTheirPublishedSizes() {
        func count(_ channels: Int, _ side: Int, _ mode: RelativeLocalizationOptions.Mode) -> Int {
            var options = RelativeLocalizationOptions()
            options.mode = mode
            return RelativeLocalizationHead(grid: [1, side, side, channels], options).parameterCount
        }
        #expect(count(768, 7, .l1) == 1_050_626 && count(768, 7, .ce) == 1_319_438)
        #expect(count(384, 14, .l1) == 657_410 && count(384, 14, .cbr) == 933_404)
    }

    /// Offsets as parts of the largest: each target divided by it, for both kinds of offset.
    @Test func normalizedOffsetsLieBetweenZeroAndOne() {
        var options = RelativeLocalizationOptions()
        options.normalizes = true
        let pairs = TokenPairs(first: [0, 11, 5], second: [11, 0, 5], pairs: 3)
        // A grid of 3 rows and 4 columns: place 11 is its last corner, place 5 in the middle.
        let absolute = RelativeLocalizationHead(grid: [1, 3, 4, 8], options).targets(pairs)
        #expect(absolute.rows == [1, 1, 0] && absolute.columns == [1, 1, 0])
        options.isSigned = true
        let signed = RelativeLocalizationHead(grid: [1, 3, 4, 8], options).targets(pairs)
        #expect(signed.rows == [0, 1, 0.5] && signed.columns == [0, 1, 0.5])
    }

    /// Each stage of a pyramid gets a head, and pooled grids are halved.
    @Test func gridsOfAPyramid() throws {
        var configuration = try Registry.entry("swin_tiny_patch4_window7_224").configuration
        try configuration.apply(
            Arguments(
                parsing: #"{"img_size": 64, "embed_dim": 12, "depths": [1, 1, 1], "num_heads": [1, 2, 4]}"#,
                section: "model"))
        configuration.classes = 3
        let model = configuration.makeModel()
        model.initialize(seed: 1)
        var options = TrainingOptions()
        options.method = "drloc"
        (options.drloc.usesAllStages, options.drloc.pools) = (true, true)
        let objective = try MethodSetup.make(model, side: 64, channels: 3, options).objective()
        let shapes = objective.companion!.parameters.filter { $0.key.hasSuffix("layers.0.weight") }
        #expect(shapes.map(\.key) == (0..<3).map { "drloc.\($0).layers.0.weight" })
        #expect(shapes.map(\.parameter.shape) == [12, 24, 48].map { [512, 2 * $0] })
        objective.companion!.initialize(seed: 2)
        let random = RandomGenerator(seed: 5)
        let batch = TrainingBatch(
            images: Tensor(repeating: 0.3, [2, 64, 64, 3]), labels: [0, 1],
            targets: smoothedTargets([0, 1], classes: 3, smoothing: 0))
        func loss(_ epoch: Int) -> Float {
            objective(batch, at: TrainingMoment(epoch: epoch, epochs: 100, update: 0, updates: 1, random: random)).loss
                .scalar
        }
        // λ is 0 in the first epoch and grows in proportion to the epoch during the warm-up.
        #expect(abs(loss(0) - crossEntropy(model(batch.images), batch.targets).scalar) < 1e-6)
        #expect(abs((loss(20) - loss(0)) - 2 * (loss(10) - loss(0))) < 1e-5 && loss(20) > loss(0) + 0.1)
    }
}

extension MethodSetup {
    /// A setup for square images and classes without names.
    static func make(
        _ model: any ImageClassifier, side: Int, channels: Int, _ options: TrainingOptions, teacher: String? = nil,
        classes: Int = 3
    ) throws -> MethodSetup {
        try MethodSetup(
            model: model,
            preprocessing: .init(
                height: side, width: side, mean: [Float](repeating: 0.5, count: channels),
                std: [Float](repeating: 0.25, count: channels)),
            labels: (0..<classes).map(String.init), options: options, teacher: teacher)
    }
}
