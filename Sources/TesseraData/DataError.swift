/// What is wrong with a file, a folder or an option, on one line.
public struct DataError: Error, Equatable, CustomStringConvertible {
    /// The file, folder, sample or option.
    public let subject: String
    /// What was found, and what was expected.
    public let reason: String

    public init(_ subject: String, _ reason: String) {
        self.subject = subject
        self.reason = reason
    }

    public var description: String { "\(subject): \(reason)" }
}
