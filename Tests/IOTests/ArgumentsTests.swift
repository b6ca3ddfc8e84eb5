import Tessera
import TesseraNN
import Testing

@Suite struct ArgumentsTests {
    private func arguments(_ text: String) throws -> Arguments { try Arguments(parsing: text, section: "config") }

    @Test func readsEveryKind() throws {
        let arguments = try arguments(
            #"{"i": 4.0, "d": 3, "b": true, "s": "x", "list": [1, 2], "one": 7, "two": [7, 8], "no": null, "in": {"a": 1}}"#
        )
        #expect(try arguments.int("i") == 4)
        #expect(try arguments.double("d") == 3)
        #expect(try arguments.bool("b"))
        #expect(try arguments.string("s") == "x")
        #expect(try arguments.ints("list") == [1, 2])
        #expect(try arguments.doubles("list", count: 2) == [1, 2])
        #expect(try arguments.pair("one") == (7, 7))
        #expect(try arguments.pair("two") == (7, 8))
        #expect(try arguments.optionalInt("no") == nil)
        #expect(try arguments.int("no", default: 5) == 5)
        let inner = try #require(try arguments.nested("in"))
        #expect(throws: ArgumentError(field: "config.in.a", found: "1", expected: "true or false")) {
            try inner.bool("a")
        }
        try arguments.finish()
    }

    @Test func namesFieldFoundAndExpected() throws {
        let arguments = try arguments(
            #"{"dim": "wide", "depth": 2.5, "heads": 0, "sizes": [1, "2"], "pair": [1, 2, 3]}"#)
        func text(_ body: () throws -> Void) -> String {
            do { try body() } catch { return "\(error)" }
            return "nothing thrown"
        }
        #expect(text { _ = try arguments.int("dim") } == #"config.dim: expected a whole number, found "wide""#)
        #expect(text { _ = try arguments.int("depth") } == "config.depth: expected a whole number, found 2.5")
        #expect(text { _ = try arguments.int("heads", in: 1...64) } == "config.heads: expected 1 to 64, found 0")
        #expect(text { _ = try arguments.ints("sizes") } == #"config.sizes[1]: expected a whole number, found "2""#)
        #expect(
            text { _ = try arguments.pair("pair") } == "config.pair: expected a list of 2 whole numbers, found [1,2,3]")
        #expect(text { _ = try arguments.int("width") } == "config.width: expected a whole number, found nothing")
        #expect(text { _ = try Arguments(parsing: "[]", section: "c") } == "c: expected an object, found []")
    }

    @Test func refusesUnknownNamesWithTheNearest() throws {
        let arguments = try arguments(#"{"embed_dmi": 3}"#)
        _ = try arguments.int("embed_dim", default: 1)
        _ = try arguments.int("depth", default: 1)
        #expect(throws: ArgumentError(field: "config.embed_dmi", found: "an unknown name", expected: "embed_dim")) {
            try arguments.finish()
        }
    }

    @Test func nearestNamesComeInOrder() {
        let names = ["vit_tiny", "vit_small", "deit_tiny", "cct_7_3x1", "cct_2_3x2"]
        #expect(nearestNames(to: "vit_tiyn", in: names).first == "vit_tiny")
        #expect(nearestNames(to: "CCT-7-3x1", in: names).first == "cct_7_3x1")
        #expect(nearestNames(to: "cct", in: names) == ["cct_7_3x1", "cct_2_3x2"])
        #expect(nearestNames(to: "resnet50", in: names).isEmpty)
        #expect(nearestNames(to: "", in: names).isEmpty)
        #expect(nearestNames(to: String(repeating: "x", count: 1_000_000), in: names).isEmpty)
    }

    @Test func jsonLosesNothing() throws {
        let text = #"{"z":18446744073709551615,"a":[1e-05,-0.0,"\u00e9\ud83d\ude00\n\"\\",null,true],"e":{},"l":[]}"#
        let json = try JSON(parsing: text)
        #expect(try JSON(parsing: json.text()) == json)
        #expect(try JSON(parsing: json.text(indented: true)) == json)
        #expect(json["z"] == .number("18446744073709551615"))
        #expect(json["a"]?.array?[2].string == "é😀\n\"\\")
        #expect(json.members?.map(\.key) == ["z", "a", "e", "l"])
    }

    @Test(arguments: [
        "", " ", "{", "[1,]", "{\"a\":1,}", "{a:1}", "01", "1.", ".5", "+1", "1e", "-", "nul", "truex", "\"\u{1}\"",
        "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"abc", "[1 2]", "{\"a\" 1}", "{\"a\":1,\"a\":2}",
        "NaN", "1e400", "[]]",
    ])
    func refusesWhatIsNotJSON(_ text: String) {
        #expect(throws: JSON.SyntaxError.self) { try JSON(parsing: text) }
    }

    /// Names from a file cannot bring line breaks or a terminal's commands into a message.
    @Test func namesFromFilesStayOnOneLine() throws {
        let twice = #"{"a\n\u001b[2J": 1, "a\n\u001b[2J": 2}"#
        do {
            _ = try JSON(parsing: twice)
            Issue.record("a key that occurs twice was read")
        } catch { #expect(error.reason == "the key \"a  [2J\" occurs twice") }
        let error = ArgumentError(field: "model_args.a\nb", found: "\u{202E}x\r\n", expected: "1")
        #expect("\(error)" == "model_args.a b: expected 1, found  x  ")
        #expect(!"\(StateDictionaryError(missing: ["w\n"]))".contains("\n"))
    }
}
