import ArgumentParser
import Tessera
import TesseraTraining

struct MethodsCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "methods", abstract: "Lists the training methods: name, paper, whether they need a teacher.",
        discussion: "Example: tessera train cct_7_3x1_32 --data photos/ --out runs/a --method drloc")

    @Flag(help: "Print JSON.")
    var json = false

    func perform() throws {
        if json { return printJSON(.array(TrainingMethod.all.map(description)), indented: true) }
        let rows = TrainingMethod.all.map { method in
            [
                method.name, method.paper.map { "\($0.year)" } ?? "", method.paper.map { "arXiv \($0.arxiv)" } ?? "",
                "teacher: \(method.teacher.rawValue)", method.summary,
            ]
        }
        for row in rows {
            let cells = row.enumerated().map { column, cell in
                let width = rows.map { $0[column].count }.max()!
                return column == 4 ? cell : cell + String(repeating: " ", count: width - cell.count)
            }
            print(cells.joined(separator: "  "))
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
