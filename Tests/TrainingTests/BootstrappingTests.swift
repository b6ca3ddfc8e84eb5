import Foundation
import Tessera
import TesseraNN
import Testing

@testable import TesseraModels
@testable import TesseraTraining

/// Bootstrapping, its agent and sharpness-aware steps against their reference.
@Suite struct BootstrappingTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let name: String
        let form: BootstrappingOptions.Form
        let transformer: String
        let agent: @Sendable (inout AgentNetwork.Configuration) -> Void

        var testDescription: String { name }
    }

    private static let narrow = #""embed_dim": 12, "num_encoder_layers": 2, "num_heads": 6, "dim_feedforward": 24"#

    static let cases = [
        Case(name: "joint_conv", form: .joint, transformer: narrow) { _ in },
        Case(name: "joint_manyhead_postnorm", form: .joint, transformer: narrow) {
            ($0.stem, $0.stemWidth, $0.convolution) = (.convolutions, 8, .heads)
            ($0.normalizesResults, $0.pooledBlocks) = (true, [0])
        },
        Case(
            name: "shared", form: .shared,
            transformer: #""embed_dim": 18, "num_encoder_layers": 3, "num_heads": 9, "dim_feedforward": 36"#
        ) {
            ($0.stem, $0.stemWidth, $0.pooledBlocks) = (.convolutions, 8, [0, 1])
        },
    ].filter { hasFixture("bootstrapping", $0.name) }

    static func part(_ golden: [String: Tensor], _ prefix: String) -> [String: Tensor] {
        Dictionary(
            uniqueKeysWithValues: golden.compactMap { key, tensor in
                key.hasPrefix(prefix) ? (String(key.dropFirst(prefix.count)), tensor) : nil
            })
    }

    /// Features, every loss term, gradients, and a pass in training mode.
    @Test(arguments: cases) func followsTheReference(_ test: Case) throws {
        let golden = try fixture("bootstrapping", test.name)
        let model = try #require(
            try LocalityGuidanceTests.model(
                "bootstrapped_vit_small_c100",
                #"{\#(test.transformer), "img_size": 32, "patch_size": 8, "num_classes": 6, "dropout": 0}"#)
                as? BootstrappedTransformer)
        try model.load(Self.part(golden, "param.models.vit."))
        var configuration = model.agent
        test.agent(&configuration)
        let agent = AgentNetwork(configuration, sharing: test.form == .shared ? model.blockWeights : nil)
        try agent.load(Self.part(golden, "param.models.cnn."))

        var options = BootstrappingOptions()
        options.form = test.form
        // A quarter in the shared case, whose losses count half.
        options.agentHint = test.form == .shared ? 0.5 : 0
        let objective = Bootstrapping(model, agent: agent, options: options)
        let images = Tape.leaf(golden["input"]!.transposed([0, 2, 3, 1]))
        let labels = golden["input.label"]!.scalars.map { Int32($0) }
        let batch = TrainingBatch(
            images: images, labels: labels, targets: smoothedTargets(labels, classes: 6, smoothing: 0))

        for (index, map) in agent.observed(images).blocks.enumerated() {
            let expected = golden["feature.cnn.layers.\(index)"]!.transposed([0, 2, 3, 1])
            #expect(relativeError(map.scalars, expected.scalars) < 2e-5, "block \(index) of the agent")
        }
        for (index, map) in model.observed(images).blocks.enumerated() {
            guard let tokens = golden["feature.vit.transformer.layers.\(index)"] else { continue }
            let expected = tokens.sliced(axis: 0, from: 1, to: tokens.shape[0]).transposed([1, 0, 2])
            #expect(relativeError(map.scalars, expected.scalars) < 2e-5, "block \(index) of the transformer")
        }
        #expect(relativeError(agent(images).scalars, golden["output.pred_cnn"]!.scalars) < 2e-5)
        #expect(relativeError(model(images).scalars, golden["output.pred_vit"]!.scalars) < 2e-5)

        // As the sheet counts epochs, this is the 60th of 240: the hint has three quarters of its weight.
        let moment = TrainingMoment(epoch: 59, epochs: 240, update: 0, updates: 1, random: RandomGenerator(seed: 1))
        let tape = Tape()
        let value = tape.record { objective(batch, at: moment) }
        let terms = objective.terms(batch)
        var found: [String: Tensor] = [:]
        for (own, peer, terms) in [("vit", "cnn", terms.transformer), ("cnn", "vit", terms.agent)] {
            let isShared = test.form == .shared
            found[isShared ? "joint.cls_\(own)" : "\(own).cls"] = terms.classification
            found[isShared ? "joint.kd_\(own).\(peer)" : "\(own).kd.\(peer)"] = terms.distillation
            for (layer, hint) in terms.hints.enumerated() {
                found["\(isShared ? "joint" : own).hint_\(own).\(peer)_layer_\(layer)"] = hint
            }
        }
        if test.form == .shared {
            found["loss"] = value.loss
        } else {
            found["loss_vit"] = objective.total(terms.transformer, hint: 7.5)
            found["loss_cnn"] = objective.total(terms.agent, hint: 0)
            #expect(abs(value.loss.scalar - found["loss_vit"]!.scalar - found["loss_cnn"]!.scalar) < 1e-4)
        }
        let expected = Self.part(golden, "output.").filter { $0.value.rank == 0 }
        #expect(Set(expected.keys) == Set(found.keys))
        for (key, tensor) in expected {
            #expect(relativeError(found[key]!.scalars, tensor.scalars) < 2e-5, "\(key)")
        }

        let gradients = tape.gradients(of: value.loss)
        if let expected = golden["grad_input"] {
            #expect(relativeError(gradients[images]!.transposed([0, 3, 1, 2]).scalars, expected.scalars) < 5e-5)
        }
        let all = Self.part(golden, "grad.models.")
        let scale = all.values.map { $0.scalars.map(abs).max() ?? 0 }.max()!
        var compared = 0
        for (prefix, module) in [("vit", model as Module), ("cnn", agent)] {
            for (key, parameter) in module.parameters where parameter.isTrainable {
                guard let expected = all["\(prefix).\(key)"] else { continue }
                compared += 1
                let gradient = gradients[parameter.tensor] ?? Tensor(zeros: parameter.shape)
                let result = parameter.exported(gradient).scalars
                // Zero in exact arithmetic where both hold rounding noise.
                let error = zip(result, expected.scalars).map { abs($0 - $1) }.max()!
                let largest = max(expected.scalars.map(abs).max()!, 1e-3 * scale)
                #expect(error <= 5e-5 * largest, "\(prefix).\(key): \(error / largest)")
            }
        }
        #expect(compared == all.count && compared > 0)

        let trained = TrainingPass(RandomGenerator(seed: 1)).run { () -> [String: Tensor] in
            let terms = objective.terms(batch)
            let (own, others) = (
                objective.total(terms.transformer, hint: 7.5), objective.total(terms.agent, hint: options.agentHint)
            )
            return ["loss": (own + others) * 0.5, "loss_vit": own, "loss_cnn": others]
        }
        for (key, tensor) in trained {
            guard let expected = golden["train.output.\(key)"] else { continue }
            #expect(relativeError(tensor.scalars, expected.scalars) < 2e-5, "\(key)")
        }
        for (key, tensor) in agent.stateDictionary {
            guard let expected = golden["train.buffer.models.cnn.\(key)"] else { continue }
            #expect(relativeError(tensor.scalars, expected.scalars) < 2e-5, "\(key)")
        }
    }

    /// The matrices of attention seen as a convolution, and what the convolution does.
    @Test(.enabled(if: hasFixture("bootstrapping", "shared"))) func attentionAsAConvolution() throws {
        let golden = try fixture("bootstrapping", "shared")
        let model = try #require(
            try LocalityGuidanceTests.model(
                "bootstrapped_vit_small_c100",
                #"""
                {"embed_dim": 18, "num_encoder_layers": 3, "num_heads": 9, "dim_feedforward": 36, "img_size": 32,
                 "patch_size": 8, "num_classes": 6}
                """#) as? BootstrappedTransformer)
        try model.load(Self.part(golden, "param.models.vit."))
        let convolution = AttentionConvolution(model.blockWeights![0], heads: 9)
        #expect(
            relativeError(convolution.kernels.scalars, golden["feature.agent_kernels_layer0"]!.scalars) < 2e-6)
        let found = convolution.forward(golden["input.conv_probe"]!.transposed([0, 2, 3, 1]))
        let expected = golden["output.conv_probe_layer0"]!.transposed([0, 2, 3, 1])
        #expect(relativeError(found.scalars, expected.scalars) < 2e-6)
    }

    /// Attention of one-hot weights is the convolution: head h of place p sees the place beside p alone.
    @Test(arguments: [1, 5, 6, 9]) func fixedAttentionIsTheConvolution(_ heads: Int) throws {
        let (width, side) = (2 * heads, 4)
        let transformer = try LocalityGuidanceTests.model(
            "deit_tiny_patch16_224",
            #"""
            {"embed_dim": \#(width), "depth": 1, "num_heads": \#(heads), "img_size": 16, "patch_size": 4,
             "num_classes": 3}
            """#)
        let block = try #require((transformer as? VisionTransformer)?.blocks[0])
        block.attn.qkv.bias!.value = Tensor(zeros: [3 * width])
        block.attn.proj.bias!.value = Tensor((0..<width).map { Float($0) / 10 }, [width])
        let convolution = AttentionConvolution((transformer as! VisionTransformer).blockWeights![0], heads: heads)
        var generator = RandomGenerator(seed: 3)
        let x = Tensor((0..<(side * side * width)).map { _ in generator.normal() }, [1, side, side, width])
        let found = convolution.forward(x)

        let values = block.attn.qkv(x).sliced(axis: 3, from: 2 * width, to: 3 * width).scalars
        let window = Int(Double(heads).squareRoot().rounded(.up))
        let mixed = Tensor([1, side, side, width]) { buffer in
            for i in buffer.indices {
                let (place, channel) = (i / width, i % width)
                let head = channel / 2
                let (row, column) = (
                    place / side + head / window - (window - 1) / 2, place % side + head % window - (window - 1) / 2
                )
                let isInside = (0..<side).contains(row) && (0..<side).contains(column)
                buffer[i] = isInside ? values[(row * side + column) * width + channel] : 0
            }
        }
        #expect(relativeError(found.scalars, block.attn.proj(mixed).scalars) < 1e-5)
    }

    @Test func entmaxFollowsTheReference() throws {
        let golden = try fixture("bootstrapping", "entmax15")
        let x = Tape.leaf(golden["input"]!)
        let tape = Tape()
        let y = tape.record { x.entmax() }
        #expect(relativeError(y.scalars, golden["output"]!.scalars) < 2e-6)
        let gradient = tape.gradients(of: y, cotangent: golden["cotangent"]!)[x]!
        #expect(relativeError(gradient.scalars, golden["grad_input"]!.scalars) < 2e-5)
    }

    /// Sparse attention gives some tokens no weight, and its weights show in a probe.
    @Test func sparseAttention() throws {
        let model = try LocalityGuidanceTests.model(
            "bootstrapped_vit_small_c100",
            #"{"img_size": 32, "patch_size": 4, "num_encoder_layers": 1, "num_classes": 3, "use_entmax": true}"#)
        var generator = RandomGenerator(seed: 3)
        let image = Tensor((0..<(32 * 32 * 3)).map { _ in generator.normal() }, [1, 32, 32, 3])
        let probe = AttentionProbe()
        _ = probe.watch { model.features(image) }
        let weights = probe.weights[0]
        #expect(weights.shape == [1, 9, 65, 65])
        #expect(weights.scalars.contains(0) && weights.scalars.allSatisfy { $0 >= 0 })
        #expect(weights.sum(axes: [3]).scalars.allSatisfy { abs($0 - 1) < 1e-5 })
    }

    @Test func sharpnessAwareStepsFollowTheReference() throws {
        let golden = try fixture("bootstrapping", "sam")
        let weight = Parameter([6], .zeros)
        weight.value = golden["input.w0"]!.copied
        let (a, b) = (golden["input.A"]!, golden["input.b"]!)
        let entries = [OptimizedParameter(key: "w", parameter: weight, weightDecay: 0.05)]
        let optimizer = AdamW(entries)
        func gradients() -> Gradients {
            let tape = Tape()
            return tape.gradients(
                of: tape.record {
                    let w = weight.tensor.reshaped([6, 1])
                    return (w * a.multiplied(by: w)).sum() * 0.5 + (b.reshaped([6, 1]) * w).sum()
                })
        }
        for step in 1...3 {
            let above = gradients().above(entries, radius: 0.1, gradients)
            optimizer.step(above, learningRate: 0.01, scale: 1)
            #expect(relativeError(weight.value.scalars, golden["output.w\(step)"]!.scalars) < 1e-6)
        }
    }

    static func trainer(_ form: BootstrappingOptions.Form, sharpness: Double?) throws -> Trainer {
        let model = try LocalityGuidanceTests.model(
            "bootstrapped_vit_small_c100",
            #"""
            {"img_size": 12, "patch_size": 4, "image_channels": 1, "embed_dim": 24, "num_encoder_layers": 2,
             "num_heads": 6, "dim_feedforward": 24, "dropout": 0.1, "num_classes": 3, "mlp_bias_std": 1e-6}
            """#)
        var options = TrainerTests.options
        (options.method, options.bootstrapping.form) = ("bootstrapping", form)
        (options.epochs, options.sharpnessRadius) = (2, sharpness)
        return Trainer(
            try MethodSetup.make(model, side: 12, channels: 1, options).objective(), source: Bars(), options: options)
    }

    /// Stops amid the second epoch and goes on in a new trainer from copies of the checkpoint: the same bits.
    @Test(arguments: [(BootstrappingOptions.Form.joint, nil), (.shared, 0.05)] as [(_, Double?)])
    func resumingEqualsNeverStopping(_ form: BootstrappingOptions.Form, _ sharpness: Double?) throws {
        func run(_ trainer: Trainer, steps: Int) throws {
            _ = try trainer.run(
                evaluate: { (1, 0.5) }, shouldStop: { trainer.state.update == steps }, report: { _ in })
        }
        func copies(_ tensors: [(key: String, tensor: Tensor)]) -> [String: Tensor] {
            Dictionary(uniqueKeysWithValues: tensors.map { ($0.key, Tensor($0.tensor.scalars, $0.tensor.shape)) })
        }
        let whole = try Self.trainer(form, sharpness: sharpness)
        let before = whole.objective.ownParameters.map(\.parameter.value.scalars)
        try run(whole, steps: .max)
        #expect(before != whole.objective.ownParameters.map(\.parameter.value.scalars))
        let (first, second) = (
            try Self.trainer(form, sharpness: sharpness), try Self.trainer(form, sharpness: sharpness)
        )
        try run(first, steps: 8)
        try second.model.load(copies(first.model.stateDictionary))
        try second.resume(first.state, optimizerState: copies(first.optimizerState))
        try run(second, steps: .max)
        #expect(TrainerTests.weights(second) == TrainerTests.weights(whole))
        // The agent has a copy of nothing that it shares.
        let shares = !whole.optimizerState.contains { $0.key.hasPrefix("method.layers.0.mlp_block") }
        #expect(shares == (form == .shared))
    }

    /// The hint's weight falls by the epoch and is gone in the last one, where the loss is that without hints.
    @Test func theHintFades() throws {
        let trainer = try Self.trainer(.joint, sharpness: nil)
        let objective = try #require(trainer.objective as? Bootstrapping)
        let batch = Bars().batch(1)
        func loss(_ epoch: Int) -> Float {
            let random = RandomGenerator(seed: 1)
            return objective(
                batch, at: TrainingMoment(epoch: epoch, epochs: 10, update: 0, updates: 1, random: random)
            ).loss.scalar
        }
        let terms = objective.terms(batch)
        let plain = objective.total(terms.transformer, hint: 0) + objective.total(terms.agent, hint: 0)
        let hints = terms.transformer.hints.reduce(Tensor(0), +).scalar
        #expect(hints > 0.1)
        #expect(abs(loss(9) - plain.scalar) < 1e-4)
        #expect(abs(loss(0) - plain.scalar - 9 * hints) < 1e-3 && abs(loss(4) - plain.scalar - 5 * hints) < 1e-3)
    }

    /// Places of the larger map are averaged along the rows of reading, four at a time.
    @Test func hintsPoolAlongRows() {
        let small = Tensor([1, 2, 5, 8, 1, 3, 2, 9, 4, 7, 6, 1], [1, 2, 2, 3])
        let large = Tensor((0..<48).map { small.scalars[$0 / 12 * 3 + $0 % 3] }, [1, 4, 4, 3])
        #expect(Bootstrapping.hint(small, large).scalar < 1e-12)
        let other = small.transposed([0, 2, 1, 3])
        #expect(Bootstrapping.hint(other, large).scalar > 0.1)
        #expect(Bootstrapping.hint(other, large).scalar == Bootstrapping.hint(large, other).scalar)
    }

    /// What two networks that share weights have together, as published.
    @Test(arguments: [
        ("small", 100, [Int](), AgentNetwork.Configuration.Stem.patches, 6_560_264),
        ("small", 100, [0, 1], .convolutions, 6_514_504), ("base", 100, [2, 8], .convolutions, 21_992_968),
        ("small", 1000, [0, 1], .convolutions, 7_034_704), ("base", 1000, [2, 8], .convolutions, 22_685_968),
    ])
    func sharedNetworksHaveTheirPublishedSize(
        _ size: String, _ classes: Int, _ pool: [Int], _ stem: AgentNetwork.Configuration.Stem, _ published: Int
    ) throws {
        var options = TrainingOptions()
        options.method = "bootstrapping"
        (options.bootstrapping.form, options.bootstrapping.stem) = (.shared, stem)
        options.bootstrapping.pooledBlocks = pool
        options.bootstrapping.normalizesResults = size == "base"
        let model = try Registry.entry("bootstrapped_vit_\(size)_\(classes == 100 ? "c100" : "in1k")").configuration
            .makeModel()
        let objective = try MethodSetup.make(model, side: 224, channels: 3, options, classes: classes).objective()
        let own = objective.ownParameters.filter(\.parameter.isTrainable).reduce(0) { $0 + $1.parameter.shape.count }
        #expect(model.parameterCount + own == published)
    }

    @Test func refusals() throws {
        func refuses(
            _ model: any ImageClassifier, side: Int, _ text: String, _ change: (inout BootstrappingOptions) -> Void
        )
            throws
        {
            var options = TrainingOptions()
            options.method = "bootstrapping"
            change(&options.bootstrapping)
            #expect {
                _ = try MethodSetup.make(model, side: side, channels: 3, options).objective()
            } throws: { error in
                "\(error)".hasPrefix("--method bootstrapping: ") && "\(error)".contains(text)
            }
        }
        let pyramid = try LocalityGuidanceTests.model("pvt_v2_b0", #"{"img_size": 32, "num_classes": 3}"#)
        try refuses(pyramid, side: 32, "no plain transformer of equal blocks") { _ in }
        let tiny = try LocalityGuidanceTests.model(
            "deit_tiny_patch16_224", #"{"img_size": 32, "patch_size": 4, "depth": 2, "num_classes": 3}"#)
        try refuses(tiny, side: 32, "a window of 2×2") { $0.form = .shared }
        try refuses(tiny, side: 32, "down_sample_layers: expected 0 to 1, found 2") { $0.pooledBlocks = [2] }
        let gated = try LocalityGuidanceTests.model(
            "vit_giant_patch14_dinov2",
            #"{"img_size": 28, "embed_dim": 24, "depth": 1, "num_heads": 6, "num_classes": 3}"#)
        try refuses(gated, side: 28, "gated perceptrons") { $0.form = .shared }
        let odd = try LocalityGuidanceTests.model(
            "deit_tiny_patch16_224", #"{"img_size": 28, "patch_size": 4, "depth": 2, "num_classes": 3}"#)
        try refuses(odd, side: 28, "block 0 has 7×7 tokens and its agent 4×4 places") { $0.stem = .convolutions }
    }
}
