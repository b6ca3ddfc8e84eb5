import Tessera

/// A table of results that grows by a row at a time, such as one an epoch: comma-separated values (RFC 4180).
///
/// Every row is flushed when it is added. The first column is the step the row belongs to, so that a resumed run can
/// drop what was written after its checkpoint.
public struct MetricsLog: Sendable {
    public let path: String
    public let columns: [String]
    private let files: any FileSystem

    /// Opens the table at `path`, or begins one.
    /// - Throws: ``SystemError``; ``FormatError`` if the file has other columns.
    public init(_ path: String, columns: [String], on files: some FileSystem = .system) throws {
        self.path = path
        self.columns = columns
        self.files = files
        guard let found = try MetricsLog.rows(path)?.first else {
            try AtomicFile.write(MetricsLog.line(columns), to: path, on: files)
            return
        }
        guard found == columns else {
            throw FormatError(
                file: path, subject: "header", found: found.joined(separator: ","),
                expected: columns.joined(separator: ","))
        }
    }

    /// Adds a row; `values` has a value for each column.
    public func append(_ values: [String]) throws {
        precondition(values.count == columns.count, "\(values.count) values for \(columns.count) columns")
        try AtomicFile.append(Array(MetricsLog.line(values).utf8), to: path, on: files)
    }

    /// Drops the rows after `step`, and one that a crash tore.
    public func truncate(after step: Int) throws {
        let kept = try rows().filter { row in Int(row[0]).map { $0 <= step } ?? false }
        try AtomicFile.write(([columns] + kept).map(MetricsLog.line).joined(), to: path, on: files)
    }

    /// The complete rows below the header.
    public func rows() throws -> [[String]] {
        (try MetricsLog.rows(path) ?? []).dropFirst().filter { $0.count == columns.count }
    }

    /// One row as a line of text: quoted where a comma, a quote or a line break asks for it.
    static func line(_ values: [String]) -> String {
        let fields = values.map { value in
            let isPlain = value.unicodeScalars.allSatisfy { $0 != "," && $0 != "\"" && $0 != "\n" && $0 != "\r" }
            return isPlain
                ? value
                : "\"" + value.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
        }
        return fields.joined(separator: ",") + "\r\n"
    }

    /// The lines that have an end, taken apart; nil if there is no file.
    private static func rows(_ path: String) throws -> [[String]]? {
        let bytes: [UInt8]
        do { bytes = try MappedFile.contents(of: path) } catch let error as SystemError where error.isMissingFile {
            return nil
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw FormatError(file: path, found: "other bytes", expected: "UTF-8 text")
        }
        return parse(text)
    }

    static func parse(_ text: String) -> [[String]] {
        var rows: [[String]] = []
        var row: [String] = []
        var field = String.UnicodeScalarView()
        var isQuoted = false
        var afterQuote = false
        func end() {
            row.append(String(field))
            field = String.UnicodeScalarView()
            afterQuote = false
        }
        for scalar in text.unicodeScalars {
            if isQuoted {
                if scalar == "\"" { (isQuoted, afterQuote) = (false, true) } else { field.append(scalar) }
                continue
            }
            switch scalar {
            case "\"":
                // A second quote right after the first stands for one quote.
                if afterQuote { field.append(scalar) }
                isQuoted = true
            case ",": end()
            case "\r": break
            case "\n":
                end()
                rows.append(row)
                row = []
            default:
                field.append(scalar)
                afterQuote = false
            }
        }
        return rows
    }
}
