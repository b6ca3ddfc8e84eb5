import Foundation
import Tessera
import TesseraIO
import Testing

/// Everything that a user can get wrong: one clear line, the right exit status, nothing lost.
@Suite(.serialized) struct BadInputTests {
    let scratch: Scratch
    let data: String

    init() throws {
        scratch = try Scratch()
        data = try scratch.writeBars()
    }

    /// Expects failure with one line that has all the texts.
    private func expectRefusal(
        _ arguments: [String], status: Int32 = 1, _ texts: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let result = try Command.run(arguments)
        #expect(result.status == status, "\(arguments): \(result.errors)", sourceLocation: sourceLocation)
        let lines = result.errors.split(separator: "\n")
        if status == 1 { #expect(lines.count == 1, "\(result.errors)", sourceLocation: sourceLocation) }
        for text in texts {
            #expect(result.errors.contains(text), "\(text) in: \(result.errors)", sourceLocation: sourceLocation)
        }
    }

    private func train(_ changes: String...) -> [String] {
        scratch.training(data, out: scratch.file("out")) + changes
    }

    @Test func usage() throws {
        try expectRefusal(["nonsense"], status: 64, "nonsense")
        try expectRefusal(["train"], status: 64, "--data")
        try expectRefusal(train("--epoch", "3"), status: 64, "--epochs")
        try expectRefusal(train("--opt", "adagrad"), status: 64, "adagrad")
        try expectRefusal(["bench", "cct_2_3x2_32", "--batch", "0"], status: 64, "--batch")
        try expectRefusal(["bench", "cct_2_3x2_32", "--threads", "0"], status: 64, "--threads")
        try expectRefusal(["train", "cct_2_3x2_32", "--resume", "x"], status: 64, "--resume")
        // What the run would not take is refused, not ignored.
        try expectRefusal(["train", "--resume", "x", "--method", "kd"], status: 64, "--resume", "found --method")
        try expectRefusal(
            ["train", "--resume=x", "--recipe=y", "--bce-loss"], status: 64, "found --recipe, --bce-loss")
    }

    @Test func modelsAndSettings() throws {
        try expectRefusal(
            ["train", "cct_2_3x2_33", "--data", data, "--out", scratch.file("x")], "cct_2_3x2_33", "cct_2_3x2_32")
        try expectRefusal(train("--lr", "0", "--smoothing", "2"), "--lr", "--smoothing", "expected")
        try expectRefusal(train("--batch", "4096"), "--batch", "192 training images")
        try expectRefusal(train("--aa", "rand-x"), "rand-x")
        try expectRefusal(train("--model-args", #"{"num_heads": 3}"#), "embedding_dim", "128", "num_heads (3)")
        try expectRefusal(train("--model-args", #"{"embeding_dim": 64}"#), "embeding_dim", "embedding_dim")
        try expectRefusal(train("--model-args", "{"), "JSON")
        try expectRefusal(
            ["train", "vit_2_4_32", "--data", data, "--out", scratch.file("x"), "--image-size", "13"], "img_size", "13",
            "kernel_size (4)")
        #expect(!FileManager.default.fileExists(atPath: scratch.file("out")))
    }

    @Test func dataSets() throws {
        try expectRefusal(["data", scratch.file("nowhere")], "nowhere")
        let empty = scratch.file("empty")
        try FileManager.default.createDirectory(atPath: empty + "/cat", withIntermediateDirectories: true)
        try FileManager.default.createDirectory(atPath: empty + "/dog", withIntermediateDirectories: true)
        try expectRefusal(["data", empty], "cat")
        let images = URL(fileURLWithPath: data + "/train-images-idx3-ubyte")
        let whole = try Data(contentsOf: images)
        try whole.prefix(1000).write(to: images)
        try expectRefusal(["data", data], "train-images-idx3-ubyte")
        try Data().write(to: images)
        try expectRefusal(["data", data], "train-images-idx3-ubyte")
        try Data([9, 9, 9, 9]).write(to: images)
        try expectRefusal(["data", data], "train-images-idx3-ubyte")
    }

    @Test func aBrokenImageInAFolderIsSkippedCountedAndNamed() throws {
        let folder = scratch.file("folder")
        _ = try Command.run("data", data, "--write-images", scratch.file("flat"), "--count", "40")
        for (index, name) in try FileManager.default.contentsOfDirectory(atPath: scratch.file("flat")).sorted()
            .enumerated()
        {
            let place = "\(folder)/\(index % 4 == 3 ? "val" : "train")/\(name.prefix(1))"
            try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
            try FileManager.default.moveItem(atPath: scratch.file("flat/" + name), toPath: "\(place)/\(name)")
        }
        try Data("broken".utf8).write(to: URL(fileURLWithPath: "\(folder)/train/0/broken.png"))
        let check = try Command.run("data", folder, "--json")
        #expect(check.status == 1 && check.output.contains("broken.png"))
        let arguments = [
            "train", "cct_2_3x2_32", "--data", folder, "--out", scratch.file("out"), "--epochs", "2", "--batch", "8",
            "--warmup-epochs", "0", "--crop-padding", "0",
        ]
        let result = try Command.run(arguments)
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.errors.contains("skipped") && result.errors.contains("broken.png"))
        try expectRefusal(arguments + ["--overwrite", "--strict", "--quiet"], "broken.png")
    }

    @Test func weights() throws {
        let run = scratch.file("run")
        #expect(try Command.run(scratch.training(data, out: run, epochs: 1)).status == 0)
        try expectRefusal(["evaluate", scratch.file("none"), "--data", data], "none")
        let file = URL(fileURLWithPath: run + "/model.safetensors")
        let whole = try Data(contentsOf: file)
        let lyingLength = Data([255, 255, 255, 255, 255, 255, 255, 127])
        for damaged in [whole.prefix(whole.count / 2), Data(), whole.prefix(5), lyingLength + whole.dropFirst(8)] {
            try damaged.write(to: file)
            try expectRefusal(["evaluate", run, "--data", data], "model.safetensors")
        }
        // Weights of another architecture: the first missing, unexpected and mis-shaped tensors are named.
        let other = scratch.file("other")
        var arguments = scratch.training(data, out: other, epochs: 1)
        arguments[1] = "cvt_2_4_32"
        #expect(try Command.run(arguments).status == 0)
        try FileManager.default.removeItem(at: file)
        try FileManager.default.copyItem(atPath: other + "/model.safetensors", toPath: file.path)
        try expectRefusal(
            ["evaluate", run, "--data", data], "model.safetensors", "missing (first: tokenizer.conv_layers.1.0.weight)",
            "unexpected (first: tokenizer.conv_layers.0.0.bias)", "tokenizer.conv_layers.0.0.weight: found")
    }

    @Test func runFolders() throws {
        let run = scratch.file("run")
        #expect(try Command.run(scratch.training(data, out: run, epochs: 1)).status == 0)
        let before = try Data(contentsOf: URL(fileURLWithPath: run + "/model.safetensors"))
        try expectRefusal(scratch.training(data, out: run, epochs: 1), "run", "--resume", "--overwrite")
        #expect(try Data(contentsOf: URL(fileURLWithPath: run + "/model.safetensors")) == before)
        try expectRefusal(["train", "--resume", scratch.file("nothing")], "nothing")
        try expectRefusal(scratch.training(data, out: "/proc/tessera", epochs: 1), "/proc/tessera")
    }

    /// A run folder that was edited by hand, or whose data is no longer what it was.
    @Test func editedRuns() throws {
        let run = scratch.file("run")
        #expect(try Command.run(scratch.training(data, out: run, epochs: 1)).status == 0)
        func expectRefusal(_ name: String, _ old: String, _ new: String, _ texts: String...) throws {
            let url = URL(fileURLWithPath: "\(run)/\(name)")
            let whole = try String(contentsOf: url, encoding: .utf8)
            let edited = whole.replacing(try Regex(old), with: new)
            #expect(edited != whole, "\(old) is not in \(whole)")
            try edited.write(to: url, atomically: true, encoding: .utf8)
            let result = try Command.run("train", "--resume", run, "--quiet")
            #expect(result.status == 1 && result.errors.split(separator: "\n").count == 1, "\(result.errors)")
            for text in [name] + texts { #expect(result.errors.contains(text), "\(text) in: \(result.errors)") }
            try whole.write(to: url, atomically: true, encoding: .utf8)
        }
        try expectRefusal("config.json", #""batchSize": *\d+"#, #""batchSize": 0"#, "--batch")
        try expectRefusal("config.json", #""epochs": *\d+"#, #""epochs": -3"#, "--epochs")
        try expectRefusal("config.json", #""workers": *\d+"#, #""workers": -1"#, "--workers")
        try expectRefusal("state.json", #""epoch": *\d+"#, #""epoch": -1"#, "checksum")
        // Fewer images than before: the steps done are more than there are now.
        try scratch.writeBars(count: 64)
        let result = try Command.run("train", "--resume", run, "--quiet")
        #expect(result.status == 1 && result.errors.contains("a place in 1 epochs of 2 steps"), "\(result.errors)")
    }

    @Test func divergence() throws {
        let run = scratch.file("run")
        let arguments = scratch.training(data, out: run).map { $0 == "3e-3" ? "90" : $0 }
        try expectRefusal(
            arguments + ["--opt", "sgd", "--momentum", "0.99", "--warmup-epochs", "0"], "diverged", "step")
    }

    @Test func fixtures() throws {
        let file = scratch.file("case.safetensors")
        let tensors = [("input", Tensor(zeros: [1, 3, 32, 32]))]
        func write(_ metadata: [String: String]) throws { try Safetensors.write(tensors, metadata: metadata, to: file) }
        let forward = ["forward", file, "--out", scratch.file("result")]
        try write([:])
        try expectRefusal(forward, "case.safetensors", "system")
        try write(["system": "vti", "config": "{}"])
        try expectRefusal(forward, "vti", "vit")
        try write(["system": "vit", "config": #"{"embed_dim": 32, "num_head": 2}"#])
        try expectRefusal(forward, "num_head", "num_heads")
        try write(["system": "vit", "config": #"{"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}"#])
        try expectRefusal(forward, "missing (first: cls_token)")
    }

    @Test func instructionSet() throws {
        let result = try Command.run(
            ["bench", "cct_2_3x2_32", "--image-size", "16", "--runs", "1"], environment: ["TESSERA_ISA": "sse9"])
        #expect(result.status == 1 && result.errors.contains("TESSERA_ISA"))
        let portable = try Command.run(
            ["bench", "cct_2_3x2_32", "--image-size", "16", "--runs", "1"], environment: ["TESSERA_ISA": "portable"])
        #expect(portable.status == 0 && portable.output.contains("portable"))
    }
}
