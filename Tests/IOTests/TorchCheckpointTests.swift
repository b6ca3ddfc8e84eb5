import Foundation
import Tessera
import Testing

@testable import TesseraIO

/// Files of `torch.save` (made by `Fixtures/pytorch/make.py`), and pickles that no honest program writes.
@Suite struct TorchCheckpointTests {
    static func fixture(_ name: String) -> String {
        Bundle.module.resourceURL!.appendingPathComponent("Fixtures/pytorch/\(name)").path
    }

    @Test(arguments: ["all.pth", "all_old.pth", "all_protocol4.pth"])
    func everyTypeAndLayoutIsReadRight(_ name: String) throws {
        let checkpoint = try TorchCheckpoint(Self.fixture(name))
        let expected = try #require(try JSON(parsing: read(Self.fixture("all.json"))).members)
        #expect(checkpoint.section == ["model"])
        #expect(Set(checkpoint.shapes.keys) == Set(expected.map(\.key)))
        for (key, value) in expected.map({ ($0.key, $0.value.array ?? []) }) {
            let tensor = try checkpoint.tensor(key)
            #expect(tensor.shape.dimensions.map { JSON($0) } == value[0].array, "\(key)")
            #expect(tensor.scalars.map(Double.init) == value[1].array?.compactMap(\.double), "\(key)")
        }
    }

    @Test func wrappersAreOpenedInTheirOrder() throws {
        func first(_ name: String, section: String? = nil) throws -> (Float, [String]) {
            let checkpoint = try TorchCheckpoint(Self.fixture(name), section: section)
            return (try checkpoint.tensor("w").scalars[1], checkpoint.section)
        }
        #expect(try first("teacher_student.pth") == (1.125, ["teacher"]))
        #expect(try first("teacher_student.pth", section: "student") == (0.125, ["student"]))
        #expect(try first("ema.pth") == (0.25, ["state_dict_ema"]))
        #expect(try first("ema.pth", section: "state_dict") == (0.125, ["state_dict"]))
        #expect(refusal { _ = try first("ema.pth", section: "head") }.contains("head: expected a state dictionary"))
    }

    @Test(arguments: [
        ("hostile_system.pth", "posix.system"), ("hostile_getattr.pth", "builtins.getattr"),
        ("hostile_eval.pth", "builtins.eval"), ("whole_module.pth", "torch.nn.modules.linear.Linear"),
    ]) func codeIsRefusedByName(_ name: String, _ function: String) {
        let message = refusal { _ = try TorchCheckpoint(Self.fixture(name)) }
        #expect(message.contains("found \(function.hasPrefix("builtins") ? "" : function)"), "\(message)")
        #expect(message.contains(function.split(separator: ".").last!) && message.contains("not run"), "\(message)")
        #expect(!FileManager.default.fileExists(atPath: "owned"))
    }

    /// The content of an old file that nobody but an attacker writes, and what its refusal names.
    static let hostile: [(name: String, pickle: [UInt8], expected: String)] = [
        ("empty", [], "until the end"),
        ("memo never written", program("h\u{5}."), "no memo 5"),
        ("huge memo index", program("]r") + [0xFF, 0xFF, 0xFF, 0xFF] + Array("0.".utf8), "an empty stack"),
        ("text longer than the file", program("X") + [0xFF, 0xFF, 0xFF, 0x7F] + Array("abc.".utf8), "2147483647 more"),
        ("text of 2⁶⁴ bytes", [0x80, 4, 0x8D] + [UInt8](repeating: 0xFF, count: 8), "until the end"),
        ("number of a million bytes", program("") + [0x8B, 0x40, 0x42, 0x0F, 0], "1000000 bytes"),
        ("name without an end", program("c" + String(repeating: "x", count: 5000)), "no end of the line"),
        ("call of a text", program("U\u{2}os)R."), "what is no name"),
        ("call of a list", program("]q\u{0}h\u{0})R."), "what is no name"),
        ("import", program("cimportlib\nimport_module\n."), "importlib.import_module"),
        ("type of a tensor called", program("ctorch\nfloat32\n)R."), "a call of torch.float32"),
        ("instance opcode", program("(ios\nsystem\n."), "opcode 0x69"),
        ("extension registry", program("\u{0}") + [0x82, 1], "opcode 0x0"),
        ("pop below a mark", program("N(0."), "an empty stack"),
        ("mark never set", program("Nt."), "no mark"),
        ("odd members", program("}(Nu."), "elements for what cannot take them"),
        ("append to a tuple", program(")Na."), "elements for what cannot take them"),
        ("state of nothing", program("N}b."), "a state for what has none"),
        ("unknown reference", program("U\u{3}abcQ."), "an unknown reference"),
        ("no tensors", program("}.") + program("]."), "no tensors under names"),
        ("list in itself", program("}U\u{1}a]q\u{0}h\u{0}as.") + program("]."), "no tensors under names"),
        ("dictionary in itself", program("}q\u{0}U\u{1}ah\u{0}s.") + program("]."), "no tensors under names"),
        (
            "a million lists inside each other",
            program(String(repeating: "]", count: 1_000_000) + String(repeating: "a", count: 999_999) + ".")
                + program("]."), "no tensors under names"
        ),
        ("endless steps", program(String(repeating: "N0", count: 2_100_000) + "N."), "more than 4000000 steps"),
        ("tensor outside of its storage", tensor("K\u{0}", "K\u{5}\u{85}", "K\u{1}\u{85}"), "inside its storage of 4"),
        ("offset outside", tensor("K\u{5}", "K\u{0}\u{85}", "K\u{1}\u{85}"), "inside its storage of 4"),
        ("negative size", tensor("K\u{0}", "J\u{FF}\u{FF}\u{FF}\u{FF}\u{85}", "K\u{1}\u{85}"), "other arguments"),
        (
            "size of 2⁶² elements",
            tensor(
                "K\u{0}", "J\u{FF}\u{FF}\u{FF}\u{7F}J\u{FF}\u{FF}\u{FF}\u{7F}\u{86}",
                "K\u{0}K\u{0}\u{86}"), "inside its storage of 4"
        ),
        ("more strides than sizes", tensor("K\u{0}", "K\u{1}\u{85}", "K\u{1}K\u{1}\u{86}"), "inside its storage of 4"),
    ]

