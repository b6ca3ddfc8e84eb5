import ArgumentParser
import Foundation
import Synchronization
import Tessera
import TesseraData
import TesseraIO
import TesseraModels
import TesseraTraining

struct TrainCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "train", abstract: "Trains a model from scratch, from weights, or goes on with a stopped run.",
        discussion: """
            Examples:
              tessera train cct_2_3x2_32 --data fashion-mnist --out runs/a --epochs 10 --lr 1e-3
              tessera train deit_tiny_patch16_224 --data photos/ --out runs/b --from runs/pretrained
              tessera train cct_7_3x1_32 --data cifar-10/ --out runs/c --recipe Recipes/cct_cifar10.yaml --lr 1e-3
              tessera train deit_tiny_distilled_patch16_224 --data photos/ --out runs/d --method deit --teacher runs/cnn
              tessera train --resume runs/a
            """)

    @Argument(help: "The model (see `tessera models`).")
    var model: String?

    @OptionGroup var inputs: TrainingInputs

    @Option(help: ArgumentHelp("The run folder to write.", valueName: "run"))
    var out: String?

    @Option(help: ArgumentHelp("Go on with this run, with the settings it began with.", valueName: "run"))
    var resume: String?

    @Option(
        help: ArgumentHelp("Start from these weights; the head is replaced if the classes differ.", valueName: "run"))
    var from: String?

    @Option(help: ArgumentHelp("How to train (see `tessera methods`).", valueName: "name"))
    var method = TrainingOptions().method

    @Option(
        help: ArgumentHelp(
            "YAML with flags of this verb (`lr: 1e-3`); those on the command line win.", valueName: "file"))
    var recipe: String?

    @Flag(help: "Delete a run that is already in the folder.")
    var overwrite = false

    @Option(help: ArgumentHelp("Constructor arguments of the model as JSON.", valueName: "json"))
    var modelArgs: String?

    @Option(help: ArgumentHelp("Refuse images with more pixels.", valueName: "n"))
    var pixelLimit = Image.defaultPixelLimit

    @Flag(help: "Stop at the first image that cannot be read, instead of skipping and naming it.")
    var strict = false

    @OptionGroup(title: "Recipe") var settings: RecipeOptions
    @OptionGroup var methods: AllMethodFlags
    @OptionGroup var compute: ComputeOptions

    func validate() throws {
        if resume != nil {
            guard model == nil else {
                throw ValidationError("--resume goes on with a run as it began: no model with it")
            }
            return
        }
        guard model != nil, inputs.data != nil, out != nil else {
            throw ValidationError("expected a model, --data and --out (or --resume RUN)")
        }
    }

    func perform() throws {
        compute.apply()
        let line = ProgressLine(quiet: inputs.quiet)
        let run = try resume.map { try TrainingRun.resume(at: $0) { line.finish("tessera: \($0)") } } ?? begin()
        Interrupt.watch()
        describe(run, line)
        let isDone = try run.run(shouldStop: { Interrupt.isRequested }) { show($0, run, line) }
        for name in run.unreadable.prefix(20) { line.finish("skipped: \(name)") }
        if run.unreadable.count > 20 { line.finish("skipped: \(run.unreadable.count - 20) more images") }
        guard isDone else {
            line.finish(
                "interrupted after epoch \(run.trainer.state.epoch), step \(run.trainer.state.batch); "
                    + "go on with: tessera train --resume \(run.folder.path)")
            throw ExitCode(130)
        }
        try tell(try run.finish(), run)
    }

    private func tell(_ result: TrainingResult, _ run: TrainingRun) throws {
        let evaluation = result.evaluation
        if inputs.json {
            return printJSON(
                JSON([
                    "run": .string(run.folder.path), "method": .string(run.plan.options.method),
                    "top1": evaluation.map { JSON($0.top1) } ?? .null,
                    "top5": evaluation.map { JSON($0.top5) } ?? .null,
                    "loss": JSON(result.loss), "images": JSON(result.images),
                    "seconds": JSON(run.trainer.state.seconds),
                    "epochs": JSON(run.trainer.state.epoch), "unreadable": JSON(run.unreadable.count),
                    "parameters": JSON(run.trained.model.parameterCount), "peak_memory_mb": JSON(peakMemory),
                ]))
        }
        let score =
            evaluation.map { String(format: "accuracy %.2f %%", 100 * $0.top1) }
            ?? String(format: "validation loss %.4f", result.loss)
        print(
            "\(score) on \(grouped(result.images)) images, "
                + "trained in \(clock(run.trainer.state.seconds)); \(run.folder.file("report.html"))")
    }

    private func begin() throws -> TrainingRun {
        var plan = TrainingRun.Plan(model: model!, data: inputs.data!)
        plan.format = inputs.format?.rawValue
        plan.pixelLimit = pixelLimit
        plan.strict = strict
        plan.recipe = recipe
        (plan.weights, plan.teacher) = (from, inputs.teacher)
        plan.options = options
        let arguments = try modelArgs.map { try JSON(parsing: $0) }
        return try TrainingRun.begin(
            plan, at: out!, imageSize: inputs.imageSize, modelArguments: arguments, overwrite: overwrite)
    }

    /// The recipe with the method and its settings. The precision is said outright, so that a run that is resumed
    /// elsewhere goes on with the same arithmetic.
    var options: TrainingOptions {
        var options = settings.options(precision: compute.precision ?? .automatic)
        options.method = method
        methods.apply(to: &options)
        return options
    }

    private func describe(_ run: TrainingRun, _ line: ProgressLine) {
        let precision = run.plan.options.precision ?? .automatic
        line.finish(
            "\(run.plan.model): \(grouped(run.trained.model.parameterCount)) parameters, "
                + "\(grouped(run.imageCount)) training images, \(precision.rawValue) on \(Processor.threads) threads "
                + "(\(Processor.instructionSet))")
    }

    private func show(_ event: TrainingEvent, _ run: TrainingRun, _ line: ProgressLine) {
        switch event {
        case .step(let state, let loss, let rate, let speed):
            let steps = run.trainer.stepsPerEpoch
            let left = Double(run.trainer.epochs * steps - state.update) * state.seconds / Double(max(1, state.update))
            let share = Double(state.correct) / Double(max(1, state.images))
            line.update(
                String(
                    format: "epoch %d/%d  step %d/%d  loss %.4f%@  lr %.2e  %.0f images/s  %@ left",
                    state.epoch + 1, run.trainer.epochs, state.batch, steps, loss,
                    accuracy(run.trainer.objective.classifies ? share : nil), rate, speed, clock(left)))
        case .epoch(let summary):
            line.finish(
                String(
                    format: "epoch %d/%d  loss %.4f%@%@%@  %@%@",
                    summary.epoch + 1, run.trainer.epochs, summary.trainLoss, accuracy(summary.trainAccuracy),
                    summary.validationLoss.map { String(format: "  validation loss %.4f", $0) } ?? "",
                    accuracy(summary.validationAccuracy), clock(summary.seconds),
                    summary.isBest ? "  *" : ""))
        case .checkpoint: break
        }
    }

    private func accuracy(_ share: Double?) -> String {
        share.map { String(format: "  accuracy %.2f %%", 100 * $0) } ?? ""
    }
}

/// Ctrl-C and SIGTERM ask for a last checkpoint; a second Ctrl-C ends at once.
enum Interrupt {
    private static let requests = Atomic<Int>(0)

    static var isRequested: Bool { requests.load(ordering: .relaxed) > 0 }

    static func watch() {
        for number in [SIGINT, SIGTERM] {
            signal(number) { _ in
                if Interrupt.requests.add(1, ordering: .relaxed).oldValue > 0 { _exit(130) }
            }
        }
    }
}
