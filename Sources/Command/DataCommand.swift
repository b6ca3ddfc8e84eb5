import ArgumentParser
import Foundation
import Tessera
import TesseraData

struct DataCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "data", abstract: "Tells what is in a data set, and names every file that cannot be read.",
        discussion: """
            A data set is a name that is installed on the machine (fashion-mnist, from Debian's dataset-fashion-mnist) or
            a path: class folders (or train/ and val/ with class folders), idx files (plain or .gz), CIFAR-10/100
            binary files, WebDataset tars (one, a folder of them, or shard-{000..012}.tar).
            Example: tessera data photos/
            """)

    @Argument(help: "A data set's name or path.")
    var data: String

    @Option(help: "What the path holds, where its content does not tell.")
    var format: DatasetFormat?

    @Option(help: ArgumentHelp("Refuse images with more pixels.", valueName: "n"))
    var pixelLimit = Image.defaultPixelLimit

    @Option(help: ArgumentHelp("Write held-out images as PNG files into this folder instead.", valueName: "folder"))
    var writeImages: String?

    @Option(help: ArgumentHelp("How many images to write.", valueName: "n"))
    var count = 10

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        guard count > 0 else { throw ValidationError("--count: found \(count), expected 1 or more") }
    }

    /// Exit status 1 if any image cannot be read.
    func perform() throws {
        let source = try DataSource.open(data, format: format, pixelLimit: pixelLimit)
        if let writeImages { return try write(source.evaluation, to: writeImages) }
        let splits = [("train", source.train), ("validation", source.validation)].compactMap { name, data in
            data.map { (name, DatasetReport(scanning: $0)) }
        }
        if json {
            printJSON(
                JSON([
                    "name": .string(source.name), "path": .string(source.path),
                    "format": .string(source.format.rawValue),
                    "splits": .object(splits.map { JSON.Member($0, $1.json) }),
                ]), indented: true)
        } else {
            print("\(source.name): \(source.format.rawValue), \(source.path)")
            for (name, check) in splits { show(name, check) }
        }
        if splits.contains(where: { !$0.1.unreadable.isEmpty }) { throw ExitCode(1) }
    }

    /// One image of each class in turn, named by its class and place.
    private func write(_ dataset: any Dataset, to folder: String) throws {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        var byClass = [[Int]](repeating: [], count: dataset.classNames.count)
        for index in 0..<dataset.count { byClass[Int(dataset.label(at: index))].append(index) }
        let rounds = (0..<(byClass.map(\.count).max() ?? 0)).lazy.flatMap { round in
            byClass.compactMap { round < $0.count ? $0[round] : nil }
        }
        for index in rounds.prefix(count) {
            let name = dataset.classNames[Int(dataset.label(at: index))]
                .map { $0.isLetter || $0.isNumber ? $0 : "-" }
            let path = "\(folder)/\(String(name))-\(index).png"
            try dataset.image(at: index).writePNG(to: path)
            print(path)
        }
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
