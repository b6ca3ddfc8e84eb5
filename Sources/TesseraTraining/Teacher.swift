import Tessera
import TesseraData
import TesseraModels
import TesseraNN
import TesseraRuntime

/// A trained model that another one learns from. It runs compiled, in evaluation mode and without gradients, on the
/// batches of its student, which it sees at its own size and normalised as its own images were. One that will be shown the
/// same images again and again remembers what it said of them.
public final class Teacher {
    public let trained: TrainedModel
    private let student: Preprocessing
    private let remembers: Bool

    /// The most that answers of one kind may fill.
    private static let memoryBytes = 256 << 20

    /// - Parameter remembers: whether it is worth while to keep answers: with random crops hardly an image is seen twice
    public init(_ trained: TrainedModel, student: Preprocessing, remembers: Bool = false) {
        (self.trained, self.student, self.remembers) = (trained, student, remembers)
    }

    /// From the student's images to logits `[batch, classes]`.
    public func answers() -> (Tensor) -> Tensor {
        let compiled = trained.compiled
        let answers = remembering(antialias: true) { [compiled($0)] }
        return { answers($0)[0] }
    }

    /// A function of the teacher's features as a plan: for methods that learn from more than its answer.
    /// - Parameter antialias: how images are made smaller for it
    public func compiled(
        antialias: Bool = true, _ function: @escaping (Tensor) -> [Tensor]
    ) -> (Tensor) -> [Tensor] {
        let plan = CompiledModel(function)
        return remembering(antialias: antialias) { plan($0) }
    }

    private func remembering(
        antialias: Bool, _ function: @escaping (Tensor) -> [Tensor]
    ) -> (Tensor) -> [Tensor] {
        let answer = { [self] (images: Tensor) in
            let input = adapted(images, antialias: antialias)
            return Teacher.undisturbed { function(input) }
        }
        guard remembers else { return answer }
        let memory = AnswerMemory(bytes: Self.memoryBytes)
        return { memory.answers(for: $0, from: answer) }
    }

    /// The student's normalised images as the teacher's: normalised anew and resized.
    func adapted(_ images: Tensor, antialias: Bool = true) -> Tensor {
        let own = trained.preprocessing
        var images = images.detached
        if (student.mean, student.std) != (own.mean, own.std) {
            // ((s · σ + μ) − μ′) / σ′ with the student's μ, σ and the teacher's μ′, σ′.
            let scale = zip(student.std, own.std).map { $0 / $1 }
            let shift = zip(zip(student.mean, own.mean), own.std).map { ($0.0 - $0.1) / $1 }
            let shape: Shape = [1, 1, 1, own.channels]
            images = Tape.pause { images * Tensor(scale, shape) + Tensor(shift, shape) }
        }
        guard images.shape[1] != own.height || images.shape[2] != own.width else { return images }
        return Tape.pause {
            images.resized(height: own.height, width: own.width, interpolation: .bilinear, antialias: antialias)
        }
    }

    /// Plans are traced when they first run: neither the student's tape nor its training mode may show in them.
    private static func undisturbed<Result>(_ body: () -> Result) -> Result {
        TrainingPass.$current.withValue(nil) { Tape.pause(body) }
    }
}
