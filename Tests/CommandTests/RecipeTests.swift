import Foundation
import Tessera
import TesseraIO
import Testing

@testable import tessera_command

/// Recipes in YAML: they say what flags say, flags win, and files of strangers are refused with file, line and key.
@Suite struct RecipeTests {
    private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../../Recipes").standardizedFileURL

    private static let base = ["train", "cct_2_3x2_32", "--data", "d", "--out", "o"]

    /// The command that `tessera train --recipe` runs.
    private func command(_ yaml: String, _ changes: String...) throws -> TrainCommand {
        let scratch = try Scratch()
        try yaml.write(to: scratch.url("recipe.yaml"), atomically: true, encoding: .utf8)
        let arguments = try RecipeFile.expanding(Self.base + ["--recipe", scratch.file("recipe.yaml")] + changes)
        return try #require(TesseraCommand.parseAsRoot(arguments) as? TrainCommand)
    }

    @Test func flagsComeFromTheFileAndTheCommandLineWins() throws {
        let yaml = """
            # a comment
            epochs: 7
            lr: 55e-5
            scale: [0.8, 1]
            ratio: [0.5, 2.0]
            aa: "rand-m9"
            clip-grad: null
            strict: true
            quiet: false
            model-args: {stochastic_depth: 0, positional_embedding: sine}
            """
        let command = try command(yaml, "--epochs", "2", "--ratio", "0.9", "1.1")
        #expect(command.settings.epochs == 2 && command.settings.lr == 55e-5 && command.settings.clipGrad == nil)
        #expect(command.settings.scale == [0.8, 1] && command.settings.ratio == [0.9, 1.1])
        #expect(command.settings.aa == "rand-m9" && command.strict && !command.inputs.quiet)
        #expect(command.modelArgs == #"{"stochastic_depth":0,"positional_embedding":"sine"}"#)
        #expect(try self.command("").settings.epochs == 10)
    }

    @Test func everyFlagCanBeSaid() throws {
        let help = TesseraCommand.helpMessage(for: TrainCommand.self)
        let flags = Set(help.matches(of: /--([a-z-]+)/).map { String($0.1) })
        let others: Set = ["recipe", "resume", "overwrite", "version", "help"]
        #expect(Set(RecipeFile.kinds.keys) == flags.subtracting(others))
    }

