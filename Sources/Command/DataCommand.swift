import ArgumentParser
import Tessera
import TesseraData

struct DataCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "data", abstract: "Tells what is in a data set, and names every file that cannot be read.",
        discussion: """
            A data set is a name that is installed on the machine (fashion-mnist, from Debian's dataset-fashion-mnist) or
            a path: class folders (or train/ and val/ with class folders), idx files (plain or .gz), CIFAR-10/100
            binary files, a WebDataset tar.
            Example: tessera data photos/
            """)

    @Argument(help: "A data set's name or path.")
    var data: String

    @Option(help: "What the path holds, where its content does not tell.")
    var format: DatasetFormat?

    @Option(help: ArgumentHelp("Refuse images with more pixels.", valueName: "n"))
    var pixelLimit = Image.defaultPixelLimit

    @Flag(help: "Print JSON.")
    var json = false

    /// Exit status 1 if any image cannot be read.
    func run() throws {
        let source = try DataSource.open(data, format: format, pixelLimit: pixelLimit)
        let splits = [("train", source.train), ("validation", source.validation)].compactMap { name, data in
            data.map { (name, DatasetReport(scanning: $0)) }
        }
        if json {
            printJSON(JSON([
                "name": .string(source.name), "path": .string(source.path), "format": .string(source.format.rawValue),
                "splits": .object(splits.map { JSON.Member($0, $1.json) }),
            ]), indented: true)
        } else {
            print("\(source.name): \(source.format.rawValue), \(source.path)")
            for (name, check) in splits { show(name, check) }
        }
        if splits.contains(where: { !$0.1.unreadable.isEmpty }) { throw ExitCode(1) }
    }

    private func show(_ name: String, _ check: DatasetReport) {
        print("\(name): \(grouped(check.count)) images, \(check.classNames.count) classes, \(check.sizes)")
        print("  mean \(check.mean.map { rounded($0) })  std \(check.std.map { rounded($0) })")
        for (label, count) in zip(check.classNames, check.classCounts) { print("  \(label): \(grouped(count))") }
        for problem in check.unreadable { print("  cannot be read: \(problem.file): \(problem.reason)") }
    }

    private func rounded(_ value: Double) -> Double { (value * 10000).rounded() / 10000 }
}

extension DatasetReport {
    /// Height and width, or their range.
    var sizes: String {
        guard let smallest, let largest else { return "no readable image" }
        let one = "\(smallest.height)×\(smallest.width)"
        return (smallest == largest ? one : "\(one) to \(largest.height)×\(largest.width)") + "×\(channels)"
    }

    var json: JSON {
        let classes = zip(classNames, classCounts).map { JSON.Member($0, JSON($1)) }
        return JSON([
            "images": JSON(count), "classes": .object(classes), "sizes": .string(sizes),
            "mean": .array(mean.map { JSON($0) }), "std": .array(std.map { JSON($0) }),
            "unreadable": .array(
                unreadable.map { JSON(["file": .string($0.file), "reason": .string($0.reason)]) }),
        ])
    }
}