    private static func latin1(_ text: String) -> [UInt8] { text.unicodeScalars.map { UInt8($0.value) } }

    private static func program(_ text: String) -> [UInt8] { [0x80, 2] + latin1(text) }

    /// A dictionary with one tensor of a storage of four floats.
    private static func tensor(_ offset: String, _ sizes: String, _ strides: String) -> [UInt8] {
        program(
            "}U\u{1}wctorch._utils\n_rebuild_tensor_v2\n((U\u{7}storagectorch\nFloatStorage\nU\u{1}0U\u{3}cpuK\u{4}NtQ"
                + offset + sizes + strides + "\u{89}}tRs.")
    }

    private static func old(_ content: [UInt8], storages: [UInt8] = []) -> [UInt8] {
        [0x80, 0x02, 0x8A, 0x0A, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19, 0x2E]
            + program("M\u{E9}\u{3}.") + program("}.") + content + storages
    }

    @Test(arguments: hostile.map(\.name)) func hostilePicklesAreRefusedInOneLine(_ name: String) throws {
        let (_, pickle, expected) = try #require(Self.hostile.first { $0.name == name })
        let path = try temporaryFolder() + "/bad.pth"
        try write(Self.old(pickle), to: path)
        let start = Date()
        let message = refusal { _ = try TorchCheckpoint(path) }
        #expect(message.contains(expected) && message.hasPrefix(path) && !message.contains("\n"), "\(message)")
        #expect(Date().timeIntervalSince(start) < 5)
    }

    @Test func repeatedElementsDoNotFillTheMemory() throws {
        let path = try temporaryFolder() + "/wide.pth"
        // 2²⁶ views of one element, by a stride of zero.
        let content = Self.tensor("K\u{0}", "J\u{0}\u{0}\u{0}\u{4}\u{85}", "K\u{0}\u{85}")
        let storages = Self.program("]U\u{1}0a.") + littleEndian(UInt64(4)) + [UInt8](repeating: 0, count: 16)
        try write(Self.old(content, storages: storages), to: path)
        let checkpoint = try TorchCheckpoint(path)
        #expect(refusal { _ = try checkpoint.tensor("w") }.contains("tensor w: expected at most 1048576"))
    }

    @Test(arguments: ["all.pth", "all_old.pth"]) func filesCutShortAreRefused(_ name: String) throws {
        let whole = try read(Self.fixture(name))
        let path = try temporaryFolder() + "/cut.pth"
        for length in stride(from: 0, to: whole.count, by: 97) {
            try write(Array(whole[..<length]), to: path)
            let message = refusal { _ = try WeightFile.open(path) }
            #expect(message.hasPrefix(path) && !message.contains("\n"), "\(length): \(message)")
        }
    }

    @Test func compressedFilesAreNamed() throws {
        var bytes = try read(Self.fixture("ema.pth"))
        // The method of the first entry of the central directory.
        let start = try #require(bytes.indices.first { bytes[$0...].starts(with: [0x50, 0x4B, 1, 2]) })
        bytes[start + 10] = 8
        let path = try temporaryFolder() + "/deflated.pth"
        try write(bytes, to: path)
        let message = refusal { _ = try TorchCheckpoint(path) }
        #expect(message.contains("stored as it is, found compression"), "\(message)")
    }

    private func refusal(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "accepted"
        } catch { return "\(error)" }
    }
}
