import Foundation
import Tessera
import TesseraIO
import TesseraNN
import Testing

@testable import TesseraTraining

/// Golden results of PyTorch, timm and the DeiT code: those in the repository, or below TESSERA_FIXTURES.
func fixture(_ system: String, _ name: String) throws -> [String: Tensor] {
    var root = Bundle.module.resourceURL!.appendingPathComponent("Fixtures")
    if let path = ProcessInfo.processInfo.environment["TESSERA_FIXTURES"], !path.isEmpty {
        root = URL(fileURLWithPath: path)
    }
    let file = try Safetensors(root.appendingPathComponent("\(system)/\(name).safetensors").path)
    return Dictionary(uniqueKeysWithValues: try file.tensors())
}

func relativeError(_ found: [Float], _ expected: [Float]) -> Float {
    let largest = max(expected.map(abs).max() ?? 0, 1e-12)
    return (zip(found, expected).map { abs($0 - $1) }.max() ?? 0) / largest
}

final class TwoParameters: Module {
    let weight: Parameter
    let bias: Parameter
    init(_ weight: Tensor, _ bias: Tensor) {
        self.weight = Parameter(weight.shape, .zeros)
        self.bias = Parameter(bias.shape, .zeros)
        super.init()
        self.weight.value = Tensor(weight.scalars, weight.shape)
        self.bias.value = Tensor(bias.scalars, bias.shape)
    }

    /// Gradients that are exactly the given tensors.
    func gradients(_ weightGradient: Tensor, _ biasGradient: Tensor) -> Gradients {
        let tape = Tape()
        let sum = tape.record {
            (weight.tensor * weightGradient).sum() + (bias.tensor * biasGradient).sum()
        }
        return tape.gradients(of: sum)
    }
}

@Suite struct RecipeTests {
    @Test(arguments: ["adamw", "adamw_b95", "adam_l2", "sgd", "sgd_nesterov", "lamb", "lamb_noclip_always"])
    func optimizersFollowPyTorch(_ name: String) throws {
        let golden = try fixture("training_recipe", "optimizers")
        let model = TwoParameters(golden["input.weight0"]!, golden["input.bias0"]!)
        let parameters = OptimizedParameter.all(of: model, weightDecay: 0.05, undecayed: [])
        let optimizer: any TesseraTraining.Optimizer =
            switch name {
            case "adamw": AdamW(parameters)
            case "adamw_b95": AdamW(parameters, betas: (0.9, 0.95))
            case "adam_l2": AdamW(parameters, couplesDecay: true)
            case "sgd": SGD(parameters, nesterov: false)
            case "lamb": LAMB(parameters)
            case "lamb_noclip_always": LAMB(parameters, normLimit: nil, clipsTrust: true, adaptsAlways: true)
            default: SGD(parameters)
            }
        let rates = golden["input.lr"]!.scalars
        for step in 1...5 {
            let gradients = model.gradients(golden["input.grad_weight\(step)"]!, golden["input.grad_bias\(step)"]!)
            optimizer.step(gradients, learningRate: Double(rates[step - 1]), scale: 1)
            let weight = relativeError(model.weight.value.scalars, golden["output.\(name).weight\(step)"]!.scalars)
            let bias = relativeError(model.bias.value.scalars, golden["output.\(name).bias\(step)"]!.scalars)
            #expect(weight < 1e-6 && bias < 1e-6, "\(name), step \(step): \(weight), \(bias)")
        }
    }

    @Test func parametersWithoutGradientAreLeftAlone() {
        let model = TwoParameters(Tensor([1, 2], [1, 2]), Tensor([3], [1]))
        let optimizer = AdamW(OptimizedParameter.all(of: model, weightDecay: 0.5, undecayed: []))
        let tape = Tape()
        let loss = tape.record { model.bias.tensor.sum() }
        optimizer.step(tape.gradients(of: loss), learningRate: 0.1)
        #expect(model.weight.value.scalars == [1, 2])
        #expect(model.bias.value.scalars != [3])
    }

