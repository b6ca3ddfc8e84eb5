import Foundation
import Tessera
import TesseraIO
import Testing

/// Training methods through the command: runs of a few steps, what they write, what they refuse.
@Suite(.serialized) struct MethodTests {
    static let scratch = try! Scratch()
    static let data = try! scratch.writeBars()
    static let teacher: String = {
        let path = scratch.file("teacher")
        let result = try! Command.run(scratch.training(data, out: path, epochs: 4))
        precondition(result.status == 0, result.errors)
        return path
    }()

    static let guide: String = {
        let path = scratch.file("guide")
        var arguments = scratch.training(data, out: path, epochs: 2)
        arguments[1] = "cifar_resnet56_c100"
        let result = try! Command.run(arguments + ["--model-args", #"{"depth": 8, "widths": [4, 8, 8]}"#])
        precondition(result.status == 0, result.errors)
        return path
    }()

    private static let sizes = #""patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2"#

    private static func arguments(_ method: String, out: String) -> [String] {
        var arguments = scratch.training(data, out: out, epochs: 3)
        arguments += ["--method", method, "--mixup", "0.2", "--model-ema-decay", "0.9"]
        switch method {
        case "deit", "kd":
            arguments[1] = method == "deit" ? "deit_tiny_distilled_patch16_224" : "deit_tiny_patch16_224"
            arguments += ["--model-args", "{\(sizes)}", "--teacher", teacher, "--distillation-tau", "2"]
        case "locality_guidance":
            arguments[1] = "deit_tiny_patch16_224"
            arguments += ["--model-args", "{\(sizes)}", "--teacher", guide, "--guidance-stages", "0", "2"]
        case "bootstrapping":
            arguments[1] = "bootstrapped_vit_small_c100"
            arguments += [
                "--model-args",
                #"{"patch_size": 4, "embed_dim": 32, "num_encoder_layers": 2, "num_heads": 8, "dim_feedforward": 32}"#,
                "--bootstrapping-form", "shared", "--sam-rho", "0.05",
            ]
        case "drloc": arguments += ["--drloc-mode", "ce", "--drloc-m", "8", "--drloc-warmup-epochs", "1"]
        case "intermediate_supervision":
            arguments[1] = "revcol_tiny"
            arguments += ["--image-size", "32", "--crop-padding", "2"]
            arguments += [
                "--model-args", #"{"inter_supv": true, "channels": [4, 4, 8, 8], "layers": [1, 1, 1, 1]}"#,
            ]
        case "mae":
            arguments[1] = "vit_tiny_patch16_224"
            arguments += ["--model-args", "{\(sizes)}", "--mae-norm-pix", "--mae-ratio", "0.6"]
            arguments += ["--mae-decoder-width", "16", "--mae-decoder-depth", "1", "--mae-decoder-heads", "2"]
        default: break
        }
        return arguments
    }

    /// The weights that are kept are the model's alone and say how good they are.
    @Test(arguments: ["deit", "kd", "drloc", "locality_guidance", "bootstrapping", "intermediate_supervision"])
    func trains(_ method: String) throws {
        let run = Self.scratch.file("trained-\(method)")
        let result = try Command.run(Self.arguments(method, out: run) + ["--json"])
        #expect(result.status == 0, "\(result.errors)")
        let report = try JSON(parsing: result.output)
        #expect(report["method"]?.string == method && report["top1"]?.double != nil)
        let kept = try Safetensors("\(run)/model.safetensors")
        #expect(try !kept.tensors().contains { $0.0.hasPrefix("method.") || $0.0.contains("drloc") })
        let plan = try JSON(parsing: Data(contentsOf: URL(fileURLWithPath: run + "/config.json")))["tessera"]
        #expect(plan?["options"]?["method"]?.string == method)
        let teachers = ["deit": Self.teacher, "kd": Self.teacher, "locality_guidance": Self.guide]
        #expect(plan?["teacher"]?.string == teachers[method])
        #expect(try Command.run("evaluate", run, "--data", Self.data, "--json").status == 0)
    }

    /// Without labels, even without classes: an encoder, a narrower model that learns its relations, and that one
    /// fine-tuned with labels.
    @Test func preTrainsDistilsAndFineTunes() throws {
        let pictures = Self.scratch.file("pictures")
        #expect(try Command.run("data", Self.data, "--write-images", pictures, "--count", "40").status == 0)
        let (encoder, student) = (Self.scratch.file("encoder"), Self.scratch.file("student"))
        func train(_ arguments: [String]) throws -> JSON {
            let result = try Command.run(arguments + ["--json"])
            #expect(result.status == 0, "\(result.errors)")
            return try JSON(parsing: result.output)
        }
        func unlabelled(_ method: String, out: String) -> [String] {
            Self.scratch.training(pictures, out: out, epochs: 3)
                + ["--method", method, "--batch", "16", "--color-jitter", "0.4"]
        }
        var arguments = Self.arguments("mae", out: encoder)
        arguments[3] = pictures
        let first = try train(arguments + ["--batch", "16", "--mixup", "0"])
        #expect(first["top1"] == .null && first["loss"]?.double ?? 0 > 0)
        let kept = try Safetensors("\(encoder)/model.safetensors").tensors().map(\.0)
        #expect(kept.contains("blocks.1.attn.qkv.weight") && !kept.contains { $0.contains("decoder") })

        arguments = unlabelled("tinymim", out: student)
        arguments[1] = "deit_tiny_patch16_224"
        let narrow = #"{"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}"#
        arguments += ["--model-args", narrow, "--teacher", encoder, "--tinymim-block", "1", "--tinymim-heads", "4"]
        #expect(try train(arguments)["loss"]?.double ?? 0 > 0)

        arguments = Self.scratch.training(Self.data, out: Self.scratch.file("tuned"), epochs: 1)
        arguments[1] = "deit_tiny_patch16_224"
        let tuned = try train(arguments + ["--model-args", narrow, "--from", student, "--layer-decay", "0.75"])
        #expect(tuned["top1"]?.double != nil)

        let out = Self.scratch.file("none")
        for (change, text) in [
            (["--teacher", Self.teacher], "the teacher is no plain Vision Transformer"),
            (["--tinymim-block", "3"], "the teacher has 2 blocks"),
            (["--tinymim-heads", "3"], "do not divide the widths of model (16) and teacher (32)"),
            (["--image-size", "16"], "3×3 tokens and 1 before them, expected 4×4 tokens and 1"),
        ] {
            var arguments = unlabelled("tinymim", out: out)
            arguments[1] = "deit_tiny_patch16_224"
            let result = try Command.run(arguments + ["--model-args", narrow, "--teacher", encoder] + change)
            #expect(result.status == 1 && result.errors.contains(text), "\(result.errors)")
        }

        let plain = try Command.run(Self.scratch.training(pictures, out: out))
        #expect(plain.status == 1 && plain.errors.contains("no class folders, which --method supervised learns from"))
        let measured = try Command.run("evaluate", Self.teacher, "--data", pictures)
        #expect(measured.status == 1 && measured.errors.contains("has no class folders"))
    }

    /// Killed at some step and resumed by its folder alone: the bits of a run that was not.
    @Test(arguments: ["deit", "drloc", "locality_guidance", "bootstrapping", "mae"])
    func killAndResume(_ method: String) throws {
        let whole = Self.scratch.file("whole-\(method)")
        #expect(try Command.run(Self.arguments(method, out: whole)).status == 0)
        let path = Self.scratch.file("killed-\(method)")
        let process = try Command.start(
            Self.arguments(method, out: path) + ["--checkpoint-seconds", "0.01"],
            output: Self.scratch.url("output"), errors: Self.scratch.url("errors"))
        // Some steps after the first checkpoint.
        while process.isRunning, !FileManager.default.fileExists(atPath: path + "/state.json") { usleep(2000) }
        usleep(50_000)
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        let result = try Command.run("train", "--resume", path, "--quiet")
        #expect(result.status == 0, "\(result.errors)")
        #expect(try InterruptionTests.weights(path) == InterruptionTests.weights(whole))
    }

    /// A run folder of a version that knew fewer settings goes on with their defaults.
    @Test func runsOfOlderVersionsResume() throws {
        let run = Self.scratch.file("older")
        #expect(try Command.run(Self.scratch.training(Self.data, out: run, epochs: 1)).status == 0)
        let url = URL(fileURLWithPath: run + "/config.json")
        let before = try JSON(parsing: Data(contentsOf: url))
        let fresh = [
            "drloc", "distillation", "intermediate", "guidance", "bootstrapping", "mae", "tinymim", "criterion",
            "emaWarmup", "augmentationRepeats", "schedule",
        ]
        func without(_ json: JSON) -> JSON {
            guard let members = json.members else { return json }
            return .object(
                members.filter { !fresh.contains($0.key) }.map { JSON.Member($0.key, without($0.value)) })
        }
        #expect(without(before) != before)
        try without(before).text().write(to: url, atomically: true, encoding: .utf8)
        let result = try Command.run("train", "--resume", run, "--quiet")
        #expect(result.status == 0, "\(result.errors)")
    }

    @Test func refusals() throws {
        let out = Self.scratch.file("refused")
        func expectRefusal(_ arguments: [String], _ texts: String...) throws {
            let result = try Command.run(arguments)
            #expect(result.status == 1 && result.errors.split(separator: "\n").count == 1, "\(result.errors)")
            for text in texts { #expect(result.errors.contains(text), "\(text) in: \(result.errors)") }
            #expect(!FileManager.default.fileExists(atPath: out))
        }
        let plain = Self.scratch.training(Self.data, out: out)
        try expectRefusal(plain + ["--method", "drlok"], "unknown method drlok", "drloc")
        try expectRefusal(plain + ["--method", "deit"], "--method deit", "expected --teacher RUN")
        try expectRefusal(plain + ["--teacher", Self.teacher], "--method supervised", "takes no teacher")
        try expectRefusal(plain + ["--method", "deit", "--teacher", Self.teacher], "no distillation token", "kd")
        try expectRefusal(plain + ["--method", "kd", "--teacher", Self.scratch.file("nowhere")], "nowhere")
        try expectRefusal(plain + ["--drloc-lambda", "2"], "--drloc", "--method drloc")
        try expectRefusal(plain + ["--method", "drloc", "--drloc-multiscale"], "--drloc-multiscale", "pyramid")
        try expectRefusal(plain + ["--method", "bootstrapping"], "no plain transformer")
        try expectRefusal(plain + ["--method", "locality_guidance", "--teacher", Self.teacher], "has no stages")
        try expectRefusal(
            plain + ["--method", "locality_guidance", "--teacher", Self.guide, "--guidance-stages", "3"],
            "--guidance-stages 3: the teacher has 0 to 2")
        try expectRefusal(
            plain + ["--method", "locality_guidance", "--teacher", Self.guide, "--guidance-blocks", "0", "1", "2"],
            "--guidance-blocks 2: the model has 0 to 1")

        // Teachers of other classes.
        let url = URL(fileURLWithPath: Self.scratch.file("other"))
        try FileManager.default.copyItem(atPath: Self.teacher, toPath: url.path)
        let file = url.appendingPathComponent("config.json")
        let text = try String(contentsOf: file, encoding: .utf8)
        let renamed = text.replacing(#/"label_names": *\[\s*"0"/#, with: #""label_names": ["cat""#)
        #expect(renamed != text, "\(text)")
        try renamed.write(to: file, atomically: true, encoding: .utf8)
        try expectRefusal(
            plain + ["--method", "kd", "--teacher", url.path],
            "the teacher \(url.path) knows cat as class 0, expected 0")
    }

    @Test func methodsAreListed() throws {
        let list = try JSON(parsing: Command.run("methods", "--json").output).array ?? []
        #expect(list.map { $0["name"]?.string }.contains("drloc") && list[0]["name"]?.string == "supervised")
        let text = try Command.run("methods").output
        #expect(text.split(separator: "\n").count == list.count && text.contains("teacher: required"))
    }
}
