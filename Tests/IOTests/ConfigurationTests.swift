import Foundation
import Tessera
import Testing

@testable import TesseraIO

@Suite struct ConfigurationTests {
    private static let timm = """
        { "architecture": "vit_tiny_patch16_224", "num_classes": 3, "num_features": 192, "global_pool": "token",
          "label_names": ["cat", "dog", "é"], "future": [1, {"a": 18446744073709551615}],
          "pretrained_cfg": { "tag": "augreg", "input_size": [3, 224, 224], "interpolation": "bicubic",
            "crop_pct": 0.9, "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 0.5],
            "num_classes": 3, "pool_size": null, "first_conv": "patch_embed.proj", "classifier": "head" } }
        """

    @Test func readsTimmsLayoutAndLosesNothing() throws {
        var configuration = try ModelConfiguration(JSON(parsing: ConfigurationTests.timm))
        #expect(configuration.architecture == "vit_tiny_patch16_224")
        #expect(configuration.labels == ["cat", "dog", "é"])
        #expect(configuration.preprocessing.inputSize == [3, 224, 224])
        #expect(configuration.preprocessing.cropFraction == 0.9)
        #expect(configuration.preprocessing.deviation == [0.5, 0.25, 0.5])
        #expect(configuration.classifier == "head")
        configuration.tessera = .object([JSON.Member("seed", JSON(42))])
        let written = configuration.json
        #expect(written["future"] == (try JSON(parsing: "[1, {\"a\": 18446744073709551615}]")))
        #expect(written["pretrained_cfg"]?["tag"] == .string("augreg"))
        #expect(try ModelConfiguration(JSON(parsing: written.text(indented: true))) == configuration)
    }

    @Test(arguments: [
        ("\"architecture\": \"vit_tiny_patch16_224\"", "\"architecture\": 5", "architecture", "a string"),
        ("\"num_classes\": 3, \"num_features\"", "\"num_classes\": \"3\", \"num_features\"", "num_classes", "a whole"),
        ("\"num_features\": 192", "\"num_features\": 0", "num_features", "1 to"),
        ("[\"cat\", \"dog\", \"é\"]", "[\"cat\"]", "label_names", "3, one for each"),
        ("[\"cat\", \"dog\", \"é\"]", "{\"7\": \"cat\"}", "label_names.7", "0 to 2"),
        ("[3, 224, 224]", "[3, 224]", "pretrained_cfg.input_size", "a list of 3"),
        ("[3, 224, 224]", "[3, 224, 50000]", "pretrained_cfg.input_size[2]", "1 to 16384"),
        ("\"bicubic\"", "\"bicubbic\"", "pretrained_cfg.interpolation", "bilinear"),
        ("0.9", "0", "pretrained_cfg.crop_pct", "0.01 to 2"),
        ("[0.5, 0.25, 0.5]", "[0.5, 0, 0.5]", "pretrained_cfg.std[1]", "1e-06"),
        ("[0.5, 0.25, 0.5]", "[0.5]", "pretrained_cfg.std", "a list of 3"),
    ])
    func namesTheFileAndTheField(_ old: String, _ new: String, _ field: String, _ expected: String) throws {
        let path = try temporaryFolder() + "/config.json"
        let text = ConfigurationTests.timm.replacingOccurrences(of: old, with: new)
        #expect(text != ConfigurationTests.timm)
        try AtomicFile.write(text, to: path)
        do {
            _ = try ModelConfiguration(path)
            Issue.record("accepted \(new)")
        } catch let error as FormatError {
            #expect(error.file == path && error.subject == field, "\(error)")
            #expect(error.expected.contains(expected), "\(error)")
        }
    }

    @Test func everyPrefixIsRefused() throws {
        let bytes = Array(ConfigurationTests.timm.utf8)
        for count in 0..<bytes.count {
            #expect(throws: (any Error).self) { try ModelConfiguration(JSON(parsing: bytes.prefix(count))) }
        }
    }

    @Test func locatesFoldersAndBareFiles() throws {
        let folder = try temporaryFolder()
        #expect(throws: SystemError("open", folder + "/model.safetensors", code: ENOENT)) {
            try ModelFile.locate(folder)
        }
        try Safetensors.write([], to: folder + "/model.safetensors")
        #expect(throws: SystemError("open", folder + "/config.json", code: ENOENT)) { try ModelFile.locate(folder) }
        try AtomicFile.write(ConfigurationTests.timm, to: folder + "/config.json")
        let weights = folder + "/model.safetensors"
        #expect(try ModelFile.locate(folder).weights == weights)
        #expect(try ModelFile.locate(weights).weights == weights)
        #expect(try ModelFile.locate(weights).configuration.classCount == 3)
    }

    @Test func reportEscapesAndNeedsNothingElse() throws {
        let nasty = "<script>alert('x')</script>\" & co"
        let report = Report(
            title: nasty, summary: nasty, highlights: [Report.Fact(nasty, nasty)],
            charts: [
                Report.Chart(
                    nasty, series: [Report.Chart.Series(nasty, x: [0, 1, 2, 3], y: [1, .nan, .infinity, 2])]),
                Report.Chart("constant", series: [Report.Chart.Series("one", x: [1], y: [5])]),
                Report.Chart("empty", series: []),
            ],
            confusion: Report.Confusion(labels: [nasty, "b"], counts: [[3, 1], [0, 0]]),
            samples: [Report.Sample(png: Data([1, 2]), truth: nasty, prediction: "b", probability: 0.5)],
            configuration: [Report.Fact(nasty, nasty)])
        let page = report.page
        #expect(!page.contains("<script") && !page.contains("alert('"))
        #expect(!page.contains("http:") && !page.contains("https:") && !page.contains("url("))
        #expect(page.contains("data:image/png;base64,AQI="))
        #expect(page.contains("75.0%") && page.contains("no image"))
        #expect(!page.contains("nan") && !page.contains("inf\""))
        #expect(page == report.page)
    }
}
