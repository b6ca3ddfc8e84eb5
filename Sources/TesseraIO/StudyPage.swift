/// What `study.html` shows of a study: candidates in a table and drawn by what they cost.
public struct StudyPage: Sendable {
    public var title: String
    /// One sentence under the title.
    public var summary: String
    /// The figures shown large.
    public var highlights: [Report.Fact]
    /// What to type next.
    public var command: String?
    public var header: [String]
    /// As many cells in each as in the header.
    public var rows: [[String]]
    public var charts: [Report.Chart]
    /// How to read the numbers, a paragraph each.
    public var notes: [String]
    public var configuration: [Report.Fact]

    public init(
        title: String, summary: String, highlights: [Report.Fact], command: String?, header: [String],
        rows: [[String]], charts: [Report.Chart], notes: [String], configuration: [Report.Fact]
    ) {
        (self.title, self.summary, self.highlights, self.command) = (title, summary, highlights, command)
        (self.header, self.rows, self.charts) = (header, rows, charts)
        (self.notes, self.configuration) = (notes, configuration)
    }

    /// The page as HTML.
    public var html: String {
        let drawings = charts.map(\.html).joined()
        return htmlPage(
            title: title, summary: summary,
            content: """
                \(tiles(highlights))
                \(command.map { section("Train the best to the end", "<pre>\(escaped($0))</pre>", when: true) } ?? "")
                \(section("Candidates", table, when: !rows.isEmpty))
                \(section("What accuracy costs, and how it grows", "<div class=\"charts\">\(drawings)</div>", when: !drawings.isEmpty))
                \(section("How to read this", notes.map { "<p>\(escaped($0))</p>" }.joined(), when: !notes.isEmpty))
                \(factTable(configuration))
                """)
    }

    private var table: String {
        let head = header.map { "<th scope=\"col\">\(escaped($0))</th>" }.joined()
        let body = rows.map { "<tr>\($0.map { "<td>\(escaped($0))</td>" }.joined())</tr>" }.joined()
        return "<div class=\"scroll\"><table class=\"facts candidates\"><tr>\(head)</tr>\(body)</table></div>"
    }
}
