import Tessera
import TesseraModels
import TesseraNN

/// The settings of TinyMIM.
public struct TokenRelationOptions: MethodOptions {
    static let methods = ["tinymim"]
    static let prefix = "tinymim"

    /// What the student learns of its teacher.
    public enum Target: String, Codable, Sendable, CaseIterable {
        /// How every token attends to every other, and how alike their values are: the method.
        case relations
        /// All tokens, through a linear map: an ablation of the paper, for which no code was published.
        case features
        /// The class token, through a linear map: another one.
        case classToken = "class-token"
    }

    public var target = Target.relations
    /// The teacher's block, counted from 1; nil: the last one, or that at three quarters of 24 blocks or more, as the
    /// paper takes the 18th of ViT-L.
    public var block: Int?
    /// Heads of the relations of both; nil: the teacher's own.
    public var heads: Int?

    public init() {}

    func checkValues(_ problems: inout OptionProblems) {
        problems.require((1...1024).contains(block ?? 1), "tinymim-block", block ?? 1, "1 to 1024")
        problems.require((1...1024).contains(heads ?? 1), "tinymim-heads", heads ?? 1, "1 to 1024")
    }

    func block(of depth: Int) -> Int { block ?? (depth >= 24 ? depth * 3 / 4 : depth) }
}

/// TinyMIM: "TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models" (2023), arXiv 2301.01296.
///
/// A small transformer learns the relations between tokens of one block of a larger one that was pre-trained by hiding
/// patches: with T of the teacher and S of the student, over the heads of their last axis of size d,
/// loss = KL(T‖S) of softmax(q kᵀ / √d) + KL(T‖S) of softmax(v vᵀ / √d), each the mean over images, heads and tokens.
/// Widths may differ, grids may not. The teacher sees the images before their colours were changed. What lies behind the
/// student's last queries, keys and values gets no gradient and stays as it is.
public final class TokenRelationDistillation: Objective {
    public var model: any ImageClassifier { student }
    public var companion: Module? { projection }
    public let classifies = false
    public let seesPlainImages = true
    private let student: VisionTransformer
    private let teacher: (Tensor) -> [Tensor]
    private let target: TokenRelationOptions.Target
    private let heads: Int
    private let projection: Projection?

    /// From the student's channels to the teacher's.
    final class Projection: Module {
        let tinymim: Linear

        init(_ inputs: Int, _ outputs: Int) { tinymim = Linear(inputs, outputs) }
    }

    /// - Parameters:
    ///   - teacher: from images to what ``answers(_:_:_:block:heads:trainsPositions:)`` says of the teacher
    ///   - teacherWidth: the channels of its tokens
    ///   - heads: of the relations
    init(
        _ student: VisionTransformer, teacher: @escaping (Tensor) -> [Tensor], teacherWidth: Int,
        target: TokenRelationOptions.Target, heads: Int
    ) {
        (self.student, self.teacher, self.target, self.heads) = (student, teacher, target, heads)
        projection = target == .relations ? nil : Projection(student.configuration.width, teacherWidth)
    }

    public func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
        let taught = teacher(batch.plainImages)
        let found = Self.answers(
            student, batch.images, target, block: student.blocks.count, heads: heads, trainsPositions: false)
        let terms = zip(taught, found).map { taught, found in
            projection.map { ($0.tinymim(found) - taught).squared().mean() } ?? Self.divergence(taught, found)
        }
        return ObjectiveValue(loss: terms.reduce(Tensor(0), +), logits: nil)
    }

    /// Of one block, counted from 1: for relations the scores of queries with keys and of values with values before their
    /// softmax, each `[batch, heads, tokens, tokens]`; else the tokens behind it.
    static func answers(
        _ model: VisionTransformer, _ images: Tensor, _ target: TokenRelationOptions.Target, block: Int, heads: Int,
        trainsPositions: Bool = true
    ) -> [Tensor] {
        let tokens = model.embedded(images, trainsPositions: trainsPositions).tokens
        switch target {
        case .features: return [model.transformed(tokens, blocks: block)]
        case .classToken: return [model.transformed(tokens, blocks: block).sliced(axis: 1, from: 0, to: 1)]
        case .relations:
            let last = model.blocks[block - 1]
            let packed = last.attn.qkv(last.norm1(model.transformed(tokens, blocks: block - 1)))
            let (batch, count, size) = (tokens.shape[0], tokens.shape[1], tokens.shape[2] / heads)
            let parts = packed.reshaped([batch, count, 3, heads, size]).transposed([2, 0, 3, 1, 4])
                .split(axis: 0, sizes: [1, 1, 1]).map { $0.reshaped([batch, heads, count, size]) }
            let scale = 1 / Float(size).squareRoot()
            return [(parts[0], parts[1]), (parts[2], parts[2])].map { left, right in
                (left * scale).multiplied(by: right, transposing: (false, true))
            }
        }
    }

    /// The mean over rows of Σ T (log T − log S), from scores `[batch, heads, tokens, tokens]`.
    static func divergence(_ teacher: Tensor, _ student: Tensor) -> Tensor {
        let (p, logP) = Tape.pause { (teacher.softmax(axis: -1), teacher.logSoftmax(axis: -1)) }
        let rows = student.count / student.shape[-1]
        return (p * (logP - student.logSoftmax(axis: -1))).sum() / Float(max(1, rows))
    }
}

extension TrainingMethod {
    static let tokenRelations = TrainingMethod(
        name: "tinymim", summary: "pre-training without labels: relations between tokens as in a block of the teacher",
        paper: ("TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models", 2023, "2301.01296"),
        teacher: .required, makeObjective: { try TokenRelationDistillation($0) })
}

extension TokenRelationDistillation {
    fileprivate convenience init(_ setup: MethodSetup) throws {
        let (student, options) = (try setup.plainTransformer(), setup.options.tinymim)
        let teacher = try setup.requiredTeacher(answers: false, seesPlainImages: true)
        guard let larger = teacher.trained.model as? VisionTransformer else {
            throw setup.refusal("the teacher is no plain Vision Transformer, expected one of the systems vit and deit")
        }
        let (c, other) = (student.configuration, larger.configuration)
        guard c.grid == other.grid, student.prefixTokens == larger.prefixTokens else {
            func tokens(_ model: VisionTransformer) -> String {
                "\(model.configuration.grid) tokens and \(model.prefixTokens) before them"
            }
            throw setup.refusal("the teacher has \(tokens(larger)), expected \(tokens(student)) as the model has")
        }
        guard options.target != .classToken || c.hasClassToken && other.hasClassToken else {
            throw setup.refusal("model or teacher has no class token, which --tinymim-target class-token compares")
        }
        let block = options.block(of: other.depth)
        guard block <= other.depth else {
            throw setup.refusal("--tinymim-block \(block): the teacher has \(other.depth) blocks")
        }
        let heads = options.heads ?? other.heads
        guard c.width % heads == 0, other.width % heads == 0 else {
            throw setup.refusal(
                "\(heads) heads of relations do not divide the widths of model (\(c.width)) and teacher "
                    + "(\(other.width)), expected --tinymim-heads that do")
        }
        student.dropPathsEqually()
        self.init(
            student,
            teacher: teacher.compiled { Self.answers(larger, $0, options.target, block: block, heads: heads) },
            teacherWidth: other.width, target: options.target, heads: heads)
    }
}
