import Foundation
import Tessera
import TesseraModels
import TesseraNN
import Testing

@testable import TesseraTraining

/// Whether all golden cases are there: the repository has a part of them.
let hasAllFixtures = ProcessInfo.processInfo.environment["TESSERA_FIXTURES"]?.isEmpty == false

/// A plain Vision Transformer without values.
func plainTransformer(_ width: Int, _ depth: Int, _ heads: Int, side: Int, patch: Int, ratio: Float = 4)
    -> VisionTransformer
{
    var c = VisionTransformer.Configuration.tiny16
    (c.width, c.depth, c.heads, c.mlpRatio) = (width, depth, heads, ratio)
    (c.imageSize, c.patchSize, c.classes) = (Size(side), Size(patch), 3)
    return VisionTransformer(c)
}

extension Module {
    /// Loads what a golden case has under `prefix`; heads and whatever else it lacks keep their first values.
    func loadGolden(_ golden: [String: Tensor], _ prefix: String) throws {
        initialize(seed: 1)
        let keys = Set(parameters.map(\.key))
        var tensors: [String: Tensor] = [:]
        for (key, tensor) in golden where key.hasPrefix(prefix) && keys.contains(String(key.dropFirst(prefix.count))) {
            tensors[String(key.dropFirst(prefix.count))] = tensor
        }
        try load(tensors, skipping: { tensors[$0] == nil })
    }

    /// The largest relative error of the gradients under `prefix`, and how many there are.
    func gradientErrors(_ gradients: Gradients, _ golden: [String: Tensor], _ prefix: String) -> [(String, Float)] {
        parameters.compactMap { key, parameter in
            guard let expected = golden["\(prefix)\(key)"] else { return nil }
            let found = gradients[parameter.tensor] ?? Tensor(zeros: parameter.shape)
            return (key, relativeError(parameter.exported(found).scalars, expected.scalars))
        }
    }
}

/// Masked autoencoders against their reference.
@Suite struct MaskedAutoencoderTests {
    private static let moment = TrainingMoment(
        epoch: 0, epochs: 1, update: 0, updates: 1, random: RandomGenerator(seed: 5))

    private func golden() throws -> (golden: [String: Tensor], objective: MaskedAutoencoder, mask: PatchMask) {
        var options = MaskedAutoencoderOptions()
        options.normalizesPixels = true
        (options.decoderWidth, options.decoderDepth, options.decoderHeads) = (16, 1, 2)
        let golden = try fixture("tinymim", "mae_normpix")
        let objective = MaskedAutoencoder(
            plainTransformer(24, 2, 3, side: 32, patch: 8, ratio: 2), options: options)
        let noise = golden["input.noise"]!
        let mask = PatchMask(
            noise: (0..<2).map { Array(noise.scalars[$0 * 16..<($0 + 1) * 16]) }, kept: options.kept(of: 16))
        return (golden, objective, mask)
    }

    @Test func masksAndLossFollowTheReference() throws {
        let (golden, objective, mask) = try golden()
        var hidden = [Float](repeating: 0, count: 32)
        for place in mask.hidden { hidden[Int(place)] = 1 }
        #expect(hidden == golden["output.mask"]!.scalars)
        let ranks = golden["feature.ids_restore"]!.scalars.map { Int32($0) }
        let rows = ranks.enumerated().map { $1 < 4 ? Int32($0 / 16) * 4 + $1 : 8 }
        #expect(mask.restored(prefix: 0) == rows)
        let images = golden["input"]!.transposed([0, 2, 3, 1])
        let loss = objective.loss(golden["output.pred"]!, images, mask)
        #expect(relativeError([loss.scalar], golden["output.loss"]!.scalars) < 2e-6)
    }

    @Test func positionsFollowTheReference() throws {
        let golden = try golden().golden
        for (name, width) in [("sincos_pos_embed_init", 24), ("sincos_decoder_pos_embed_init", 16)] {
            let expected = golden["feature.\(name)"]!.scalars
            #expect(expected[..<width].allSatisfy { $0 == 0 })
            let found = PositionTable.sinusoids(rows: 4, columns: 4, width: width)
            #expect(relativeError(found, Array(expected[width...])) < 1e-6)
        }
        // The columns come first.
        let wide = PositionTable.sinusoids(rows: 2, columns: 3, width: 4)
        #expect(relativeError(Array(wide[20...]), [sin(2), cos(2), sin(1), cos(1)]) < 1e-6)
    }

    @Test(.enabled(if: hasAllFixtures)) func followsTheReference() throws {
        let (golden, objective, mask) = try golden()
        let decoder = objective.companion!
        try objective.model.loadGolden(golden, "param.")
        try decoder.loadGolden(golden, "param.")
        let images = Tape.leaf(golden["input"]!.transposed([0, 2, 3, 1]))
        let tape = Tape()
        let (latent, drawn, loss) = tape.record {
            let latent = objective.latent(images, mask)
            let drawn = objective.reconstruction(latent, mask)
            return (latent, drawn, objective.loss(drawn, images, mask))
        }
        #expect(relativeError(latent.scalars, golden["feature.latent"]!.scalars) < 1e-5)
        let pixels = MaskedAutoencoder(plainTransformer(24, 2, 3, side: 32, patch: 8)).target(images)
        #expect(pixels.scalars == golden["feature.target_patches"]!.scalars)
        #expect(relativeError(drawn.scalars, golden["output.pred"]!.scalars) < 1e-5)
        #expect(relativeError([loss.scalar], golden["output.loss"]!.scalars) < 2e-6)
        let gradients = tape.gradients(of: loss)
        let errors =
            objective.model.gradientErrors(gradients, golden, "grad.")
            + decoder.gradientErrors(gradients, golden, "grad.")
        #expect(errors.count == golden.keys.count { $0.hasPrefix("grad.") })
        for (key, error) in errors { #expect(error < 2e-5, "\(key)") }
        #expect(
            relativeError(gradients[images]!.transposed([0, 3, 1, 2]).scalars, golden["grad_input"]!.scalars) < 2e-5)
    }

