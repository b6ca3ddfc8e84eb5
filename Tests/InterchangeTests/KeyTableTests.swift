import Foundation
import Tessera
import TesseraIO
import TesseraModels
import TesseraNN
import Testing

@testable import TesseraInterchange

@Suite struct KeyTableTests {
    @Test func rulesRewriteKeys() {
        let table = KeyTable(
            "somebody",
            [
                ("^layers.#.blocks.#.", "encoder.#.layer.#-1."), ("attn.qkv.", "query. + key. + value."),
                ("mlp.fc#.", "mlp.fc#. | mlp.w#."), ("^norm.", "last."), ("gamma", "lambda"),
            ])
        #expect(
            table.sources(of: "layers.2.blocks.13.attn.qkv.weight")
                == [
                    [
                        "encoder.2.layer.12.query.weight", "encoder.2.layer.12.key.weight",
                        "encoder.2.layer.12.value.weight",
                    ]
                ])
        #expect(table.sources(of: "mlp.fc1.bias") == [["mlp.fc1.bias"], ["mlp.w1.bias"]])
        #expect(table.sources(of: "norm.weight") == [["last.weight"]])
        #expect(table.sources(of: "layers.0.downsample.norm.weight") == [["layers.0.downsample.norm.weight"]])
        #expect(table.sources(of: "ls1.gamma") == [["ls1.lambda"]])
        #expect(table.sources(of: "gammas.weight") == [["gammas.weight"]])
    }

    /// The names and shapes in files that transformers 5.23 writes, and the same models here.
    static let published: [(name: String, model: String, arguments: String)] = [
        ("vit", "vit_tiny_patch16_224", #"{"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}"#),
        ("deit", "deit_tiny_distilled_patch16_224", #"{"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}"#),
        ("dinov2", "vit_small_patch14_dinov2", dino), ("dinov2_registers", "vit_small_patch14_reg4_dinov2", dino),
        (
            "dinov2_swiglu", "vit_giant_patch14_dinov2",
            #"{"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 28, "patch_size": 7}"#
        ),
        ("mobilevit", "mobilevit_xxs", "{}"), ("cvt", "CvT-13@224", #"{"spec": {"DEPTH": [1, 2, 3]}}"#),
        ("swin", "swin_tiny_patch4_window7_224", #"{"depths": [1, 1, 2, 1]}"#),
        ("pvt", "pvt_tiny", #"{"depths": [1, 1, 1, 2]}"#), ("pvt_v2", "pvt_v2_b0", #"{"depths": [1, 1, 1, 2]}"#),
        ("resnet", "resnet18", #"{"layers": [1, 1, 1, 2]}"#),
    ]
    private static let dino = #"{"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 28, "patch_size": 7}"#

    private static func shapes(_ name: String) throws -> [String: Shape] {
        let url = Bundle.module.resourceURL!.appendingPathComponent("Fixtures/transformers.json")
        let members = try JSON(parsing: Data(contentsOf: url))[name]?.members ?? []
        return Dictionary(
            uniqueKeysWithValues: members.map { ($0.key, Shape(($0.value.array ?? []).compactMap(\.int))) })
    }

    @Test(arguments: published.map(\.name)) func everyPublishedNameIsUnderstood(_ name: String) throws {
        let (_, variant, arguments) = try #require(Self.published.first { $0.name == name })
        let entry = try Registry.entry(variant)
        var configuration = entry.configuration
        try configuration.apply(Arguments(parsing: arguments, section: "arguments"))
        let shapes = try Self.shapes(name)
        let parameters = configuration.makeModel().placedParameters
        let match = try #require(
            WeightMatch.best(parameters.map(\.key), in: shapes, tables: KeyTable.tables(of: entry.system)))
        #expect(match.table.publisher == "Hugging Face")
        #expect(match.unexpected(in: shapes).isEmpty, "\(match.unexpected(in: shapes))")
        let heads = configuration.makeModel().headPrefixes
        for (key, parameter) in parameters {
            let sources = try #require(match.sources[key], "\(key)")
            let count = sources.reduce(0) { $0 + (shapes[$1]?.count ?? 0) }
            if heads.contains(where: { key.hasPrefix($0) }) {
                #expect(sources.allSatisfy { shapes[$0]?.dimensions.first == 5 }, "\(key)")
            } else if key != "pos_embed" || !entry.name.contains("reg4") {
                #expect(count == parameter.shape.count, "\(key) of \(sources)")
            }
        }
    }

    @Test func theThousandClassesHaveNames() {
        #expect(ImageNetClasses.names.count == 1000)
        #expect(ImageNetClasses.names.first == "tench" && ImageNetClasses.names.last == "toilet tissue")
        #expect(ImageNetClasses.names[281] == "tabby" && ImageNetClasses.names[955] == "jackfruit")
        #expect(ImageNetClasses.names.allSatisfy { !$0.isEmpty && !$0.contains("\n") && !$0.hasSuffix(" ") })
    }
}
