import Foundation
import Tessera
import TesseraIO
import Testing

/// `tessera study` as a user runs it, on pictures that are learned in seconds.
@Suite(.serialized) struct StudyTests {
    let scratch: Scratch
    let data: String
    /// Two candidates that train, one beyond the limit of parameters, one that cannot be built for 12×12.
    let candidates = "cct_2_3x2_32,cvt_2_4_32,cct_6_3x2_32,vit_lite_7_8_32"

    init() throws {
        scratch = try Scratch()
        data = try scratch.writeBars()
    }

    private func study(_ out: String, _ more: String...) -> [String] {
        ["study", "--data", data, "--out", out, "--budget", "10m", "--seed", "3", "--lr", "3e-3", "--batch", "32"]
            + more
    }

    private func json(_ folder: String) throws -> JSON {
        try JSON(parsing: Data(contentsOf: URL(fileURLWithPath: folder + "/study.json")))
    }

    /// What a study decided, without its times.
    private func decisions(_ folder: String) throws -> [JSON?] {
        let study = try json(folder)
        let points = (study["candidates"]?.array ?? []).map { candidate in
            JSON.array((candidate["points"]?.array ?? []).map { $0["accuracy"] ?? .null })
        }
        return points + [study["search"], study["winner"]?["model"]]
    }

    @Test func findsAWinner() throws {
        let folder = scratch.file("whole")
        let result = try Command.run(
            study(folder, "--models", candidates, "--parameters", "1M", "--epochs", "3", "--rungs", "2", "--json"))
        #expect(result.status == 0, "\(result.errors)")
        let report = try JSON(parsing: result.output)
        let entries = report["candidates"]?.array ?? []
        #expect(entries.map { $0["status"]?.string } == ["trained", "trained", "excluded", "refused"])
        #expect(entries[0]["latency"]?.double ?? 0 > 0 && entries[0]["parameters"]?.int ?? 0 > 100_000)
        #expect(entries[2]["points"]?.array == [] && entries[3]["reason"]?.string?.contains("12") == true)
        #expect(report["is_complete"]?.bool == true)
        // Rungs at 1 and 3 epochs: the better one goes to the end, the other stays at the first.
        #expect(entries.prefix(2).map { $0["points"]?.array?.count ?? 0 }.sorted() == [1, 3])
        let winner = try #require(report["winner"]?["run"]?.string)
        #expect(report["winner"]?["accuracy"]?.double ?? 0 > 0.5)
        #expect(try Command.run("evaluate", winner, "--data", data, "--json").status == 0)

        let page = try String(contentsOfFile: folder + "/study.html", encoding: .utf8)
        for text in ["Pareto front", "cct_6_3x2_32", "more than 1000000", "cosine", "tessera train", "<svg"] {
            #expect(page.contains(text), "\(text)")
        }
        #expect(!page.contains("http") && !page.contains("<script"))
        // Finished: resuming changes nothing and says the same.
        let again = try Command.run("study", "--resume", folder, "--json")
        #expect(again.status == 0, "\(again.errors)")
        #expect(try JSON(parsing: again.output)["winner"] == report["winner"])
        try theCommandTrains(report, winner)
    }

