import ArgumentParser
import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraTraining

struct StudyCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "study", abstract: "Finds out which model and training method suit some images, in a given time.",
        discussion: """
            Candidates are measured, then trained under successive halving: all of them shortly, the best ones further.
            Examples:
              tessera study --data photos/ --budget 30m --out studies/photos
              tessera study --data fashion-mnist --fraction 0.1 --budget 5m --latency 10ms --parameters 5M --out studies/a
              tessera study --data photos/ --budget 1h --models cct_2_3x2_32,resnet18 --methods supervised,drloc --out studies/b
              tessera study --resume studies/photos
            """)

    private static let standard = StudyPlan(data: "", budget: 0)

    @OptionGroup var inputs: TrainingInputs

    @Option(
        help: ArgumentHelp("Train on this part of each class's images only, which --seed picks.", valueName: "part"))
    var fraction = standard.fraction

    @Option(help: ArgumentHelp("How long it may take, such as 90s, 30m or 2h.", valueName: "time"))
    var budget: TimeSpan?

    @Option(help: ArgumentHelp("Leave out models that take longer for one image, such as 10ms.", valueName: "time"))
    var latency: TimeSpan?

    @Option(help: ArgumentHelp("Leave out models with more parameters, such as 5M.", valueName: "n"))
    var parameters: Quantity?

    @Option(help: ArgumentHelp("The models to try (default: small ones of several kinds).", valueName: "a,b"))
    var models: Names?

    @Option(help: ArgumentHelp("The training methods to try with each (see `tessera methods`).", valueName: "a,b"))
    var methods = Names(standard.methods)

    @Option(help: ArgumentHelp("The folder to write.", valueName: "folder"))
    var out: String?

    @Option(help: ArgumentHelp("Go on with this study, with the settings it began with.", valueName: "folder"))
    var resume: String?

    @Option(help: ArgumentHelp("Epochs of a whole training (default: what the time allows).", valueName: "n"))
    var epochs: Int?

    @Option(help: ArgumentHelp("How often candidates are compared on the way.", valueName: "n"))
    var rungs = standard.rungs

    @Option(help: ArgumentHelp("One in so many candidates goes on, so many times as far.", valueName: "n"))
    var eta = standard.eta

    @Option(help: ArgumentHelp("Images a step; fewer where an epoch would have less than 4 steps.", valueName: "n"))
    var batch = standard.batchSize

    @Option(help: "Learning rate after the warm-up.")
    var lr = standard.learningRate

    @Option(help: "Names all random numbers.")
    var seed = standard.seed

    @Option(help: "Threads that read and augment images.")
    var workers = standard.workers

    @OptionGroup var compute: ComputeOptions

    func validate() throws {
        if resume != nil { return }
        guard inputs.data != nil, out != nil, budget != nil else {
            throw ValidationError("expected --data, --budget and --out (or --resume FOLDER)")
        }
    }

    func perform() throws {
        compute.apply()
        let line = ProgressLine(quiet: inputs.quiet)
        let study = try resume.map(Study.resume) ?? Study.begin(plan, at: out!)
        Interrupt.watch()
        let ending = try study.run(shouldStop: { Interrupt.isRequested }) { show($0, study, line) }
        try study.report()
        guard ending != .interrupted else {
            line.finish(
                "interrupted after \(clock(study.seconds)); go on with: tessera study --resume \(study.folder)")
            throw ExitCode(130)
        }
        if inputs.json { return printJSON(study.json) }
        tell(study, ending)
    }

    private var plan: StudyPlan {
        var plan = StudyPlan(data: inputs.data!, budget: budget!.seconds, models: models?.names ?? [])
        (plan.format, plan.fraction) = (inputs.format?.rawValue, fraction)
        plan.latency = latency.map { 1000 * $0.seconds }
        plan.parameters = parameters?.number
        (plan.methods, plan.teacher) = (methods.names, inputs.teacher)
        (plan.imageSize, plan.epochs, plan.rungs, plan.eta) = (inputs.imageSize, epochs, rungs, eta)
        (plan.batchSize, plan.learningRate, plan.seed, plan.workers) = (batch, lr, seed, workers)
        plan.precision = compute.precision ?? .automatic
        return plan
    }

    private func show(_ event: Study.Event, _ study: Study, _ line: ProgressLine) {
        let candidates = study.state.candidates
        switch event {
        case .notice(let text): line.finish("tessera: \(text)")
        case .measured(let index):
            let candidate = candidates[index]
            let costs = [
                candidate.parameters.map { "\(grouped($0)) parameters" },
                candidate.latency.map { String(format: "%.2f ms", $0) },
                candidate.reason.map { "\(candidate.status.rawValue): \($0)" },
            ]
            line.finish("\(candidate.name): \(costs.compactMap { $0 }.joined(separator: ", "))")
        case .planned(let search):
            line.finish(
                "\(search.candidates.count) candidates on \(grouped(study.imageCount)) images, compared after "
                    + "\(search.epochs.map(String.init).joined(separator: ", ")) epochs")
        case .training(let job, .step(let state, let loss, _, _)):
            line.update(
                "\(candidates[job.candidate].name)  epoch \(state.epoch + 1)  step \(state.batch)  "
                    + String(format: "loss %.4f  ", loss) + time(study))
        case .training: break
        case .trained(let job):
            let candidate = candidates[job.candidate]
            let score = candidate.accuracy.map { String(format: "accuracy %.2f %%", 100 * $0) } ?? "no epoch done"
            let reason = candidate.reason.map { "  \($0)" } ?? ""
            line.finish("\(candidate.name)  epoch \(candidate.epochs)  \(score)\(reason)  \(time(study))")
        }
    }

    private func time(_ study: Study) -> String { "\(clock(study.seconds)) of \(clock(study.state.plan.budget))" }

    private func tell(_ study: Study, _ ending: Study.Ending) {
        for (place, index) in study.state.ranking.enumerated() {
            let candidate = study.state.candidates[index]
            guard let accuracy = candidate.accuracy else { continue }
            print(
                String(
                    format: "%2d  %6.2f %%  %4d epochs  %12@  %8.2f ms  %@", place + 1, 100 * accuracy,
                    candidate.epochs, grouped(candidate.parameters ?? 0), candidate.latency ?? 0, candidate.name))
        }
        let end = ending == .complete ? "complete" : "the time is up"
        print("\(end) after \(clock(study.seconds)); \(study.folder)/study.html")
        if let command = study.command { print(command) }
    }
}

