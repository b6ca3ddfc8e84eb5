import Foundation

/// What `report.html` shows of a run: a page in one file, readable without a network and without scripts.
public struct Report: Codable, Sendable {
    /// A name with its value.
    public struct Fact: Codable, Sendable {
        public var name: String
        public var value: String

        public init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    /// Lines over a common horizontal axis.
    public struct Chart: Codable, Sendable {
        public struct Series: Codable, Sendable {
            public var name: String
            public var x: [Double]
            /// As many as `x`; values that are not finite leave a gap.
            public var y: [Double]
            /// A name for each point: they are then drawn apart, without a line through them.
            public var labels: [String]?

            public init(_ name: String, x: [Double], y: [Double], labels: [String]? = nil) {
                precondition(labels.map { $0.count == x.count } ?? true, "a label for each of \(x.count) points")
                self.name = name
                self.x = x
                self.y = y
                self.labels = labels
            }
        }

        public var title: String
        public var horizontal: String
        /// Whether equal factors are equally wide; points that are not above 0 are left out.
        public var isLogarithmic: Bool
        public var series: [Series]

        public init(_ title: String, horizontal: String = "epoch", isLogarithmic: Bool = false, series: [Series]) {
            self.title = title
            self.horizontal = horizontal
            self.isLogarithmic = isLogarithmic
            self.series = series
        }
    }

    /// An image with what the model said about it.
    public struct Sample: Codable, Sendable {
        /// The content of a PNG file.
        public var png: Data
        /// The same image with the model's attention over it, a PNG file too.
        public var attention: Data?
        public var truth: String
        public var prediction: String
        /// Of the prediction, from 0 to 1.
        public var probability: Double

        public init(png: Data, attention: Data? = nil, truth: String, prediction: String, probability: Double) {
            self.png = png
            self.attention = attention
            self.truth = truth
            self.prediction = prediction
            self.probability = probability
        }
    }

    /// Counts of test images by true class (rows) and predicted class (columns).
    public struct Confusion: Codable, Sendable {
        public var labels: [String]
        public var counts: [[Int]]

        public init(labels: [String], counts: [[Int]]) {
            precondition(
                counts.count == labels.count && counts.allSatisfy { $0.count == labels.count },
                "the confusion matrix of \(labels.count) classes has as many rows and columns")
            self.labels = labels
            self.counts = counts
        }

        /// The part of the images of a class that were recognised; nil without any image.
        public func accuracy(of label: Int) -> Double? {
            let total = counts[label].reduce(0, +)
            return total == 0 ? nil : Double(counts[label][label]) / Double(total)
        }
    }

    public var title: String
    /// One sentence under the title.
    public var summary: String
    /// The figures shown large.
    public var highlights: [Fact]
    public var charts: [Chart]
    /// Above the charts.
    public var chartsTitle: String
    public var confusion: Confusion?
    public var samples: [Sample]
    public var configuration: [Fact]

    public init(
        title: String, summary: String = "", highlights: [Fact] = [], charts: [Chart] = [],
        chartsTitle: String = "Training", confusion: Confusion? = nil, samples: [Sample] = [],
        configuration: [Fact] = []
    ) {
        self.title = title
        self.summary = summary
        self.highlights = highlights
        self.charts = charts
        self.chartsTitle = chartsTitle
        self.confusion = confusion
        self.samples = samples
        self.configuration = configuration
    }
}

extension Report {
    /// The page as HTML.
    public var page: String {
        htmlPage(
            title: title, summary: summary,
            content: """
                \(tiles(highlights))
                \(chartsHTML)
                \(samplesHTML)
                \(confusion.map(\.html) ?? "")
                \(factTable(configuration))
                """)
    }

    private var chartsHTML: String {
        section(chartsTitle, "<div class=\"charts\">\(charts.map(\.html).joined())</div>", when: !charts.isEmpty)
    }