    /// The command that the study ends with is one that `tessera train` takes, with the recipe of the winner's run.
    private func theCommandTrains(_ report: JSON, _ winner: String) throws {
        var words = try #require(report["command"]?.string).split(separator: " ").map(String.init).dropFirst()
        let place = try #require(words.firstIndex(of: "--out"))
        words[place + 1] = scratch.file("final")
        let result = try Command.run(Array(words) + ["--quiet"])
        #expect(result.status == 0, "\(result.errors)")
        func options(_ run: String) throws -> [String: JSON] {
            let file = try JSON(parsing: Data(contentsOf: URL(fileURLWithPath: run + "/config.json")))
            let members = try #require(file["tessera"]?["options"]?.members)
            return Dictionary(uniqueKeysWithValues: members.map { ($0.key, $0.value) })
        }
        let (studied, trained) = (try options(winner), try options(scratch.file("final")))
        let changed = Set(studied.keys).union(trained.keys).filter { studied[$0] != trained[$0] }
        // Of other length, validated on all images, and with a rate of checkpoints that suits a long run.
        #expect(
            changed.isSubset(of: ["epochs", "warmupEpochs", "checkpointSeconds", "validationImages"]), "\(changed)")
    }

    @Test func killedAndResumedDecidesTheSame() throws {
        let arguments = ["--models", "cct_2_3x2_32,cvt_2_4_32,vit_2_4_32", "--epochs", "4", "--eta", "2", "--quiet"]
        let whole = scratch.file("whole")
        #expect(try Command.run(study(whole) + arguments).status == 0)
        let path = scratch.file("killed")
        var generator = RandomGenerator(seed: 4)
        for attempt in 0..<3 {
            let process = try Command.start(
                attempt == 0 ? study(path) + arguments : ["study", "--resume", path, "--quiet"],
                output: scratch.url("output"), errors: scratch.url("errors"))
            while process.isRunning, !FileManager.default.fileExists(atPath: path + "/study.json") { usleep(2000) }
            Thread.sleep(forTimeInterval: Double(generator.uniform(0.3, 1.5)))
            // The second time politely.
            kill(process.processIdentifier, attempt == 1 ? SIGINT : SIGKILL)
            process.waitUntilExit()
            if attempt == 1, process.terminationReason == .exit {
                #expect([0, 130].contains(process.terminationStatus))
            }
        }
        let result = try Command.run("study", "--resume", path, "--quiet")
        #expect(result.status == 0, "\(result.errors)")
        #expect(try decisions(path) == decisions(whole))
    }

    @Test func endsWithTheBudget() throws {
        let folder = scratch.file("short")
        var arguments = study(folder, "--models", "cct_2_3x2_32", "--epochs", "100000", "--quiet")
        arguments[6] = "3s"
        let result = try Command.run(arguments)
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.output.contains("the time is up") && result.output.contains("tessera train --resume"))
        let spent = try json(folder)["seconds"]?.double ?? 0
        #expect(spent >= 3 && spent < 5, "\(spent)")
        #expect(try json(folder)["is_complete"]?.bool == false)
    }

    @Test func aPartOfTheImages() throws {
        let run = scratch.file("part")
        let result = try Command.run(
            scratch.training(data, out: run, epochs: 1).filter { $0 != "--quiet" } + ["--fraction", "0.25"])
        #expect(result.status == 0 && result.errors.contains("48 training images"), "\(result.errors)")
    }

    @Test func refusals() throws {
        let out = scratch.file("refused")
        func expectRefusal(_ arguments: [String], status: Int32 = 1, _ texts: String...) throws {
            let result = try Command.run(arguments)
            #expect(result.status == status, "\(arguments): \(result.errors)")
            if status == 1 { #expect(result.errors.split(separator: "\n").count == 1, "\(result.errors)") }
            for text in texts { #expect(result.errors.contains(text), "\(text) in: \(result.errors)") }
            #expect(!FileManager.default.fileExists(atPath: out))
        }
        try expectRefusal(["study", "--data", data], status: 64, "--budget")
        try expectRefusal(["study", "--resume", "x", "--budget", "3m", "--lr=1"], status: 64, "found --budget, --lr")
        try expectRefusal(["study", "--data", data, "--out", out, "--budget", "soon"], status: 64, "soon")
        try expectRefusal(study(out, "--parameters", "many"), status: 64, "many")
        try expectRefusal(study(out, "--models", "cct_2_3x2_33"), "cct_2_3x2_33", "cct_2_3x2_32")
        try expectRefusal(study(out, "--methods", "drlok"), "drlok", "drloc")
        try expectRefusal(study(out, "--methods", "supervised,kd"), "--method kd", "--teacher RUN")
        try expectRefusal(study(out, "--teacher", "x"), "takes no teacher")
        try expectRefusal(study(out, "--eta", "1", "--fraction", "0"), "--eta", "--fraction")
        try expectRefusal(["study", "--resume", scratch.file("nothing")], "study.json")

        // A folder that already holds a study, and one that was edited by hand.
        let folder = scratch.file("edited")
        #expect(try Command.run(study(folder, "--models", "cct_2_3x2_32", "--epochs", "1", "--quiet")).status == 0)
        try expectRefusal(study(folder), "already holds a study")
        let url = URL(fileURLWithPath: folder + "/study.json")
        let text = try String(contentsOf: url, encoding: .utf8)
        for (old, new) in [("\"eta\": 3", "\"eta\": 0"), ("\"cct_2_3x2_32\"", "\"../x\""), ("{", "")] {
            let edited = text.replacing(old, with: new)
            #expect(edited != text, "\(old)")
            try edited.write(to: url, atomically: true, encoding: .utf8)
            try expectRefusal(["study", "--resume", folder])
        }
    }
}
