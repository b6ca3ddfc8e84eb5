import ArgumentParser
import Tessera
import TesseraTraining

struct MethodsCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "methods", abstract: "Lists the training methods: name, paper, year, teacher.",
        discussion: "Example: tessera train cct_7_3x1_32 --data photos/ --out runs/a --method drloc")

    @Flag(help: "Print JSON.")
    var json = false

    func perform() throws {
        if json { return printJSON(.array(TrainingMethod.all.map(description)), indented: true) }
        let rows = TrainingMethod.all.map { method in
            [
                method.name, method.paper.map { "\($0.year)" } ?? "", "teacher: \(method.teacher.rawValue)",
                method.summary, method.paper.map { "(\($0.title))" } ?? "",
            ]
        }
        for row in rows {
            let cells = row.enumerated().map { column, cell in
                let width = column < 3 ? rows.map { $0[column].count }.max()! : 0
                return cell + String(repeating: " ", count: max(0, width - cell.count))
            }
            print(cells.joined(separator: "  ").trimmingTrailingSpaces)
        }
    }

    private func description(_ method: TrainingMethod) -> JSON {
        JSON([
            "name": .string(method.name), "summary": .string(method.summary),
            "teacher": .string(method.teacher.rawValue),
            "paper": method.paper.map { .string($0.title) } ?? .null,
            "year": method.paper.map { JSON($0.year) } ?? .null,
            "arxiv": method.paper.map { .string($0.arxiv) } ?? .null,
        ])
    }
}

extension String {
    fileprivate var trimmingTrailingSpaces: String {
        String(self[..<(lastIndex { $0 != " " }.map { index(after: $0) } ?? startIndex)])
    }
}
