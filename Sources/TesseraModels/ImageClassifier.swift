import Tessera
import TesseraNN

/// A model that classifies images `[batch, height, width, channels]`.
public protocol ImageClassifier: Module {
    /// Everything a forward pass has to tell.
    func features(_ image: Tensor) -> Features

    /// The answer alone: the same numbers, for less work where the token grid takes some that the answer does not need.
    func classify(_ image: Tensor) -> Classification

    /// Beginnings of the keys that depend on the number of classes: what fine-tuning for other classes makes anew.
    var headPrefixes: [String] { get }

    /// Keys that weight decay must spare besides biases and vectors, such as position tables.
    var undecayedKeys: Set<String> { get }

    /// How many tokens without a place in the image lead the sequence that attention sees.
    var prefixTokens: Int { get }

    /// A checkpoint tensor that was made for another image size, converted to this model's; nil if it cannot be.
    func adapted(_ key: String, _ tensor: Tensor) -> Tensor?

    /// What the reference implementation returns in evaluation mode, in its own layout: `output`, for most the logits,
    /// or one `output.NAME` for each of several.
    func referenceOutputs(_ image: Tensor) -> [(key: String, tensor: Tensor)]

    /// Takes from the `input.NAME` tensors of a reference case what the reference draws at random.
    /// - Throws: ``ReferenceCaseError``
    func adoptReferenceInputs(_ inputs: [String: Tensor]) throws
}

extension ImageClassifier {
    /// Logits `[batch, classes]`.
    public func callAsFunction(_ image: Tensor) -> Tensor { classify(image).logits }

    public func classify(_ image: Tensor) -> Classification { features(image).classification }

    public var undecayedKeys: Set<String> { [] }
    public var prefixTokens: Int { 0 }
    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? { nil }
    public func referenceOutputs(_ image: Tensor) -> [(key: String, tensor: Tensor)] { [("output", self(image))] }
    public func adoptReferenceInputs(_ inputs: [String: Tensor]) throws {}
}

/// What a classifier answers.
public struct Classification {
    /// `[batch, classes]`
    public let logits: Tensor
    /// The vector before the head: `[batch, channels]`.
    public let pooled: Tensor
    /// The two heads of a distilled model before they are averaged, nil for others.
    public let heads: (classification: Tensor, distillation: Tensor)?

    public init(logits: Tensor, pooled: Tensor, heads: (classification: Tensor, distillation: Tensor)? = nil) {
        (self.logits, self.pooled, self.heads) = (logits, pooled, heads)
    }
}

/// What a classifier computes on the way to its answer.
public struct Features {
    public let classification: Classification
    /// The last token grid: `[batch, rows, columns, channels]`.
    public let tokens: Tensor

    public var logits: Tensor { classification.logits }
    public var pooled: Tensor { classification.pooled }

    public init(_ classification: Classification, tokens: Tensor) {
        (self.classification, self.tokens) = (classification, tokens)
    }

    public init(logits: Tensor, pooled: Tensor, tokens: Tensor) {
        self.init(Classification(logits: logits, pooled: pooled), tokens: tokens)
    }
}

/// Height and width in pixels, or rows and columns.
public struct Size: Codable, Sendable, Hashable, CustomStringConvertible {
    public var height, width: Int

    public init(_ height: Int, _ width: Int) { (self.height, self.width) = (height, width) }
    public init(_ side: Int) { self.init(side, side) }
    public var description: String { "\(height)×\(width)" }
}

/// The hyper-parameters of one architecture: a value that can be read, changed, checked and built.
public protocol ClassifierConfiguration: Codable, Sendable {
    /// What every classifier has.
    var imageSize: Size { get set }
    var channels: Int { get set }
    var classes: Int { get set }
    /// The rate of stochastic depth at the last block.
    var dropPath: Float { get set }

    /// Takes over what `arguments` says, under the names of the reference implementation's constructor.
    /// - Throws: `ArgumentError` that names the argument, what was found and what was expected.
    mutating func update(_ arguments: Arguments) throws

    /// Refuses impossible combinations.
    /// - Throws: `ArgumentError`.
    func validate() throws

    func makeModel() -> any ImageClassifier
}

extension ClassifierConfiguration {
    /// Takes over `arguments`, refuses unknown ones, validates.
    public mutating func apply(_ arguments: Arguments) throws {
        try update(arguments)
        try arguments.finish()
        try validate()
    }

    /// The same for square images of another size.
    func with(imageSize side: Int) -> Self {
        var copy = self
        copy.imageSize = Size(side)
        return copy
    }

    /// Throws unless all lists have an element for each stage.
    func requireStages(_ depths: [Int], _ lists: (name: String, values: [Any])...) throws {
        guard (1...8).contains(depths.count) else {
            throw ArgumentError(field: "depths", found: "\(depths.count) stages", expected: "1 to 8")
        }
        for list in lists where list.values.count != depths.count {
            throw ArgumentError(
                field: list.name, found: "\(list.values.count) values", expected: "\(depths.count), one for each stage")
        }
    }

    /// Throws unless `divisor` divides `value`.
    func require(_ name: String, _ value: Int, divisibleBy divisor: Int, _ divisorName: String) throws {
        guard divisor > 0, value % divisor == 0 else {
            throw ArgumentError(field: name, found: "\(value)", expected: "a multiple of \(divisorName) (\(divisor))")
        }
    }
}

/// Bounds of constructor arguments: wide enough for every published model, narrow enough that a wrong file cannot ask
/// for absurd memory.
enum Limits {
    static let side = 1...16384
    static let channels = 1...4096
    static let width = 1...16384
    static let depth = 1...1024
    static let heads = 1...1024
    static let classes = 1...1_000_000
    static let rate = 0.0...0.999
    static let ratio = 0.01...64.0
}

extension Arguments {
    /// A probability of dropping something.
    func rate(_ name: String, _ current: Float) throws -> Float {
        Float(try double(name, default: Double(current), in: Limits.rate))
    }
}
