import ArgumentParser

/// What may be said beside `--resume`: the work goes on with the settings that it began with, so other flags would be read
/// by nobody.
enum ResumeFlags {
    private static let verbs: Set = ["train", "study"]
    private static let allowed: Set = ["--resume", "--quiet", "--json", "--threads", "--help", "--version"]

    /// - Parameter arguments: those of `tessera`, before a recipe is written out
    /// - Throws: `ValidationError`
    static func check(_ arguments: [String]) throws {
        let flags = arguments.filter { $0.hasPrefix("--") }.map { String($0.prefix { $0 != "=" }) }
        guard let verb = arguments.first, verbs.contains(verb), flags.contains("--resume") else { return }
        let others = flags.filter { !allowed.contains($0) }
        guard others.isEmpty else {
            throw ValidationError(
                "--resume goes on as it began: found \(others.joined(separator: ", ")), expected nothing beside it but "
                    + "--threads, --quiet and --json")
        }
    }
}
