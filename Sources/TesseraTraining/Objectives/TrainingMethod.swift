import Tessera
import TesseraData
import TesseraModels
import TesseraNN

/// A training method as `--method` knows it: a name, a paper, and how its objective is made.
public struct TrainingMethod: Sendable {
    public enum TeacherUse: String, Sendable {
        case none, required
    }

    public let name: String
    /// One line.
    public let summary: String
    /// Title, year and arXiv number; nil for plain training.
    public let paper: (title: String, year: Int, arxiv: String)?
    public let teacher: TeacherUse
    /// Refuses an unsuitable model or teacher.
    let makeObjective: @Sendable (MethodSetup) throws -> any Objective

    /// In the order in which they are listed.
    public static let all: [TrainingMethod] = [
        .supervised, .deit, .distillation, .drloc, .localityGuidance, .bootstrapping,
        .intermediateSupervision, .maskedAutoencoder, .tokenRelations,
    ]

    /// - Throws: ``UnknownMethodError`` with the nearest names.
    public static func named(_ name: String) throws -> TrainingMethod {
        guard let method = all.first(where: { $0.name == name }) else {
            throw UnknownMethodError(name: name, nearest: nearestNames(to: name, in: all.map(\.name)))
        }
        return method
    }
}

/// What an objective is made for.
public struct MethodSetup {
    public let method: TrainingMethod
    public let model: any ImageClassifier
    /// Whether nothing but its initialisers has given the model values: then a method may begin with its own.
    public let isNew: Bool
    /// The model's input.
    public let preprocessing: Preprocessing
    /// The names of the classes.
    public let labels: [String]
    public let options: TrainingOptions
    private let teacherPath: String?

    /// - Parameter teacher: a run folder or weight file
    /// - Throws: ``UnknownMethodError``; ``MethodError`` for a teacher too many or too few.
    public init(
        model: any ImageClassifier, isNew: Bool = true, preprocessing: Preprocessing, labels: [String],
        options: TrainingOptions, teacher: String?
    ) throws {
        method = try TrainingMethod.named(options.method)
        (self.model, self.isNew, self.preprocessing, self.labels) = (model, isNew, preprocessing, labels)
        (self.options, teacherPath) = (options, teacher)
        switch (method.teacher, teacher) {
        case (.none, let teacher?):
            throw MethodError(method.name, "takes no teacher, found --teacher \(teacher)")
        case (.required, nil): throw MethodError(method.name, "needs a teacher, expected --teacher RUN")
        default: break
        }
    }

    public func objective() throws -> any Objective { try method.makeObjective(self) }

    /// The teacher of a method that requires one.
    /// - Parameters:
    ///   - answers: whether its logits are used: then its classes must be the student's
    ///   - seesPlainImages: whether it is shown the images before their colours were changed
    /// - Throws: ``MethodError``, and the errors of a file that is not a run.
    public func requiredTeacher(answers: Bool, seesPlainImages: Bool = false) throws -> Teacher {
        guard let path = teacherPath else {
            throw MethodError(method.name, "needs a teacher, expected --teacher RUN")
        }
        let teacher = Teacher(
            try TrainedModel(path), student: preprocessing,
            remembers: options.showsImagesAgain(seesPlainImages: seesPlainImages))
        let channels = teacher.trained.preprocessing.channels
        guard channels == preprocessing.channels else {
            throw MethodError(
                method.name, "the teacher \(path) sees \(channels) channels, expected \(preprocessing.channels)")
        }
        guard answers, teacher.trained.labels != labels else { return teacher }
        let found = teacher.trained.labels
        let place = zip(found, labels).enumerated().first { $0.element.0 != $0.element.1 }
        let difference =
            found.count != labels.count
            ? "\(found.count) classes, expected \(labels.count)"
            : place.map { "\($0.element.0) as class \($0.offset), expected \($0.element.1)" } ?? ""
        throw MethodError(method.name, "the teacher \(path) knows \(difference)")
    }

    /// The error that says why the model cannot be trained in this way.
    public func refusal(_ reason: String) -> MethodError { MethodError(method.name, reason) }

    /// An image of the model's size without values.
    public var abstractImage: Tensor {
        Tensor(abstract: [1, preprocessing.height, preprocessing.width, preprocessing.channels])
    }
}

/// A method cannot train this model, or not with this teacher.
public struct MethodError: Error, Equatable, CustomStringConvertible {
    public let method: String
    public let reason: String

    public init(_ method: String, _ reason: String) { (self.method, self.reason) = (method, reason) }

    public var description: String { "--method \(method): \(reason)" }
}

/// No method has this name.
public struct UnknownMethodError: Error, Equatable, CustomStringConvertible {
    public let name: String
    public let nearest: [String]

    public var description: String {
        let advice =
            nearest.isEmpty ? "`tessera methods` lists them all" : "did you mean \(nearest.joined(separator: ", "))?"
        return "unknown method \(name): \(advice)"
    }
}
