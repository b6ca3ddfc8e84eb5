import Foundation
import Tessera
import TesseraIO
import TesseraModels
import Testing

/// A small model is trained once; every verb that takes a run is tried on it.
@Suite(.serialized) struct VerbTests {
    static let scratch = try! Scratch()
    static let data = try! scratch.writeBars()
    static let run: String = {
        let path = scratch.file("run")
        let result = try! Command.run(scratch.training(data, out: path, epochs: 6) + ["--json"])
        precondition(result.status == 0, result.errors)
        return path
    }()

    private func json(_ text: String) throws -> JSON { try JSON(parsing: text) }

    @Test func trainWritesAWholeRun() throws {
        let names = Set(try FileManager.default.contentsOfDirectory(atPath: Self.run))
        for name in [
            "config.json", "model.safetensors", "last.safetensors", "optimizer.safetensors", "state.json",
            "metrics.csv",
            "report.html",
        ] { #expect(names.contains(name), "\(name)") }
        #expect(names.contains { $0.hasPrefix("events.out.tfevents.") })
        let rows = try String(contentsOfFile: Self.run + "/metrics.csv", encoding: .utf8).split(
            whereSeparator: \.isNewline)
        #expect(rows.count == 7 && rows[0].hasPrefix("step,epoch,train_loss"))
        let page = try String(contentsOfFile: Self.run + "/report.html", encoding: .utf8)
        #expect(page.contains("<svg") && page.contains("data:image/png") && !page.contains("http://cdn"))
        let configuration = try json(String(contentsOfFile: Self.run + "/config.json", encoding: .utf8))
        #expect(configuration["architecture"]?.string == "cct_2_3x2_32")
        #expect(configuration["pretrained_cfg"]?["input_size"]?.array?.compactMap(\.int) == [1, 12, 12])
    }

    @Test func evaluate() throws {
        let result = try Command.run("evaluate", Self.run, "--data", Self.data, "--json")
        #expect(result.status == 0)
        let report = try json(result.output)
        #expect(report["images"]?.int == 48)
        #expect((report["top1"]?.double ?? 0) > 0.9 && report["top5"]?.double == 1)
        #expect((report["loss"]?.double ?? 9) < 0.6)
        #expect(report["per_class"]?.array?.count == 3)
        let counts = report["confusion"]?.array?.flatMap { $0.array ?? [] }.compactMap(\.int) ?? []
        #expect(counts.count == 9 && counts.reduce(0, +) == 48)
    }

    /// A run in codes is a run like any other, and what cannot be quantized is refused on one line.
    @Test func quantize() throws {
        let out = Self.scratch.file("codes")
        func quantize(_ changes: String...) throws -> CommandResult {
            try Command.run(["quantize", Self.run, "--data", Self.data, "--quiet"] + changes)
        }
        let result = try quantize("--out", out, "--average-bits", "6", "--max-drop", "5", "--json")
        #expect(result.status == 0, "\(result.errors)")
        let report = try json(result.output)
        let (before, after) = (report["before"], report["after"])
        #expect((after?["top1"]?.double ?? 0) >= (before?["top1"]?.double ?? 1) - 0.05)
        #expect((after?["file_bytes"]?.int ?? .max) * 3 < (before?["file_bytes"]?.int ?? 0))
        #expect((after?["latency_ms"]?["16"]?.double ?? 0) > 0 && (after?["peak_memory_mb"]?.double ?? 0) > 0)
        #expect((report["average_bits"]?.double ?? 9) < 7 && report["sensitivity"]?.array?.isEmpty == false)
        let page = try String(contentsOfFile: out + "/report.html", encoding: .utf8)
        #expect(page.contains("Bits of layers") && page.contains("faster than in float32"))

        let evaluation = try json(Command.run("evaluate", out, "--data", Self.data, "--json").output)
        #expect(evaluation["top1"]?.double == after?["top1"]?.double)
        let images = Self.scratch.file("quantized-images")
        #expect(try Command.run("data", Self.data, "--write-images", images, "--count", "2").status == 0)
        #expect(try Command.run("predict", out, images).status == 0)
        #expect(try Command.run("features", out, images, "--out", Self.scratch.file("codes.safetensors")).status == 0)
        #expect(try json(Command.run("bench", out, "--runs", "2", "--json").output)["quantized"]?.bool == true)

        func expectRefusal(_ result: CommandResult, _ status: Int32, _ texts: String...) {
            #expect(result.status == status, "\(result.errors)")
            for text in texts { #expect(result.errors.contains(text), "\(text) in: \(result.errors)") }
            if status == 1 { #expect(result.errors.split(separator: "\n").count == 1, "\(result.errors)") }
        }
        let other = Self.scratch.file("other")
        expectRefusal(
            try Command.run("quantize", out, "--data", Self.data, "--out", other, "--quiet"), 1, "a quantized run")
        expectRefusal(try quantize("--out", out), 1, "already holds a run")
        expectRefusal(try quantize("--out", other, "--calibration", "4096"), 1, "calibration needs 4096")
        expectRefusal(try quantize("--out", other, "--calibration", "2"), 64, "--calibration", "8 to 4096")
        expectRefusal(try quantize("--out", other, "--average-bits", "3.5"), 64, "--average-bits", "4 to 8")
        expectRefusal(try quantize("--out", other, "--bits", "2"), 64, "--bits", "4 to 8")
        expectRefusal(try quantize("--out", other, "--bits", "8", "--weights", "4"), 64, "--weights")
        #expect(!FileManager.default.fileExists(atPath: other))
        expectRefusal(try Command.run("train", "--resume", out), 1, "no training run")
    }

    @Test func predictFeaturesAndExplain() throws {
        let images = Self.scratch.file("images")
        #expect(try Command.run("data", Self.data, "--write-images", images, "--count", "3").status == 0)
        let files = try FileManager.default.contentsOfDirectory(atPath: images).sorted().map { images + "/" + $0 }
        #expect(files.count == 3)
        let result = try Command.run("predict", Self.run, images, "--top", "2", "--json")
        #expect(result.status == 0)
        let lines = try result.output.split(separator: "\n").map { try json(String($0)) }
        #expect(lines.map { $0["file"]?.string } == files)
        for (line, file) in zip(lines, files) {
            let predictions = line["predictions"]?.array ?? []
            #expect(predictions.count == 2)
            let label = predictions[0]["label"]?.string ?? "?"
            #expect((file as NSString).lastPathComponent.hasPrefix(label + "-"), "\(file): \(label)")
            #expect(predictions[0]["probability"]!.double! >= predictions[1]["probability"]!.double!)
        }

        let out = Self.scratch.file("features.safetensors")
        #expect(try Command.run("features", Self.run, images, "--out", out, "--tokens").status == 0)
        let features = try Safetensors(out)
        #expect(try features.tensor("features").shape == [3, 128])
        #expect(try features.tensor("logits").shape == [3, 3])
        #expect(try features.tensor("tokens").shape == [3, 3, 3, 128])

        let map = Self.scratch.file("map.png")
        #expect(try Command.run("explain", Self.run, files[0], "--out", map).status == 0)
        #expect(try Data(contentsOf: URL(fileURLWithPath: map)).prefix(4) == Data([0x89, 0x50, 0x4E, 0x47]))
    }

    @Test func predictGoesOnAfterABrokenImage() throws {
        let broken = Self.scratch.file("broken.png")
        try Data("not an image".utf8).write(to: URL(fileURLWithPath: broken))
        let good = Self.scratch.file("good")
        _ = try Command.run("data", Self.data, "--write-images", good, "--count", "1")
        let result = try Command.run("predict", Self.run, broken, good, "--json")
        #expect(result.status == 1)
        let lines = try result.output.split(separator: "\n").map { try json(String($0)) }
        #expect(lines.count == 2 && lines[0]["error"] != nil && lines[1]["predictions"] != nil)
        #expect(result.errors.contains("broken.png"))
    }

    @Test func fineTuningReplacesTheHead() throws {
        let folder = Self.scratch.file("tuned")
        var arguments = Self.scratch.training(Self.data, out: folder, epochs: 1)
        arguments += ["--from", Self.run, "--image-size", "16", "--overwrite"]
        let result = try Command.run(arguments)
        #expect(result.status == 0, "\(result.errors)")
        #expect(
            try Safetensors(folder + "/model.safetensors").tensor("classifier.positional_emb").shape == [1, 16, 128])
    }

    @Test func modelsAndBench() throws {
        let list = try json(Command.run("models", "--json").output).array ?? []
        #expect(list.count == Registry.entries.count)
        let one = try json(Command.run("models", "deit_tiny_patch16_224", "--json").output)
        #expect(one["parameters"]?.int == 5_717_416 && one["arxiv"]?.string == "2012.12877")
        #expect(try json(Command.run("models", "CMT_Ti", "--json").output)["system"]?.string == "cmt")
        for flag in [[], ["--train"], ["--precision", "int8"]] {
            let result = try Command.run(
                ["bench", "cct_2_3x2_32", "--image-size", "16", "--batch", "2", "--runs", "2", "--json"] + flag)
            let report = try json(result.output)
            for key in [
                "model", "batch", "precision", "threads", "instruction_set", "median_ms", "min_ms", "p95_ms",
                "images_per_second", "multiply_adds", "gigaflops_per_second", "parameters", "peak_memory_mb", "load_ms",
                "runs",
            ] { #expect(report[key] != nil, "\(key)") }
            #expect((report["precision"]?.string == "int8") == (flag.last == "int8"))
        }
        let fastest = try Command.run(
            "bench", "cct_2_3x2_32", "--image-size", "16", "--runs", "1", "--json", "--precision", "fastest")
        #expect(try json(fastest.output)["precision"]?.string == Precision.fastest.rawValue)
    }

    @Test func memoryOfATrainingStep() throws {
        func report(_ batch: String) throws -> JSON {
            try json(
                Command.run("bench", "cct_2_3x2_32", "--image-size", "16", "--batch", batch, "--memory", "--json")
                    .output)
        }
        let (two, four) = (try report("2"), try report("4"))
        let all = try #require(two["activation_bytes"]?.int)
        #expect(four["activation_bytes"]?.int == 2 * all)
        // Both blocks come after the tokenizer, whose maps are the larger part at this size.
        let checkpointed = try #require(two["checkpointed_activation_bytes"]?.int)
        #expect((0.2..<0.8).contains(Double(checkpointed) / Double(all)))
        #expect(two["parameters"]?.int == 277_579)
        #expect(try Command.run("bench", "cct_2_3x2_32", "--memory", "--train").status == 64)
    }

    /// A run's weights are mapped, and let go of once they are packed. Fresh ones stay beside their packed copy.
    @Test func aRunIsInMemoryOnce() throws {
        let run = Self.scratch.file("fresh")
        #expect(try Command.run("init", "deit_small_patch16_224", "--out", run).status == 0)
        func megabytes(_ model: String) throws -> Double {
            let result = try Command.run("bench", model, "--batch", "2", "--runs", "1", "--json")
            return try #require(json(result.output)["peak_memory_mb"]?.double)
        }
        // 22 million parameters of four bytes.
        #expect(try megabytes(run) < megabytes("deit_small_patch16_224") - 60)
    }

    @Test func theShippedModelKnowsClothes() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        let model = root.deletingLastPathComponent().appendingPathComponent("Models/cct_2_3x2_fashion").path
        let report = try json(Command.run("evaluate", model, "--data", "fashion-mnist", "--json").output)
        #expect(report["images"]?.int == 10_000)
        #expect((report["top1"]?.double ?? 0) > 0.933)
    }

    @Test func dataTellsWhatIsThere() throws {
        let report = try json(Command.run("data", Self.data, "--json").output)
        #expect(report["format"]?.string == "idx")
        #expect(report["splits"]?["train"]?["images"]?.int == 192)
        #expect(report["splits"]?["validation"]?["sizes"]?.string == "12×12×1")
    }
}
