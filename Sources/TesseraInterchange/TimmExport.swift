import Foundation
import Tessera
import TesseraIO
import TesseraModels
import TesseraNN

/// A trained model in the form in which timm publishes its own: `model.safetensors` under timm's names and a
/// `config.json` from which `timm.create_model("local-dir:FOLDER", pretrained=True)` builds it.
public struct TimmExport {
    /// What `config.json` says.
    public let configuration: ModelConfiguration
    /// Everything that timm's state dictionary has.
    public let tensors: [(String, Tensor)]

    /// Systems whose reference is timm's own code, with its names.
    private static let systems: Set = [
        "vit", "deit", "dinov2", "swin", "pvt_v2", "mobilevit", "mlp_mixer", "resmlp", "gmlp", "xcit_qkv", "resnet",
    ]
    /// Variants of those that timm builds from another one.
    private static let renamed = [
        "vit_small_patch16_gap_224": ("vit_small_patch16_224", averaged),
        "vit_base_patch32_gap_224": ("vit_base_patch32_224", averaged),
    ]
    /// Variants of those that timm does not have; nor has it the embeddings of XCiT by SNE.
    private static let absent: Set = ["cifar_resnet56_c10", "cifar_resnet56_c100", "pycls_resnet18_c100"]
    private static let averaged = #"{"class_token": false, "global_pool": "avg", "fc_norm": false}"#
    /// Systems whose weights depend on the size of the images.
    private static let fixedSize: Set = ["vit", "deit", "dinov2", "swin", "mlp_mixer", "resmlp", "gmlp"]

    /// - Parameter model: one that `configuration` describes, with its weights
    /// - Throws: `UnknownModelError`; ``TimmExportError`` if timm has no such model.
    public init(_ model: any ImageClassifier, _ configuration: ModelConfiguration) throws {
        let entry = try Registry.entry(configuration.architecture)
        guard TimmExport.systems.contains(entry.system), !TimmExport.absent.contains(entry.name),
            !entry.name.hasSuffix("sne")
        else { throw TimmExportError(name: entry.name) }
        let (name, arguments) = TimmExport.renamed[entry.name] ?? (entry.name, "{}")
        var published = configuration
        published.architecture = name
        let all = (try JSON(parsing: arguments).members ?? []) + (configuration.modelArguments?.members ?? [])
        published.modelArguments = all.isEmpty ? nil : .object(all)
        let parameters = model.placedParameters
        published.firstLayer = parameters.first { $0.parameter.shape.rank == 4 }.map { TimmExport.layer($0.key) }
        let heads = parameters.filter { parameter in
            parameter.key.hasSuffix("weight") && model.headPrefixes.contains { parameter.key.hasPrefix($0) }
        }
        published.classifier = heads.first.map { TimmExport.layer($0.key) }
        published.featureCount = heads.first?.parameter.shape[1]
        published.hasFixedInputSize = TimmExport.fixedSize.contains(entry.system)
        // What a run notes of its own training stays at home.
        published.tessera = nil
        self.configuration = published

        tensors = model.stateDictionary.flatMap { key, tensor -> [(String, Tensor)] in
            guard key.hasSuffix("running_var") else { return [(key, tensor)] }
            // PyTorch counts the batches, and wants the count to be there.
            return [(key, tensor), (key.replacing("running_var", with: "num_batches_tracked"), Tensor(0))]
        }
    }

    private static func layer(_ key: String) -> String { String(key[..<(key.lastIndex(of: ".") ?? key.endIndex)]) }

    /// Writes the folder.
    /// - Throws: `SystemError`.
    public func write(to folder: String, as type: Safetensors.FloatType = .float32) throws {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let run = "\(folder)/\(RunFolder.modelName)"
        try Safetensors.write(tensors, metadata: ["format": "pt"], as: type, to: run)
        try AtomicFile.write(
            configuration.json.text(indented: true) + "\n", to: "\(folder)/\(RunFolder.configurationName)")
    }
}

/// timm has no model like this one.
public struct TimmExportError: Error, Equatable, CustomStringConvertible {
    public let name: String

    public var description: String {
        "\(name): timm has no model of this architecture; --format safetensors writes the weights under the names of its "
            + "reference implementation"
    }
}
