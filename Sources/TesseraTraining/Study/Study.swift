import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraModels

/// Which model, trained how, suits some images: candidates are measured, those within the limits are trained under
/// successive halving, each in a run folder of its own, until the search or the time is at its end.
///
/// `study.json` is what is known so far, `study.html` the same to look at, `runs/` has a folder for each candidate. A
/// study that is stopped at any moment goes on from the last checkpoint of the candidate that it was training.
public final class Study {
    public enum Ending: Sendable { case complete, outOfTime, interrupted }

    public enum Event {
        case measured(Int)
        /// The length of a whole training and the rungs on the way are decided.
        case planned(SuccessiveHalving)
        case training(SuccessiveHalving.Job, TrainingEvent)
        /// A candidate was trained to the end of a rung, or as far as it went.
        case trained(SuccessiveHalving.Job)
        case notice(String)
    }

    public let folder: String
    public private(set) var state: StudyState
    private let data: TrainingData
    private let side: Int
    private let spentBefore: Double
    private let start = Date()

    /// Of the budget; the rest is for what a quick estimate misses.
    private static let plannedShare = 0.8
    private static let longestTraining = 300

    /// Begins a study.
    /// - Parameter plan: without models it tries the usual ones
    /// - Throws: one-line errors that name the flag or file. Nothing is written before everything is checked.
    public static func begin(_ plan: StudyPlan, at folder: String) throws -> Study {
        var plan = plan
        try plan.validate()
        guard !FileManager.default.fileExists(atPath: "\(folder)/\(StudyState.fileName)") else {
            throw StudyError("\(folder): already holds a study: go on with --resume, or choose another folder")
        }
        let first = try plan.run(model: "", method: plan.methods[0], epochs: 1, side: 1)
        var data = try TrainingData(first)
        let sample = try data.sample
        let side = plan.imageSize ?? max(sample.height, sample.width)
        if plan.models.isEmpty { plan.models = StudyPlan.usualModels(smallImages: side <= 64) }
        // A few steps to the epoch, however few images there are.
        plan.batchSize = min(plan.batchSize, max(1, data.train.count / 4))
        // A step is three forward passes: validating takes a ninth of the time at most, but where that would be too few
        // images to tell candidates apart.
        plan.validationImages = max(2000, data.train.count / 3)
        data.limitValidation(to: plan.validationImages, seed: plan.seed)
        let options = try plan.run(model: "", method: plan.methods[0], epochs: 1, side: side).options
        let problems = options.problems(images: data.train.count, classes: data.train.classNames.count)
        guard problems.isEmpty else { throw OptionsError(problems: problems) }
        do { try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true) } catch {
            throw StudyError("\(folder): cannot make the folder")
        }
        let study = Study(folder, StudyState(plan: plan), data, side: side)
        try study.save()
        return study
    }

    /// Goes on with the study in a folder.
    /// - Throws: `FormatError`, `SystemError`, and what a changed plan or data set leads to
    public static func resume(at folder: String) throws -> Study {
        let state = try StudyState(folder: folder)
        try state.plan.validate()
        guard let first = state.candidates.first else {
            throw FormatError(
                file: "\(folder)/\(StudyState.fileName)", subject: "candidates", found: "none",
                expected: "at least one")
        }
        // What was tampered with must not become the name of a folder.
        for candidate in state.candidates {
            _ = try (Registry.entry(candidate.model), TrainingMethod.named(candidate.method))
        }
        let data = try TrainingData(try state.plan.run(model: first.model, method: first.method, epochs: 1, side: 1))
        let sample = try data.sample
        return Study(folder, state, data, side: state.plan.imageSize ?? max(sample.height, sample.width))
    }

    private init(_ folder: String, _ state: StudyState, _ data: TrainingData, side: Int) {
        (self.folder, self.state, self.data, self.side) = (folder, state, data, side)
        spentBefore = state.seconds
    }

    /// How many images there are to train on.
    public var imageCount: Int { data.train.count }

    /// How many images candidates are compared on.
    public var validationCount: Int { data.validation.count }

    /// Seconds of the budget that are spent.
    public var seconds: Double { spentBefore + Date().timeIntervalSince(start) }

    /// Searches until the end, the end of the budget, or `shouldStop`.
    public func run(shouldStop: () -> Bool = { false }, progress: (Event) -> Void = { _ in }) throws -> Ending {
        func isOver() -> Bool { shouldStop() || seconds >= state.plan.budget }
        func ending() throws -> Ending {
            try save()
            return shouldStop() ? .interrupted : .outOfTime
        }
        if state.isComplete { return .complete }
        if state.search == nil {
            guard try measure(isOver, progress) else { return try ending() }
            state.search = planned()
            try save()
        }
        var search = state.search!
        progress(.planned(search))
        let isComplete = try search.search { job in
            if isOver() { return .stopped }
            return try train(job, isOver, progress)
        } didChange: {
            state.search = $0
            try save()
        }
        guard isComplete else { return try ending() }
        state.isComplete = true
        try save()
        return .complete
    }

    /// - Returns: whether all candidates are measured
    private func measure(_ isOver: () -> Bool, _ progress: (Event) -> Void) throws -> Bool {
        for index in state.candidates.indices where state.candidates[index].parameters == nil {
            if isOver() { return false }
            var candidate = state.candidates[index]
            guard candidate.status == .waiting else { continue }
            do {
                let plan = try state.plan.run(
                    model: candidate.model, method: candidate.method, epochs: 1, side: side)
                let result = try StudyMeasurement(plan, data, limits: state.plan, shouldStop: isOver)
                if isOver() { return false }
                (candidate.parameters, candidate.latency) = (result.parameters, result.latency)
                (candidate.epochSeconds, candidate.reason) = (result.epochSeconds, result.excess)
                if result.excess != nil { candidate.status = .excluded }
            } catch let error as ArgumentError {
                (candidate.status, candidate.reason) = (.refused, "\(error)")
            } catch let error as MethodError {
                (candidate.status, candidate.reason) = (.refused, "\(error)")
            }
            state.candidates[index] = candidate
            try save()
            progress(.measured(index))
        }
        return true
    }

    /// The search over the candidates within the limits, as long as the budget allows.
    private func planned() -> SuccessiveHalving {
        let plan = state.plan
        let candidates = state.candidates.indices.filter { state.candidates[$0].status == .waiting }
        let costs = candidates.compactMap { state.candidates[$0].epochSeconds }
        let mean = costs.reduce(0, +) / Double(max(1, costs.count))
        let epochs =
            plan.epochs
            ?? SuccessiveHalving.longest(
                candidates: candidates.count, rungs: plan.rungs, eta: plan.eta, secondsPerEpoch: mean,
                seconds: Self.plannedShare * (plan.budget - seconds), limit: Self.longestTraining)
        return SuccessiveHalving(
            candidates: candidates, epochs: SuccessiveHalving.rungs(plan.rungs, upTo: epochs, eta: plan.eta),
            eta: plan.eta)
    }

    private func train(
        _ job: SuccessiveHalving.Job, _ isOver: () -> Bool, _ progress: (Event) -> Void
    ) throws -> SuccessiveHalving.Outcome {
        let run = try open(job.candidate, progress)
        var failure: (any Error)?
        defer { progress(.trained(job)) }
        do {
            let isDone = try run.run(
                upTo: state.search!.epochs[job.rung], shouldStop: { failure != nil || isOver() },
                progress: { event in
                    progress(.training(job, event))
                    // What is spent is counted when the work is safe: a kill loses neither more nor less.
                    if case .checkpoint = event { do { try save() } catch { failure = error } }
                })
            if let failure { throw failure }
            state.candidates[job.candidate].points = try run.points()
            if run.trainer.state.update > 0 { state.candidates[job.candidate].status = .trained }
            return isDone ? .score(run.trainer.state.bestScore) : .stopped
        } catch let error as DivergedError {
            state.candidates[job.candidate].points = try run.points()
            state.candidates[job.candidate].status = .failed
            state.candidates[job.candidate].reason = "\(error)"
            return .failed
        }
    }

    private func open(_ candidate: Int, _ progress: (Event) -> Void) throws -> TrainingRun {
        let path = "\(folder)/\(state.path(of: candidate))"
        guard !FileManager.default.fileExists(atPath: "\(path)/\(RunFolder.configurationName)") else {
            return try TrainingRun.resume(at: path) { progress(.notice($0)) }
        }
        return try TrainingRun.begin(
            try plan(of: candidate), at: path, imageSize: state.plan.imageSize, overwrite: true)
    }

    /// How a candidate is trained.
    private func plan(of candidate: Int) throws -> TrainingRun.Plan {
        let entry = state.candidates[candidate]
        return try state.plan.run(
            model: entry.model, method: entry.method, epochs: state.search?.epochs.last ?? 1, side: side)
    }

    private func save() throws {
        state.seconds = seconds
        try AtomicFile.write(json.text(indented: true) + "\n", to: "\(folder)/\(StudyState.fileName)")
    }

    /// Writes `study.html`.
    public func report() throws { try AtomicFile.write(page.html, to: "\(folder)/study.html") }

    /// The content of `study.json`: the state, the winner and the command that trains it to the end.
    public var json: JSON {
        let winner = state.winner.map { index in
            let candidate = state.candidates[index]
            return JSON.object([
                JSON.Member("model", .string(candidate.model)), JSON.Member("method", .string(candidate.method)),
                JSON.Member("accuracy", JSON(candidate.accuracy ?? 0)),
                JSON.Member("run", .string("\(folder)/\(state.path(of: index))")),
            ])
        }
        return .object(
            (state.json.members ?? []) + [
                JSON.Member("winner", winner ?? .null), JSON.Member("command", command.map { .string($0) } ?? .null),
            ])
    }

    /// The command that trains the winner to the end; nil without a winner.
    ///
    /// A winner whose schedule is not at its end goes on with it. One that has come to it is trained anew with the same
    /// recipe: on all the images if the study used a part of them, otherwise η times as long.
    public var command: String? {
        guard let winner = state.winner, let whole = state.search?.epochs.last else { return nil }
        guard state.candidates[winner].epochs >= whole else {
            return "tessera train --resume \(quotedForShell("\(folder)/\(state.path(of: winner))"))"
        }
        guard var plan = try? plan(of: winner) else { return nil }
        if plan.options.trainingFraction < 1 {
            plan.options.trainingFraction = 1
        } else {
            plan.options.epochs *= state.plan.eta
            plan.options.warmupEpochs *= Double(state.plan.eta)
        }
        return plan.commandLine(out: "runs/\(plan.model)", imageSize: state.plan.imageSize)
    }
}

/// A study cannot begin.
public struct StudyError: Error, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }
}

extension TrainingRun {
    /// What each epoch led to, from the table of results.
    fileprivate func points() throws -> [StudyCandidate.Point] {
        try metrics.rows().compactMap { row in
            guard let epoch = Int(row[1]), let loss = Double(row[4]), let accuracy = Double(row[5]),
                let seconds = Double(row[7]), loss.isFinite, accuracy.isFinite, seconds.isFinite
            else { return nil }
            return StudyCandidate.Point(epoch: epoch, loss: loss, accuracy: accuracy, seconds: seconds)
        }
    }
}
