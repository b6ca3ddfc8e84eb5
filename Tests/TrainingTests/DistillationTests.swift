import Tessera
import TesseraModels
import Testing

@testable import TesseraTraining

/// Losses of logits against labels and teachers, values and gradients.
@Suite struct DistillationTests {
    /// A loss of two heads with its gradients; zeros where none flows.
    private func run(
        _ heads: (Tensor, Tensor), _ loss: (Tensor, Tensor) -> Tensor
    ) -> (value: Float, gradients: [[Float]]) {
        let tape = Tape()
        let leaves = [Tape.leaf(heads.0), Tape.leaf(heads.1)]
        let value = tape.record { loss(leaves[0], leaves[1]) }
        let gradients = tape.gradients(of: value)
        return (value.scalar, leaves.map { (gradients[$0] ?? Tensor(zeros: $0.shape)).scalars })
    }

    private struct Case: CustomTestStringConvertible {
        let name: String
        let base: String
        var kind: DistillationLoss?
        var alpha = 0.5
        var temperature = 1.0
        var testDescription: String { name }
    }

    @Test(arguments: [
        Case(name: "none_ce", base: "ce"), Case(name: "none_smooth", base: "smooth"),
        Case(name: "none_soft", base: "soft"), Case(name: "none_bce", base: "bce"),
        Case(name: "soft_tau1", base: "ce", kind: .soft),
        Case(name: "soft_tau3", base: "smooth", kind: .soft, alpha: 0.1, temperature: 3),
        Case(name: "soft_mix_tau3", base: "soft", kind: .soft, alpha: 0.1, temperature: 3),
        Case(name: "hard", base: "smooth", kind: .hard), Case(name: "hard_mix", base: "soft", kind: .hard),
    ]) private func followsDeiT(_ test: Case) throws {
        let golden = try fixture("deit", "losses")
        let labels = golden["input.labels"]!.scalars.map { Int32($0) }
        var criterion = Criterion()
        let targets: Tensor
        switch test.base {
        case "ce": targets = smoothedTargets(labels, classes: 7, smoothing: 0)
        case "smooth": targets = smoothedTargets(labels, classes: 7, smoothing: 0.1)
        case "soft": targets = golden["input.soft_targets"]!
        default:
            targets = golden["input.soft_targets_no_smoothing"]!
            (criterion.isBinary, criterion.threshold) = (true, 0)
        }
        var options = DistillationOptions()
        options.loss = test.kind ?? .hard
        (options.alpha, options.temperature) = (test.alpha, test.temperature)
        let model = try Registry.entry("deit_tiny_distilled_patch16_224").configuration.makeModel()
        let objective = Distillation(model, teacher: { $0 }, criterion: criterion, options: options)
        let (value, gradients) = run((golden["input.logits_cls"]!, golden["input.logits_dist"]!)) {
            test.kind == nil
                ? criterion($0, targets) : objective.loss(($0, $1), targets, teacher: golden["input.logits_teacher"]!)
        }
        #expect(relativeError([value], golden["output.\(test.name)"]!.scalars) < 1e-6)
        for (found, head) in zip(gradients, ["cls", "dist"]) {
            #expect(relativeError(found, golden["grad.\(test.name).logits_\(head)"]!.scalars) < 3e-6, "\(head)")
        }
        let teacher = golden["feature.teacher_argmax"]!.scalars.map { Int32($0) }
        #expect(golden["input.logits_teacher"]!.greatestClasses == teacher)
    }

    @Test func distillationFollowsTheSheet() throws {
        let golden = try fixture("training_recipe", "losses")
        let (logits, token) = (golden["input.logits"]!, golden["input.logits_distill_token"]!)
        let teacher = golden["input.teacher_logits"]!
        let (kl, klGradient) = run((logits, token)) { head, _ in
            DistillationLoss.kl(head, teacher, temperature: 3)
        }
        #expect(relativeError([kl], golden["output.kd_batchmean"]!.scalars) < 2e-6)
        #expect(relativeError(klGradient[0], golden["grad.kd_batchmean"]!.scalars) < 3e-6)
        for kind in [DistillationLoss.hard, .soft] {
            let name = "deit_distill_\(kind.rawValue)"
            let (value, gradients) = run((logits, token)) {
                crossEntropy($0, golden["input.soft_target"]!) * 0.5 + kind($1, teacher, temperature: 3) * 0.5
            }
            #expect(relativeError([value], golden["output.\(name)"]!.scalars) < 2e-6, "\(kind)")
            #expect(relativeError(gradients[0], golden["grad.\(name)"]!.scalars) < 3e-6, "\(kind)")
            #expect(relativeError(gradients[1], golden["grad_distill_token.\(name)"]!.scalars) < 3e-6, "\(kind)")
        }
    }

    /// Soft labels cost what the divergence does but the teacher's entropy, whatever the temperature.
    @Test(arguments: [1, 4] as [Float]) func softLabelsAreTheDivergenceAndTheEntropy(_ temperature: Float) throws {
        let golden = try fixture("training_recipe", "losses")
        let (logits, teacher) = (golden["input.logits"]!, golden["input.teacher_logits"]!)
        let labels = run((logits, logits)) { head, _ in DistillationLoss.labels(head, teacher, temperature: temperature)
        }
        let kl = run((logits, logits)) { head, _ in DistillationLoss.kl(head, teacher, temperature: temperature) }
        let square = temperature * temperature
        #expect(relativeError(labels.gradients[0], kl.gradients[0].map { $0 / square }) < 1e-5)
        let p = (teacher / temperature).softmax(axis: -1)
        let entropy = -(p * p.log()).sum().scalar / 4
        #expect(abs(labels.value - kl.value / square - entropy) < 1e-4)
    }

    @Test func binaryCrossEntropyFollowsTimm() throws {
        let golden = try fixture("training_recipe", "losses")
        let labels = golden["input.label"]!.scalars.map { Int32($0) }
        let smoothed = smoothedTargets(labels, classes: 10, smoothing: 0.1)
        var criterion = Criterion()
        criterion.isBinary = true
        var (sum, all) = (criterion, criterion)
        (sum.sumsClasses, sum.threshold) = (true, 0.2)
        all.threshold = 0
        for (name, criterion, targets) in [
            ("bce_timm_smooth", criterion, smoothed), ("bce_timm_sumclass", sum, golden["input.soft_target"]!),
            ("bce_hard_thresh", all, golden["input.soft_target"]!),
        ] {
            let (value, gradients) = run((golden["input.logits"]!, golden["input.logits"]!)) { logits, _ in
                criterion(logits, targets)
            }
            #expect(relativeError([value], golden["output.\(name)"]!.scalars) < 1e-6, "\(name)")
            #expect(relativeError(gradients[0], golden["grad.\(name)"]!.scalars) < 3e-6, "\(name)")
        }
    }
}
