import Tessera

/// What is wrong with a file, a folder or an option, on one line.
public struct DataError: Error, Equatable, CustomStringConvertible {
    /// The file, folder, sample or option.
    public let subject: String
    /// What was found, and what was expected.
    public let reason: String

    /// Both may hold names or texts from a file: one line of reasonable length is kept.
    public init(_ subject: String, _ reason: String) {
        self.subject = subject.onOneLine(atMost: 4096)
        self.reason = reason.onOneLine()
    }

    public var description: String { "\(subject): \(reason)" }
}
