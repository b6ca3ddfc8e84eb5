#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif
import Tessera

/// The content of a file is not what its format asks for.
public struct FormatError: Error, Equatable, CustomStringConvertible {
    public let file: String
    /// The tensor, field or place inside the file, empty when it is the file as a whole.
    public let subject: String
    public let found: String
    public let expected: String

    /// - Parameters:
    ///   - subject: may come from the file, as `found` may: of both, one line of reasonable length is kept
    ///   - found: what stands there instead
    public init(file: String, subject: String = "", found: String, expected: String) {
        self.file = file
        self.subject = subject.onOneLine()
        self.found = found.onOneLine()
        self.expected = expected
    }

    public var description: String {
        "\(file): \(subject.isEmpty ? "" : "\(subject): ")expected \(expected), found \(found)"
    }
}

/// The system refused something: a full disk, a read-only folder, a missing file.
public struct SystemError: Error, Equatable, CustomStringConvertible {
    /// What was tried, as in "cannot `open`".
    public let action: String
    public let path: String
    /// The value of `errno`.
    public let code: Int32

    public init(_ action: String, _ path: String, code: Int32) {
        self.action = action
        self.path = path
        self.code = code
    }

    public var description: String { "\(path): cannot \(action): \(String(cString: strerror(code)))" }

    public var isMissingFile: Bool { code == ENOENT }
}