    @Test(arguments: ["0.5", "1", "100"]) func clippingFollowsPyTorch(_ limit: String) throws {
        let golden = try fixture("training_recipe", "optimizers")
        let model = TwoParameters(golden["input.weight0"]!, golden["input.bias0"]!)
        let parameters = OptimizedParameter.all(of: model, weightDecay: 0, undecayed: [])
        let gradients = model.gradients(golden["input.grad_weight1"]!, golden["input.grad_bias1"]!)
        let norm = gradients.norm(over: parameters)
        #expect(abs(norm / Double(golden["output.clip\(limit).total_norm"]!.scalar) - 1) < 1e-6)
        let scale = Gradients.clippingScale(norm: norm, limit: Double(limit)!)
        let clipped = golden["input.grad_weight1"]!.scalars.map { $0 * scale }
        #expect(relativeError(clipped, golden["output.clip\(limit).grad_weight"]!.scalars) < 1e-6)
    }

    @Test func adaptiveClippingFollowsTimm() throws {
        let golden = try fixture("training_recipe", "optimizers")
        let model = TwoParameters(golden["input.weight0"]!, golden["input.bias0"]!)
        let parameters = OptimizedParameter.all(of: model, weightDecay: 0, undecayed: [])
        var gradients = model.gradients(golden["input.grad_weight1"]!, golden["input.grad_bias1"]!)
        gradients.clipAdaptively(parameters, factor: 0.02)
        let weight = gradients[model.weight.tensor]!.scalars
        #expect(relativeError(weight, golden["output.agc.grad_weight"]!.scalars) < 1e-6)
        #expect(relativeError(gradients[model.bias.tensor]!.scalars, golden["output.agc.grad_bias"]!.scalars) < 1e-6)
    }

    /// A state that was saved and loaded gives the same next step as one that was not.
    @Test func lambResumes() throws {
        let golden = try fixture("training_recipe", "optimizers")
        func step(_ optimizer: LAMB, _ model: TwoParameters, _ index: Int) {
            let gradients = model.gradients(golden["input.grad_weight\(index)"]!, golden["input.grad_bias\(index)"]!)
            optimizer.step(gradients, learningRate: 0.01)
        }
        func make() -> (TwoParameters, LAMB) {
            let model = TwoParameters(golden["input.weight0"]!, golden["input.bias0"]!)
            return (model, LAMB(OptimizedParameter.all(of: model, weightDecay: 0.05, undecayed: [])))
        }
        let (model, optimizer) = make()
        let (other, resumed) = make()
        step(optimizer, model, 1)
        other.weight.value = model.weight.value.copied
        other.bias.value = model.bias.value.copied
        try resumed.load(Dictionary(uniqueKeysWithValues: optimizer.state.map { ($0.key, $0.tensor.copied) }))
        step(optimizer, model, 2)
        step(resumed, other, 2)
        #expect(model.weight.value.scalars == other.weight.value.scalars)
        #expect(throws: StateDictionaryError(missing: ["step"])) { try resumed.load([:]) }
    }

    @Test func schedulesFollowTimmAndMAE() throws {
        let golden = try fixture("training_recipe", "schedules")
        func check(_ name: String, _ values: [Double]) {
            #expect(relativeError(values.map { Float($0) }, golden["output.\(name)"]!.scalars) < 1e-6, "\(name)")
        }
        let epochs = (0...300).map(Double.init)
        var cosine = Schedule.Cosine(base: 5e-4, minimum: 1e-5, total: 300, warmup: 5, warmupStart: 1e-6)
        check("timm_cosine", epochs.map { cosine($0) })
        cosine.prefixed = true
        check("timm_cosine_prefix", epochs.map { cosine($0) })
        let updates = Schedule.Cosine(base: 5e-4, minimum: 1e-5, total: 2100, warmup: 35, warmupStart: 1e-6)
        check("timm_cosine_per_update", golden["input.update"]!.scalars.map { updates(Double($0)) })
        let fractional = golden["input.fractional_epoch"]!.scalars.map(Double.init)
        check("mae_cosine", fractional.map { Schedule.mae($0, base: 5e-4, minimum: 1e-5, warmup: 5, total: 300) })
        let annealing = Schedule.Cosine(base: 5e-4, minimum: 0, total: 300, warmup: 0, warmupStart: 0)
        check("torch_cosine_annealing", epochs.map { annealing($0) })
        check("layer_scales_0.65_12", Schedule.layerScales(decay: 0.65, depth: 12))
        check("layer_scales_0.75_24", Schedule.layerScales(decay: 0.75, depth: 24))
    }