/// A time such as `10ms`, `90s`, `30m` or `2h`.
struct TimeSpan: ExpressibleByArgument, Equatable {
    let seconds: Double

    init?(argument: String) {
        // The longer unit first: "ms" ends in "s".
        let units = [("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)]
        guard let (unit, factor) = units.first(where: { argument.hasSuffix($0.0) }),
            let number = Double(argument.dropLast(unit.count)), number.isFinite, number >= 0
        else { return nil }
        seconds = number * factor
    }
}

/// A number such as `5M`, `300k` or `280651`.
struct Quantity: ExpressibleByArgument, Equatable {
    let number: Int

    init?(argument: String) {
        let units = [("k", 1e3), ("M", 1e6), ("G", 1e9)]
        let unit = units.first { argument.hasSuffix($0.0) }
        guard let value = Double(argument.dropLast(unit?.0.count ?? 0)),
            let number = Int(exactly: (value * (unit?.1 ?? 1)).rounded())
        else { return nil }
        self.number = number
    }
}

/// Names with commas between them.
struct Names: ExpressibleByArgument, Equatable {
    let names: [String]

    init(_ names: [String]) { self.names = names }

    init?(argument: String) {
        let names = argument.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
        guard !names.isEmpty, !names.contains("") else { return nil }
        self.names = names
    }

    var defaultValueDescription: String { names.joined(separator: ",") }
}
