import Tessera

/// A checkpoint does not fit a model: every missing, unexpected and mis-shaped tensor, the first few named.
public struct StateDictionaryError: Error, CustomStringConvertible, Equatable {
    public var missing: [String] = []
    public var unexpected: [String] = []
    /// Lines such as `head.weight: found [10, 192], expected [1000, 192]`.
    public var misshaped: [String] = []

    public init(missing: [String] = [], unexpected: [String] = [], misshaped: [String] = []) {
        (self.missing, self.unexpected, self.misshaped) = (missing, unexpected, misshaped)
    }

    public var isEmpty: Bool { missing.isEmpty && unexpected.isEmpty && misshaped.isEmpty }

    public var description: String {
        func list(_ title: String, _ names: [String]) -> String? {
            guard let first = names.first else { return nil }
            return "\(names.count) \(title) (first: \(first.onOneLine()))"
        }
        let parts = [
            list("missing", missing), list("unexpected", unexpected), list("of another shape", misshaped),
        ]
        return "the weights are for another model: " + parts.compactMap { $0 }.joined(separator: ", ")
    }
}

extension Module {
    /// All parameters and buffers under their checkpoint names, in PyTorch's layout.
    public var stateDictionary: [(key: String, tensor: Tensor)] {
        placedParameters.map { ($0.key, $0.parameter.exported($0.parameter.value)) }
    }

    /// Fills the model from tensors in PyTorch's layout.
    ///
    /// - Parameters:
    ///   - adapting: a chance to convert a tensor of another shape (position tables for another image size); nil: it
    ///     does not fit.
    ///   - skipping: keys to leave at their initial values, such as a head for other classes.
    /// - Throws: ``StateDictionaryError`` if anything is missing, unexpected or mis-shaped; then nothing has changed.
    public func load(
        _ tensors: [String: Tensor], adapting: (String, Tensor) -> Tensor? = { _, _ in nil },
        skipping: (String) -> Bool = { _ in false }
    ) throws {
        var error = StateDictionaryError()
        var loaded: [(Parameter, Tensor)] = []
        var known: Set<String> = []
        var absent: [(key: String, parameter: Parameter)] = []
        for (key, parameter) in placedParameters {
            known.insert(key)
            if skipping(key) { continue }
            guard var tensor = tensors[key] else {
                absent.append((key, parameter))
                continue
            }
            if tensor.shape != parameter.exportedShape, let adapted = adapting(key, tensor) { tensor = adapted }
            guard tensor.shape == parameter.exportedShape else {
                error.misshaped.append("\(key): found \(tensor.shape), expected \(parameter.exportedShape)")
                continue
            }
            loaded.append((parameter, tensor))
        }
        // A shared parameter is complete with one of its copies.
        let complete = Set(loaded.map { ObjectIdentifier($0.0) })
        error.missing = absent.filter { !complete.contains(ObjectIdentifier($0.parameter)) }.map(\.key)
        error.unexpected = tensors.keys.filter { key in
            !known.contains(key) && !skipping(key) && !Self.derivedBuffers.contains { key.hasSuffix($0) }
        }.sorted()
        guard error.isEmpty else { throw error }
        for (parameter, tensor) in loaded { parameter.value = parameter.imported(tensor) }
    }

    /// Ends of the keys of buffers that PyTorch models save although they follow from the architecture: the count of
    /// batches in batch norm, which nobody uses, and the index tables and masks of window attention.
    private static let derivedBuffers = ["num_batches_tracked", "relative_position_index", "attn_mask"]
}

extension Parameter {
    /// The shape in PyTorch's layout.
    public var exportedShape: Shape {
        switch layout {
        case .same: shape
        case .convolution: [shape[0], shape[3], shape[1], shape[2]]
        case .pointwise: [shape[0], shape[1], 1, 1]
        }
    }

    /// A tensor of this parameter's shape (its value, gradient or moment) in PyTorch's layout.
    public func exported(_ tensor: Tensor) -> Tensor {
        switch layout {
        case .same: tensor
        case .convolution: tensor.transposed([0, 3, 1, 2])
        case .pointwise: tensor.reshaped(exportedShape)
        }
    }

    /// A tensor in PyTorch's layout in ours.
    public func imported(_ tensor: Tensor) -> Tensor {
        switch layout {
        case .same: tensor
        case .convolution: tensor.transposed([0, 2, 3, 1])
        case .pointwise: tensor.reshaped(shape)
        }
    }
}
