import Tessera
import TesseraIO

/// A whole ONNX graph as a function of images, in operations of this library: it can be traced, compiled and run.
///
/// Every operation is checked before it is applied, so that a wrong file is refused and cannot stop the program.
public struct ONNXFunction: Sendable {
    private let file: String
    private let nodes: [ONNXNode]
    private let version: Int
    private let constants: [String: ONNXTensor]
    /// The image: `[batch, channels, height, width]` in the file.
    public let input: ONNXValueInfo
    public let outputs: [String]
    /// What the producer noted.
    public let metadata: [String: String]

    /// - Throws: `FormatError` for an operator that has no form here, or a graph that takes more than an image.
    public init(_ path: String) throws { try self.init(ONNXModel(path), file: path) }

    /// - Parameter file: the name for messages
    init(_ model: ONNXModel, file: String) throws {
        self.file = file
        func refuse(_ found: String, _ expected: String) -> FormatError {
            FormatError(file: file, found: found, expected: expected)
        }
        guard ONNXFunction.versions.contains(model.operatorVersion) else {
            throw refuse("operators of version \(model.operatorVersion)", "version 7 to 23")
        }
        version = model.operatorVersion
        let constants = Dictionary(model.constants.map { ($0.name, $0.tensor) }) { first, _ in first }
        self.constants = constants
        let inputs = model.inputs.filter { constants[$0.name] == nil }
        guard inputs.count == 1, inputs[0].shape.count == 4 else {
            throw refuse(
                "inputs \(inputs.map { "\($0.name) of \($0.shape.count) axes" }.joined(separator: ", "))",
                "one, [batch, channels, height, width]")
        }
        guard !model.outputs.isEmpty else { throw refuse("no outputs", "at least one") }
        input = inputs[0]
        outputs = model.outputs.map(\.name)
        metadata = Dictionary(model.metadata.map { ($0.key, $0.value) }) { first, _ in first }
        nodes = Composites.recognised(in: model.nodes, constants: constants, outputs: Set(outputs))
        for node in nodes where ONNXFunction.operators[node.operation] == nil || !isStandard(node.domain) {
            let domain = isStandard(node.domain) ? "" : "\(node.domain)."
            throw FormatError(
                file: file, subject: "node \(node.name.isEmpty ? node.outputs.first ?? "" : node.name)",
                found: "operator \(domain)\(node.operation)", expected: "one that can be run here")
        }
    }

    private static let versions = 7...23

    /// The extents of an image that the file asks for, `[channels, height, width]`; nil where it leaves them open.
    public var imageExtents: [Int?] {
        input.shape.dropFirst().map { extent in if case .fixed(let value) = extent { value } else { nil } }
    }

    /// Computes the outputs, in the graph's own layout.
    ///
    /// - Parameter image: `[batch, height, width, channels]`
    /// - Throws: `FormatError` that names the node whose operands do not fit.
    public func callAsFunction(_ image: Tensor) throws -> [Tensor] {
        var values = constants.mapValues { ImportedValue($0) }
        values[input.name] = ImportedValue(image, .channelsLast)
        var budget = mostComputed
        for node in nodes {
            let operands = try node.inputs.map { name -> ImportedValue? in
                if name.isEmpty { return nil }
                guard let value = values[name] else {
                    throw FormatError(
                        file: file, subject: "node \(node.name) (\(node.operation))", found: "operand \(name)",
                        expected: "a value that is computed before")
                }
                return value
            }
            let isConstant = image.isAbstract && operands.allSatisfy { $0?.isKnown ?? true }
            let given = ONNXOperands(
                file: file, node: node, version: version, values: operands,
                mostElements: isConstant ? budget : ONNXOperands.mostElements)
            let results = try ONNXFunction.operators[node.operation]!(given)
            for (name, result) in zip(node.outputs, results) {
                if result.isKnown, image.isAbstract { budget -= result.memory.count }
                values[name] = result
            }
            try given.require(
                budget >= 0 && results.allSatisfy { $0.memory.count <= ONNXOperands.mostElements }, "too large a value",
                "constants of at most \(mostComputed) elements")
        }
        return try outputs.map { name in
            guard let value = values[name] else {
                throw FormatError(file: file, found: "no value \(name)", expected: "every output")
            }
            return value.tensor
        }
    }

    /// Elements that may be computed from constants alone: in proportion to those in the file.
    private var mostComputed: Int { (1 << 24) + 4 * constants.values.reduce(0) { $0 + $1.shape.count } }

    typealias Operator = @Sendable (ONNXOperands) throws -> [ImportedValue]

    /// Every operator that can be run, by name.
    static let operators: [String: Operator] = [
        elementwiseOperators, comparisonOperators, shapeOperators, indexOperators, reductionOperators,
        normalizationOperators, productOperators, mapOperators,
    ].reduce(into: [:]) { $0.merge($1) { first, _ in first } }
}

private func isStandard(_ domain: String) -> Bool { domain.isEmpty || domain == "ai.onnx" }