    private var samplesHTML: String {
        let figures = samples.map { sample in
            let isRight = sample.truth == sample.prediction
            let verdict = isRight ? "right" : "wrong"
            let images = [(sample.png, "test image"), (sample.attention, "where the model looks")].compactMap {
                png, alt in
                png.map { "<img src=\"data:image/png;base64,\($0.base64EncodedString())\" alt=\"\(alt)\">" }
            }
            let truth = isRight ? "" : "<br>is \(escaped(sample.truth))"
            return """
                <figure class="\(verdict)"><div>\(images.joined())</div><figcaption>\
                <b>\(isRight ? "✓" : "✗") \(escaped(sample.prediction))</b> \(percent(sample.probability))\(truth)\
                </figcaption></figure>
                """
        }
        return section("Predictions", "<div class=\"samples\">\(figures.joined())</div>", when: !samples.isEmpty)
    }
}

extension Report.Confusion {
    /// More classes than this make a table that nobody reads.
    private static let largestTable = 40
    private static let longestList = 15

    fileprivate var html: String {
        section("Accuracy by class", classBars, when: !labels.isEmpty)
            + section("Confusion matrix", table, when: !labels.isEmpty && labels.count <= Report.Confusion.largestTable)
            + section("Most frequent confusions", mistakes, when: !labels.isEmpty)
    }

    private var classBars: String {
        let rows = labels.indices.map { label in
            let value = accuracy(of: label)
            let width = String(format: "%.1f%%", 100 * (value ?? 0))
            return """
                <tr><th scope="row">\(escaped(labels[label]))</th><td class="bar"><i style="width:\(width)"></i></td>\
                <td class="number">\(value.map(percent) ?? "no image")</td></tr>
                """
        }
        return "<table class=\"bars\">\(rows.joined())</table>"
    }

    private var table: String {
        let head = labels.map { "<th scope=\"col\"><span>\(escaped($0))</span></th>" }.joined()
        let rows = labels.indices.map { truth in
            let total = max(1, counts[truth].reduce(0, +))
            let cells = labels.indices.map { guess in
                let share = Double(counts[truth][guess]) / Double(total)
                let kind = truth == guess ? "hit" : "miss"
                // Square root: a few mistakes in a thousand should still be seen.
                let strength = String(format: "%.3f", share.squareRoot())
                let text = counts[truth][guess] == 0 ? "" : String(counts[truth][guess])
                let title = "\(labels[truth]) taken for \(labels[guess]): \(counts[truth][guess])"
                return "<td class=\"\(kind)\" style=\"--s:\(strength)\" title=\"\(escaped(title))\">\(text)</td>"
            }
            return "<tr><th scope=\"row\">\(escaped(labels[truth]))</th>\(cells.joined())</tr>"
        }
        return """
            <div class="scroll"><table class="matrix"><caption>Rows: what the image shows. Columns: what the model \
            said.</caption><tr><td></td>\(head)</tr>\(rows.joined())</table></div>
            """
    }

    private var mistakes: String {
        var pairs: [(truth: Int, guess: Int, count: Int)] = []
        for truth in labels.indices {
            for guess in labels.indices where truth != guess && counts[truth][guess] > 0 {
                pairs.append((truth, guess, counts[truth][guess]))
            }
        }
        // Among equals the first in the table comes first: the page is the same each time.
        pairs.sort { ($1.count, $0.truth, $0.guess) < ($0.count, $1.truth, $1.guess) }
        if pairs.isEmpty { return "<p>None: every image was recognised.</p>" }
        let rows = pairs.prefix(Report.Confusion.longestList).map {
            "<tr><td class=\"number\">\($0.count)</td><td>\(escaped(labels[$0.truth])) taken for "
                + "\(escaped(labels[$0.guess]))</td></tr>"
        }
        return "<table class=\"facts\">\(rows.joined())</table>"
    }
}

private func percent(_ fraction: Double) -> String { String(format: "%.1f%%", 100 * fraction) }
