import Tessera
import TesseraNN

/// A model held against its reference implementation: raw tensors in, raw tensors out, in the reference's own layout
/// (images `[batch, channels, height, width]`, PyTorch weights).
///
/// The metadata names the model: `system`, `reference` (`owner/name` and class) and `config` (JSON: the arguments of the
/// reference's constructor). The tensors are `param.KEY`, `input` and, for gradients, `cotangent`; a model with several
/// outputs `output.NAME` has a `cotangent.NAME` for each, and whatever else it reads is `input.NAME`.
public struct ReferenceCase {
    public let model: any ImageClassifier
    private let input: Tensor
    private let cotangents: [String: Tensor]

    /// Builds the model and loads its parameters.
    ///
    /// - Throws: ``ReferenceCaseError`` for missing metadata or tensors, `ArgumentError` for arguments that are unknown
    ///   or impossible, ``UnknownModelError``, `StateDictionaryError`.
    public init(metadata: [String: String], tensors: [String: Tensor]) throws {
        func required(_ key: String) throws -> String {
            guard let value = metadata[key] else { throw ReferenceCaseError("metadata \(key)", "nothing", "a text") }
            return value
        }
        var configuration = try Registry.configuration(
            try required("system"), reference: metadata["reference"] ?? "")
        let arguments = try Arguments(parsing: try required("config"), section: "config")
        _ = try arguments.optionalString("note")
        try configuration.apply(arguments)
        guard let input = tensors["input"] else { throw ReferenceCaseError("tensor input", "nothing", "an image") }
        guard input.rank == 4, input.shape[1] == configuration.channels else {
            throw ReferenceCaseError(
                "tensor input", "shape \(input.shape)", "[batch, \(configuration.channels), height, width]")
        }
        model = configuration.makeModel()
        let parameters = tensors.compactMap { key, tensor in
            key.hasPrefix("param.") ? (String(key.dropFirst(6)), tensor) : nil
        }
        try model.load(Dictionary(uniqueKeysWithValues: parameters))
        self.input = input.transposed([0, 2, 3, 1])
        cotangents = tensors.filter { $0.key == "cotangent" || $0.key.hasPrefix("cotangent.") }
        try model.adoptReferenceInputs(tensors.filter { $0.key.hasPrefix("input.") })
    }

    /// The outputs; with `gradients` also `grad_input` and `grad.KEY`, the gradients of sum(output × cotangent) in
    /// evaluation mode (the cotangent is one everywhere if the case has none).
    /// - Throws: ``ReferenceCaseError`` if a cotangent has not its output's shape.
    public func run(gradients: Bool) throws -> [(key: String, tensor: Tensor)] {
        guard gradients else { return model.referenceOutputs(input).map { ($0.key, $0.tensor.detached) } }
        let tape = Tape()
        let image = Tape.leaf(input)
        let outputs = tape.record { model.referenceOutputs(image) }
        let sum = try tape.record {
            try outputs.map { key, output in
                let name = key.replacing("output", with: "cotangent", maxReplacements: 1)
                guard let cotangent = cotangents[name] else { return output.sum() }
                guard cotangent.shape == output.shape else {
                    throw ReferenceCaseError("tensor \(name)", "shape \(cotangent.shape)", "shape \(output.shape)")
                }
                return (output * cotangent).sum()
            }.reduce(Tensor(0), +)
        }
        let results = tape.gradients(of: sum)
        var found: [(key: String, tensor: Tensor)] = outputs.map { ($0.key, $0.tensor.detached) }
        if let gradient = results[image] { found.append(("grad_input", gradient.transposed([0, 3, 1, 2]))) }
        for (key, parameter) in model.placedParameters {
            guard parameter.isTrainable else { continue }
            // What the output does not depend on has a gradient all the same.
            let gradient = results[parameter.tensor] ?? Tensor(zeros: parameter.shape)
            found.append(("grad.\(key)", parameter.exported(gradient)))
        }
        return found
    }
}

/// A reference case lacks something.
public struct ReferenceCaseError: Error, Equatable, CustomStringConvertible {
    public let field: String
    public let found: String
    public let expected: String

    init(_ field: String, _ found: String, _ expected: String) {
        (self.field, self.found, self.expected) = (field, found, expected)
    }

    public var description: String { "\(field): found \(found), expected \(expected)" }
}
