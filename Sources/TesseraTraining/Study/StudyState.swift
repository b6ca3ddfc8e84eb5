import Foundation
import Tessera
import TesseraIO

/// A model with a method, and what the study knows of them.
public struct StudyCandidate: Codable, Sendable, Equatable {
    public enum Status: String, Codable, Sendable {
        /// Not trained yet.
        case waiting
        /// Trained for at least a step.
        case trained
        /// Beyond a limit.
        case excluded
        /// The model cannot be built for these images, or not be trained by this method.
        case refused
        /// Training diverged.
        case failed
    }

    /// What an epoch of training led to.
    public struct Point: Codable, Sendable, Equatable {
        public let epoch: Int
        public let loss: Double
        /// On the validation images.
        public let accuracy: Double
        /// Of training so far.
        public let seconds: Double
    }

    public let model: String
    public let method: String
    public internal(set) var status = Status.waiting
    /// Why it is not trained, or no further.
    public internal(set) var reason: String?
    public internal(set) var parameters: Int?
    /// Median milliseconds of one image through the compiled plan.
    public internal(set) var latency: Double?
    /// Seconds of an epoch, estimated from a few steps.
    public internal(set) var epochSeconds: Double?
    public internal(set) var points: [Point] = []

    public init(model: String, method: String) { (self.model, self.method) = (model, method) }

    /// The model, and the method unless it is plain training.
    public var name: String { method == TrainingMethod.supervised.name ? model : "\(model) \(method)" }

    /// Of the best epoch, whose weights the run folder keeps.
    public var accuracy: Double? { points.map(\.accuracy).max() }

    public var epochs: Int { points.last?.epoch ?? 0 }

    public var seconds: Double { points.last?.seconds ?? 0 }
}

/// All that a study has found out so far: the content of `study.json`.
public struct StudyState: Codable, Sendable, Equatable {
    public internal(set) var plan: StudyPlan
    public internal(set) var candidates: [StudyCandidate]
    /// What to train next, once everything is measured.
    public internal(set) var search: SuccessiveHalving?
    /// Seconds of the budget that are spent, earlier sessions included.
    public internal(set) var seconds = 0.0
    /// Whether the search reached its end before the budget did.
    public internal(set) var isComplete = false

    /// The candidate of the best accuracy; among equals the smaller one.
    public var winner: Int? {
        let trained = candidates.indices.filter { candidates[$0].accuracy != nil && candidates[$0].status == .trained }
        return trained.max { a, b in
            (candidates[a].accuracy!, -(candidates[a].parameters ?? 0), -a)
                < (candidates[b].accuracy!, -(candidates[b].parameters ?? 0), -b)
        }
    }

    /// Candidates in the order of a table: by accuracy, then those without one as they were named.
    public var ranking: [Int] {
        candidates.indices.sorted { a, b in
            (candidates[a].accuracy ?? -1, b) > (candidates[b].accuracy ?? -1, a)
        }
    }

    static let fileName = "study.json"

    /// - Throws: `FormatError`, `SystemError`
    init(folder: String) throws {
        let path = "\(folder)/\(Self.fileName)"
        guard let bytes = FileManager.default.contents(atPath: path) else {
            throw SystemError("open", path, code: access(path, R_OK) == 0 ? EISDIR : errno)
        }
        let json: JSON
        do { json = try JSON(parsing: bytes) } catch {
            throw FormatError(file: path, found: "\(error)", expected: "what `tessera study` writes")
        }
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        guard let state = try? decoder.decode(StudyState.self, from: Data(json.text().utf8)), state.isPossible else {
            throw FormatError(file: path, found: "something else", expected: "what `tessera study` writes")
        }
        self = state
    }

    init(plan: StudyPlan) {
        self.plan = plan
        candidates = plan.models.flatMap { model in plan.methods.map { StudyCandidate(model: model, method: $0) } }
    }

    private var isPossible: Bool {
        guard let search else { return true }
        return search.isPossible && search.candidates.allSatisfy(candidates.indices.contains)
    }

    var json: JSON {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        encoder.keyEncodingStrategy = .convertToSnakeCase
        return (try? JSON(parsing: encoder.encode(self))) ?? .null
    }

    func path(of candidate: Int) -> String {
        let entry = candidates[candidate]
        let number = String(format: "%02d", candidate + 1)
        return "runs/\(number)-\(entry.name.replacingOccurrences(of: " ", with: "-"))"
    }
}