    /// A new encoder and its decoder begin with Xavier's distribution; one that was trained before keeps its weights.
    @Test func weightsBeginAsPublished() throws {
        var options = TrainingOptions()
        options.method = "mae"
        (options.mae.decoderWidth, options.mae.decoderDepth, options.mae.decoderHeads) = (16, 1, 2)
        func begin(isNew: Bool) throws -> (model: VisionTransformer, objective: any Objective) {
            let model = plainTransformer(16, 2, 2, side: 12, patch: 4)
            model.initialize(seed: 3)
            let setup = try MethodSetup(
                model: model, isNew: isNew,
                preprocessing: .init(height: 12, width: 12, mean: [0, 0, 0], std: [1, 1, 1]), labels: ["a", "b", "c"],
                options: options, teacher: nil)
            return (model, try setup.objective())
        }
        let (model, objective) = try begin(isNew: true)
        for module in [model, objective.companion!] {
            for (key, parameter) in module.parameters {
                let (values, shape) = (parameter.value.scalars.map(abs), parameter.shape)
                if key.hasSuffix("weight"), shape.rank > 1, !key.hasPrefix("head") {
                    let bound = (6 / Float(shape[0] + shape.count / shape[0])).squareRoot()
                    #expect(values.max()! <= bound && values.max()! > 0.9 * bound, "\(key)")
                } else if key.hasSuffix("bias"), key != "patch_embed.proj.bias" {
                    #expect(values.allSatisfy { $0 == 0 }, "\(key)")
                }
            }
        }
        let token = try #require(model.parameters.first { $0.key == "cls_token" }).parameter
        #expect(token.value.scalars.map(abs).max()! > 0.01)
        let before = plainTransformer(16, 2, 2, side: 12, patch: 4)
        before.initialize(seed: 3)
        let kept = try begin(isNew: false).model
        for (a, b) in zip(kept.parameters, before.parameters) where a.key != "pos_embed" {
            #expect(a.parameter.value.scalars == b.parameter.value.scalars, "\(a.key)")
        }
    }

    /// What is drawn of hidden patches does not depend on them, and the positions get no gradient.
    @Test func hiddenPatchesAreNotSeen() throws {
        var options = MaskedAutoencoderOptions()
        (options.decoderWidth, options.decoderDepth, options.decoderHeads) = (8, 1, 2)
        let encoder = plainTransformer(16, 2, 2, side: 8, patch: 2)
        let objective = MaskedAutoencoder(encoder, options: options)
        encoder.initialize(seed: 2)
        objective.companion!.initialize(seed: 3)
        let mask = PatchMask(noise: [(0..<16).map { Float(15 - $0) }], kept: options.kept(of: 16))
        #expect(mask.hidden == (0..<12).reversed().map { Int32($0) })
        var pixels = (0..<192).map { sin(Float($0)) }
        func drawn() -> [Float] {
            objective.reconstruction(objective.latent(Tensor(pixels, [1, 8, 8, 3]), mask), mask).scalars
        }
        let before = drawn()
        // Three of four rows of patches are hidden.
        for i in 0..<144 { pixels[i] = 9 }
        #expect(drawn() == before)
        pixels[150] = 9
        #expect(drawn() != before)

        let tape = Tape()
        let batch = TrainingBatch(images: Tensor(pixels, [1, 8, 8, 3]), labels: [0], targets: Tensor(zeros: [1, 3]))
        let loss = tape.record { objective(batch, at: Self.moment).loss }
        let gradients = tape.gradients(of: loss)
        let untouched = encoder.parameters.filter { gradients[$0.parameter.tensor] == nil }.map(\.key)
        #expect(untouched == ["pos_embed", "head.weight", "head.bias"])
        #expect(gradients[objective.companion!.parameters.first { $0.key == "mask_token" }!.parameter.tensor] != nil)
    }

    @Test func refusals() throws {
        var options = TrainingOptions()
        options.method = "mae"
        func refuses(_ model: any ImageClassifier, _ text: String) {
            #expect { _ = try MethodSetup.make(model, side: 8, channels: 3, options).objective() } throws: {
                "\($0)".contains(text)
            }
        }
        refuses(try Registry.entry("cct_2_3x2_32").configuration.makeModel(), "no plain Vision Transformer")
        refuses(plainTransformer(18, 1, 2, side: 8, patch: 4), "18 wide, expected a multiple of 4")
        refuses(plainTransformer(16, 1, 2, side: 8, patch: 8), "leaves 0 of the grid's 1×1 patches")
        options.mae.ratio = 1
        options.mae.decoderHeads = 7
        let problems = options.problems(images: 1000, classes: 10)
        #expect(problems.contains { $0.hasPrefix("--mae-ratio: found 1.0") })
        #expect(problems.contains { $0.contains("a multiple of 4 and of --mae-decoder-heads (7)") })
        options.method = "supervised"
        #expect(options.problems(images: 1000, classes: 10).contains { $0.contains("expected --method mae") })
    }
}
