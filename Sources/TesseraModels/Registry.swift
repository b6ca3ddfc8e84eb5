import Tessera
import TesseraNN

/// One paper: its published variants, and how its reference implementation is configured.
public struct ModelSystem: Sendable {
    /// The short name, such as `vit`.
    public let id: String
    /// The name under which reference cases of several papers are collected; the id where there is one paper.
    public let group: String
    public let title: String
    public let year: Int
    public let arxiv: String
    public let variants: [ModelEntry]
    /// The defaults of a constructor of the reference implementation, named by `owner/name class`; nil for a reference
    /// of another system of the group.
    public let reference: @Sendable (String) -> (any ClassifierConfiguration)?

    init(
        id: String, group: String? = nil, title: String, year: Int, arxiv: String,
        variants: [(String, some ClassifierConfiguration)],
        reference: @escaping @Sendable (String) -> (any ClassifierConfiguration)?
    ) {
        (self.id, self.group, self.title, self.year, self.arxiv) = (id, group ?? id, title, year, arxiv)
        self.variants = variants.map { ModelEntry(name: $0, system: id, configuration: $1) }
        self.reference = reference
    }
}

/// A published variant under its published name.
public struct ModelEntry: Sendable {
    public let name: String
    /// The id of its ``ModelSystem``.
    public let system: String
    public let configuration: any ClassifierConfiguration

    /// Trainable parameters, and the multiply-adds of one image at the published size. Nothing is allocated.
    public func measure() -> (parameters: Int, frozen: Int, multiplyAdds: Int) {
        let model = configuration.makeModel()
        let frozen = model.parameters.reduce(0) { $0 + ($1.parameter.isTrainable ? 0 : $1.parameter.shape.count) }
        return (model.parameterCount, frozen, configuration.multiplyAdds(model))
    }
}

extension ClassifierConfiguration {
    /// The multiply-adds of one image through `model`, which need not be initialised.
    public func multiplyAdds(_ model: any ImageClassifier) -> Int {
        model.multiplyAdds([1, imageSize.height, imageSize.width, channels])
    }
}

extension ImageClassifier {
    /// The multiply-adds of a forward pass over images of this shape.
    public func multiplyAdds(_ shape: Shape) -> Int {
        let tape = Tape(.trace)
        let image = Tape.leaf(Tensor(abstract: shape))
        _ = tape.record { features(image) }
        return tape.cost.multiplyAdds
    }
}

/// Every model that Tessera knows.
public enum Registry {
    /// In the order of their papers.
    public static let systems: [ModelSystem] = [
        ResNet.system, VisionTransformer.system, DeiTConfiguration.system, TokensToTokenTransformer.system,
        PyramidVisionTransformer.system, SwinTransformer.system, CompactTransformer.system, SoT.system,
        MLPMixer.system, MLPMixer.residualSystem, MLPMixer.gatedSystem, ViTAE.system, S2MLP.system,
        CrossCovarianceTransformer.system, VisionPermutator.system, PyramidVisionTransformerV2.system,
        ConvolutionalVisionTransformer.system, HATNet.system, CMT.system, ASMLP.system, CycleMLP.system,
        HireMLP.system, SparseMLP.system, MobileViT.system, SlicedRecursiveTransformer.system, WaveMLP.system,
        BootstrappedTransformer.system, AgentNetwork.system, DynamicHybridTransformer.system, InternImage.system,
        RevCol.system, DINOv2.system, ExMobileViT.system,
        ResidualAttentionTransformer.system, ResidualSwinTransformer.system,
    ]

    public static let entries: [ModelEntry] = systems.flatMap(\.variants)

    /// - Throws: ``UnknownModelError`` with the nearest names.
    public static func entry(_ name: String) throws -> ModelEntry {
        guard let entry = entries.first(where: { $0.name == name }) else {
            throw UnknownModelError(name: name, nearest: nearestNames(to: name, in: entries.map(\.name)))
        }
        return entry
    }

    /// - Throws: ``UnknownModelError`` with the nearest names.
    public static func system(_ id: String) throws -> ModelSystem {
        guard let system = systems.first(where: { $0.id == id }) else {
            throw UnknownModelError(name: id, nearest: nearestNames(to: id, in: systems.map(\.id)))
        }
        return system
    }

    /// The defaults of a reference implementation.
    ///
    /// - Parameter system: the id of a system, or the group of several
    /// - Throws: ``UnknownModelError`` with the nearest names.
    public static func configuration(
        _ system: String, reference: String
    ) throws -> any ClassifierConfiguration {
        let members = systems.filter { $0.id == system || $0.group == system }
        guard let configuration = members.lazy.compactMap({ $0.reference(reference) }).first else {
            let names = members.isEmpty ? nearestNames(to: system, in: systems.map(\.id)) : members.map(\.id)
            throw UnknownModelError(name: members.isEmpty ? system : "\(system) (\(reference))", nearest: names)
        }
        return configuration
    }
}

/// No model has this name.
public struct UnknownModelError: Error, Equatable, CustomStringConvertible {
    public let name: String
    public let nearest: [String]

    public init(name: String, nearest: [String]) { (self.name, self.nearest) = (name, nearest) }

    public var description: String {
        let advice =
            nearest.isEmpty ? "`tessera models` lists them all" : "did you mean \(nearest.joined(separator: ", "))?"
        return "unknown model \(name.onOneLine()): \(advice)"
    }
}
