import Foundation
import Tessera
import TesseraModels

/// What a study is told. It is written into `study.json`, so that a study can be resumed by its folder alone.
public struct StudyPlan: Codable, Sendable, Equatable {
    /// The data set's name or path, and its format if it was said outright.
    public var data: String
    public var format: String?
    /// The part of each class's training images to use.
    public var fraction = 1.0
    /// Seconds.
    public var budget: Double
    /// The most milliseconds that one image may take.
    public var latency: Double?
    /// The most parameters.
    public var parameters: Int?
    public var models: [String]
    public var methods = [TrainingMethod.supervised.name]
    /// For the methods that take one.
    public var teacher: String?
    /// Nil: small images keep their size, else the model's.
    public var imageSize: Int?
    /// The length of a whole training; nil: what the budget allows.
    public var epochs: Int?
    public var rungs = 3
    public var eta = 3
    public var batchSize = 64
    public var learningRate = 1e-3
    /// The most images that candidates are compared on; nil: all that are held out.
    public var validationImages: Int?
    public var seed: UInt64 = 42
    public var workers = 2
    public var precision = Precision.automatic

    public init(data: String, budget: Double, models: [String] = []) {
        (self.data, self.budget, self.models) = (data, budget, models)
    }

    /// The models that are tried when none is named: small ones of several kinds, a convolutional network among them.
    public static func usualModels(smallImages: Bool) -> [String] {
        smallImages
            ? [
                "cct_2_3x2_32", "vit_4_4_32", "cvt_4_4_32", "resnet18", "cct_4_3x2_32", "cifar_resnet56_c10",
                "cct_6_3x2_32", "dhvt_tiny_cifar_patch4",
            ]
            : [
                "pvt_v2_b0", "xcit_nano_12_p16_224", "deit_tiny_patch16_224", "resnet18", "cct_7_7x2_224",
                "t2t_vit_7", "mobilevit_xxs", "dhvt_tiny_imagenet_patch16",
            ]
    }

    /// Refuses what cannot be, before anything is written.
    /// - Throws: ``OptionsError``, ``UnknownMethodError``, ``MethodError``, `UnknownModelError`
    func validate() throws {
        var problems = OptionProblems()
        problems.require(budget > 0 && budget < 1e9, "budget", budget, "a time above 0, such as 30m")
        problems.require(latency ?? 1 > 0, "latency", latency ?? 0, "a time above 0, such as 10ms")
        problems.require(parameters ?? 1 > 0, "parameters", parameters ?? 0, "a number above 0, such as 5M")
        problems.require(fraction > 0 && fraction <= 1, "fraction", fraction, "above 0, at most 1")
        problems.require((1...10).contains(rungs), "rungs", rungs, "1 to 10")
        problems.require((2...100).contains(eta), "eta", eta, "2 to 100")
        problems.require((1...100_000).contains(epochs ?? 1), "epochs", epochs ?? 0, "1 to 100000")
        problems.require(!methods.isEmpty, "methods", "none", "at least one")
        guard problems.lines.isEmpty else { throw OptionsError(problems: problems.lines) }
        for model in models { _ = try Registry.entry(model) }
        let chosen = try methods.map(TrainingMethod.named)
        if teacher == nil, let method = chosen.first(where: { $0.teacher == .required }) {
            throw MethodError(method.name, "needs a teacher, expected --teacher RUN")
        }
        if let teacher, chosen.allSatisfy({ $0.teacher == .none }) {
            throw MethodError(methods.joined(separator: ","), "takes no teacher, found --teacher \(teacher)")
        }
    }

    /// The training of one candidate to the end of `epochs`.
    ///
    /// The learning rate warms up and falls by a cosine over the whole length, wherever the search pauses: a candidate
    /// that is promoted goes on exactly as if it had never been paused, and candidates of one rung are compared at the
    /// same place of the same schedule.
    ///
    /// - Parameter side: of the images as they are trained
    func run(model: String, method: String, epochs: Int, side: Int) throws -> TrainingRun.Plan {
        var plan = TrainingRun.Plan(model: model, data: data)
        plan.format = format
        plan.teacher = try TrainingMethod.named(method).teacher == .none ? nil : teacher
        var options = TrainingOptions()
        options.method = method
        options.epochs = epochs
        (options.batchSize, options.learningRate, options.seed) = (batchSize, learningRate, seed)
        options.minimumRate = min(options.minimumRate, learningRate)
        options.warmupEpochs = Double(epochs) / 20
        options.validationImages = validationImages
        (options.trainingFraction, options.workers, options.precision) = (fraction, workers, precision)
        // Short trainings gain nothing from heavy augmentation: shifts of an eighth, or crops of at least a third.
        if side <= 64 { options.cropPadding = side / 8 } else { options.scale = [0.35, 1] }
        options.checkpointSeconds = min(60, max(1, budget / 50))
        plan.options = options
        return plan
    }
}

extension TrainingRun.Plan {
    /// The command that trains as this plan says, word by word, ready for a shell: what is not a default of
    /// `tessera train` is said.
    func commandLine(out: String, imageSize: Int?) -> String {
        let standard = TrainingOptions()
        var words = ["tessera", "train", model, "--data", data, "--out", out]
        func say(_ flag: String, _ values: String?...) {
            let values = values.compactMap { $0 }
            if !values.isEmpty { words += ["--" + flag] + values }
        }
        say("format", format)
        if options.method != standard.method { say("method", options.method) }
        say("teacher", teacher)
        say("image-size", imageSize.map(String.init))
        say("epochs", "\(options.epochs)")
        say("batch", "\(options.batchSize)")
        say("lr", "\(options.learningRate)")
        if options.minimumRate != standard.minimumRate { say("min-lr", "\(options.minimumRate)") }
        say("warmup-epochs", "\(options.warmupEpochs)")
        say("crop-padding", options.cropPadding.map(String.init))
        if options.scale != standard.scale { say("scale", "\(options.scale[0])", "\(options.scale[1])") }
        say("seed", "\(options.seed)")
        if options.workers != standard.workers { say("workers", "\(options.workers)") }
        if options.trainingFraction != 1 { say("fraction", "\(options.trainingFraction)") }
        return words.map(quotedForShell).joined(separator: " ")
    }
}

/// The word as a shell reads it: in quotes where it has other characters than those of names and numbers.
func quotedForShell(_ word: String) -> String {
    let plain = CharacterSet(charactersIn: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./=:,+@")
    if !word.isEmpty, word.unicodeScalars.allSatisfy(plain.contains) { return word }
    return "'" + word.replacingOccurrences(of: "'", with: #"'\''"#) + "'"
}
