import ArgumentParser
import Tessera
import TesseraModels

struct ModelsCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "models", abstract: "Lists the models: name, paper, year, parameters, multiply-adds, input.",
        discussion: "Example: tessera models cct")

    @Argument(help: "Only models whose name, system or paper has this text.")
    var text = ""

    @Flag(help: "Print JSON.")
    var json = false

    func perform() throws {
        let wanted = text.lowercased()
        let entries = Registry.systems.flatMap { system in
            system.variants.filter { entry in
                wanted.isEmpty
                    || [entry.name, system.id, system.title].contains { $0.lowercased().contains(wanted) }
            }.map { (system, $0) }
        }
        if let exact = entries.first(where: { $0.1.name == text }), json {
            return printJSON(description(exact.0, exact.1), indented: true)
        }
        guard !entries.isEmpty else {
            throw UnknownModelError(name: text, nearest: nearestNames(to: text, in: Registry.entries.map(\.name)))
        }
        if json { return printJSON(.array(entries.map(description)), indented: true) }
        let rows = entries.map { system, entry -> [String] in
            let size = entry.measure()
            let c = entry.configuration
            return [
                entry.name, "\(system.year)", grouped(size.parameters),
                millions(size.multiplyAdds), "\(c.imageSize)×\(c.channels)", system.title,
            ]
        }
        let header = ["name", "year", "parameters", "multiply-adds", "input", "paper"]
        let widths = header.indices.map { column in ([header] + rows).map { $0[column].count }.max()! }
        for row in [header] + rows {
            let cells = row.enumerated().map { column, cell in
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                return column == 2 || column == 3 ? padding + cell : column == 5 ? cell : cell + padding
            }
            print(cells.joined(separator: "  "))
        }
    }

    private func millions(_ count: Int) -> String {
        count >= 1_000_000_000 ? "\(Double(count / 10_000_000) / 100) G" : "\(Double(count / 10_000) / 100) M"
    }

    private func description(_ system: ModelSystem, _ entry: ModelEntry) -> JSON {
        let size = entry.measure()
        let c = entry.configuration
        return JSON([
            "name": .string(entry.name), "system": .string(system.id), "paper": .string(system.title),
            "year": JSON(system.year), "arxiv": .string(system.arxiv), "parameters": JSON(size.parameters),
            "frozen": JSON(size.frozen), "multiply_adds": JSON(size.multiplyAdds),
            "input": .array([c.channels, c.imageSize.height, c.imageSize.width].map { JSON($0) }),
            "classes": JSON(c.classes),
        ])
    }
}