    @Test(arguments: [
        ("epochs: 3\nepoch: 3", "r.yaml:2: epoch: expected epochs, found an unknown key"),
        ("overwrite: true", "r.yaml:1: overwrite: expected a flag of"),
        ("epochs: 3.5", "r.yaml:1: epochs: expected a whole number, found 3.5"),
        ("\nepochs: \"3\"", "r.yaml:2: epochs: expected a whole number, found \"3\""),
        ("lr: fast", "r.yaml:1: lr: expected a number, found \"fast\""),
        ("lr: .inf", "r.yaml:1: lr: expected a number"),
        ("strict: 1", "r.yaml:1: strict: expected true or false, found 1"),
        ("scale: 0.8", "r.yaml:1: scale: expected a list of two numbers, found 0.8"),
        ("scale: [1, 2, 3]", "r.yaml:1: scale: expected a list of two numbers, found [1,2,3]"),
        ("model-args: 3", "r.yaml:1: model-args: expected a mapping"),
        ("opt: {a: b}", "r.yaml:1: opt: expected text, found a mapping"),
        ("lr: 1\nlr: 2", "r.yaml:1: lr: expected each key once"),
        ("- epochs", "r.yaml: expected lines of"), ("epochs", "r.yaml: expected lines of"),
        ("a: [", "r.yaml:"), ("a: 'b", "r.yaml:"), ("a: 1\n---\nb: 2", "r.yaml:"),
        ("a: &x [1]\nb: *x", "r.yaml:1: expected values written out, found an anchor"),
        ("b: *x", "r.yaml:1: expected YAML"),
    ]) func refusals(_ yaml: String, _ message: String) {
        #expect {
            try RecipeFile(parsing: Data(yaml.utf8), name: "r.yaml")
        } throws: { error in
            "\(error)".contains(message) && !"\(error)".contains("\n")
        }
    }

    @Test(arguments: [
        ("[", 40, "at most 32 brackets"), ("- ", 4000, "bytes on a line"), ("lr: 1\n", 4000, "at most 16384 bytes"),
    ])
    func refusesWhatIsTooLong(_ part: String, _ count: Int, _ message: String) {
        refusals(String(repeating: part, count: count), message)
    }

    @Test func filesThatAreNotThere() throws {
        for path in ["/nowhere/r.yaml", "/"] {
            let result = try Command.run(Self.base + ["--recipe=\(path)"])
            #expect(result.status == 1 && result.errors.split(separator: "\n").count == 1, "\(result.errors)")
        }
    }

    @Test func shippedRecipes() throws {
        let files = try FileManager.default.contentsOfDirectory(at: Self.folder, includingPropertiesForKeys: nil)
        #expect(files.count >= 10)
        for file in files {
            let text = try String(contentsOf: file, encoding: .utf8)
            let parsed = try command(text)
            // What the file says is what comes out: as many settings as lines, and possible ones.
            let lines = text.split(separator: "\n").filter { !$0.hasPrefix("#") }
            #expect(try RecipeFile(file.path).settings.count == lines.count)
            let options = parsed.options
            #expect(options.problems(images: 50_000, classes: 10).isEmpty, "\(file.lastPathComponent)")
            // The second comment line is a command that works.
            let example = try #require(text.firstMatch(of: /# tessera (train .*)/)).1
            _ = try TesseraCommand.parseAsRoot(example.split(separator: " ").map(String.init))
        }
    }

    /// Mutations of a good file and random structure: a recipe or an error, and no more.
    @Test func damagedFiles() throws {
        let good = Array(try Data(contentsOf: Self.folder.appendingPathComponent("fashion_mnist.yaml")))
        var random = RandomGenerator(seed: 3)
        let pieces = [
            "[", "]", "{", "}", ": ", "- ", "? ", "&a", "*a", "!!", "|", ">", "'", "\"", "\n", "\t", "---", "%",
            "\u{85}",
        ]
        for _ in 0..<4000 {
            var bytes = good
            for _ in 0...random.integer(below: 8) {
                let place = random.integer(below: bytes.count)
                switch random.integer(below: 3) {
                case 0: bytes[place] = UInt8(random.integer(below: 256))
                case 1: bytes.insert(contentsOf: pieces[random.integer(below: pieces.count)].utf8, at: place)
                default: bytes.removeSubrange(place..<min(bytes.count, place + 1 + random.integer(below: 20)))
                }
                if bytes.isEmpty { bytes = good }
            }
            _ = try? RecipeFile(parsing: Data(bytes), name: "r.yaml")
        }
    }

    @Test func theRunKeepsWhatHolds() throws {
        let scratch = try Scratch()
        let data = try scratch.writeBars()
        try "epochs: 1\nsmoothing: 0.25\nbatch: 48\n".write(
            to: scratch.url("r.yaml"), atomically: true, encoding: .utf8)
        let result = try Command.run([
            "train", "cct_2_3x2_32", "--data", data, "--out", scratch.file("run"), "--recipe", scratch.file("r.yaml"),
            "--batch", "64", "--warmup-epochs", "0", "--quiet",
        ])
        #expect(result.status == 0, "\(result.errors)")
        let json = try JSON(parsing: Data(contentsOf: scratch.url("run/config.json")))
        let plan = try #require(json["tessera"])
        #expect(plan["recipe"]?.string == scratch.file("r.yaml"))
        #expect(plan["options"]?["smoothing"]?.double == 0.25 && plan["options"]?["batchSize"]?.int == 64)
    }
}