    /// Loss and gradient of a function of logits.
    private func lossAndGradient(_ logits: Tensor, _ loss: (Tensor) -> Tensor) -> (Float, [Float]) {
        let tape = Tape()
        let leaf = Tape.leaf(logits)
        let value = tape.record { loss(leaf) }
        return (value.scalar, tape.gradients(of: value)[leaf]!.scalars)
    }

    @Test func lossesFollowTimm() throws {
        let golden = try fixture("training_recipe", "losses")
        let logits = golden["input.logits"]!
        let labels = golden["input.label"]!.scalars.map { Int32($0) }
        let cases: [(String, (Tensor) -> Tensor)] = [
            ("cross_entropy", { crossEntropy($0, labels: labels) }),
            ("label_smoothing_timm", { crossEntropy($0, labels: labels, smoothing: 0.1) }),
            ("label_smoothing_torch", { crossEntropy($0, labels: labels, smoothing: 0.1) }),
            ("soft_target", { crossEntropy($0, golden["input.soft_target"]!) }),
        ]
        for (name, loss) in cases {
            let (value, gradient) = lossAndGradient(logits, loss)
            #expect(relativeError([value], golden["output.\(name)"]!.scalars) < 1e-6, "\(name)")
            #expect(relativeError(gradient, golden["grad.\(name)"]!.scalars) < 2e-6, "\(name)")
        }
        let deit = try fixture("deit", "losses")
        let (value, gradient) = lossAndGradient(deit["input.logits_cls"]!) {
            crossEntropy($0, deit["input.soft_targets"]!)
        }
        #expect(relativeError([value], deit["output.none_soft"]!.scalars) < 1e-6)
        #expect(relativeError(gradient, deit["grad.none_soft.logits_cls"]!.scalars) < 2e-6)
    }

    /// Whichever samples are dropped, the others are what the reference makes of them.
    @Test func stochasticDepthFollowsTimm() throws {
        let golden = try fixture("training_recipe", "mixup_ema_misc")
        let x = golden["input.drop_path.x"]!
        let kept = golden["input.drop_path.keep_mask"]!.scalars.map { $0 != 0 }
        let same = try #require(
            (0..<10_000).lazy.map { dropPath(x, rate: 0.3, seed: $0).scalars }.first { y in
                kept.indices.allSatisfy { sample in
                    kept[sample] == y[(12 * sample)..<(12 * sample + 12)].contains { $0 != 0 }
                }
            })
        #expect(relativeError(same, golden["output.drop_path"]!.scalars) < 1e-6)
        let rates = golden["output.drop_path_rates_linear_0.1_12"]!.scalars
        #expect(relativeError(DropPath.linear(to: 0.1, depth: 12), rates) < 1e-6)
    }

    @Test(arguments: [("ema_v2", false), ("ema_v3_warmup", true)])
    func movingAveragesFollowTimm(_ name: String, _ warmsUp: Bool) throws {
        let golden = try fixture("training_recipe", "mixup_ema_misc")
        let model = TwoParameters(golden["input.ema.w0"]!, golden["input.ema.buffer0"]!)
        let average = MovingAverage(of: model.parameters, decay: 0.9, warmsUp: warmsUp)
        for step in 1...5 {
            model.weight.value = golden["input.ema.w\(step)"]!
            model.bias.value = golden["input.ema.buffer\(step)"]!
            average.update()
            average.apply {
                let weight = relativeError(model.weight.value.scalars, golden["output.\(name).w\(step)"]!.scalars)
                let buffer = relativeError(model.bias.value.scalars, golden["output.\(name).buffer\(step)"]!.scalars)
                #expect(weight < 1e-6 && buffer < 1e-6, "\(name), step \(step)")
            }
            #expect(model.weight.value.scalars == golden["input.ema.w\(step)"]!.scalars)
        }
    }

    @Test func impossibleSettingsAreAllNamed() {
        var options = TrainingOptions()
        #expect(options.problems(images: 1000, classes: 10).isEmpty)
        options.learningRate = 0
        options.batchSize = 129
        options.mixup = 0.8
        options.scale = [0.9, 0.5]
        options.emaDecay = 1
        let problems = options.problems(images: 1000, classes: 10)
        for flag in ["--lr", "--min-lr", "--batch", "--scale", "--model-ema-decay"] {
            #expect(problems.contains { $0.hasPrefix(flag + ":") && $0.contains("expected") }, "\(flag)")
        }
        #expect(problems.count == 5)
    }
}
