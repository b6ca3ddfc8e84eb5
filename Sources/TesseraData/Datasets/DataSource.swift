import Foundation
import Tessera

/// The layouts in which data sets are kept.
public enum DatasetFormat: String, Sendable, CaseIterable {
    case idx, cifar10, cifar100, folder, webdataset
    /// A folder of images without class folders.
    case images
}

/// A data set as it is found on the machine, with the splits that it brings.
public struct DataSource: Sendable {
    /// `fashion-mnist`, `cifar-10`, or the last part of the path.
    public let name: String
    public let path: String
    public let format: DatasetFormat
    /// What the source marks as training data, or all of it when it marks nothing; nil when it only has test data.
    public let train: (any Dataset)?
    /// What the source itself holds out.
    public let validation: (any Dataset)?

    /// Whether the images have classes that a model could learn.
    public var isLabelled: Bool { format != .images }

    /// Where named data sets are looked for.
    static let installed = "/usr/share/datasets"

    static let fashionClasses = [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ]

    /// Finds and opens a data set; images are only read later.
    ///
    /// - Parameters:
    ///   - name: A name that is installed on the machine (`fashion-mnist`), or a path.
    ///   - format: Says outright what the path holds; otherwise its content tells.
    ///   - pixelLimit: Larger images are refused.
    /// - Throws: `DataError` on one line about what was found and what was expected.
    public static func open(
        _ name: String, format: DatasetFormat? = nil, pixelLimit: Int = Image.defaultPixelLimit
    ) throws -> DataSource {
        let named = Files.join(installed, name)
        let isName = !name.contains("/") && !Files.exists(name) && Files.isFolder(named)
        let path = isName ? named : name
        if !Files.exists(path), let shards = try WebDataset.expanded(path) {
            let data = try WebDataset(shards, pixelLimit: pixelLimit)
            return DataSource(name: Files.base(path), path: path, format: .webdataset, train: data, validation: nil)
        }
        guard Files.exists(path) else {
            throw DataError(name, "no such file or folder, and no data set of that name in \(installed)")
        }
        guard let found = try format ?? recognise(path) else {
            throw DataError(
                path, "not recognised; expected class folders, idx files, CIFAR binary files or WebDataset tars")
        }
        let base = URL(fileURLWithPath: path).lastPathComponent
        switch found {
        case .idx: return try idx(path, name: base)
        case .cifar10: return try cifar(.ten, path, name: "cifar-10")
        case .cifar100: return try cifar(.hundred, path, name: "cifar-100")
        case .folder: return try folders(path, name: base, pixelLimit: pixelLimit)
        case .webdataset: return try webDataset(path, name: base, pixelLimit: pixelLimit)
        case .images:
            let data = try ImageFolder(unlabelled: path, pixelLimit: pixelLimit)
            return DataSource(name: base, path: path, format: .images, train: data, validation: nil)
        }
    }

    /// What to train on and what to measure on. A source without its own held-out data is divided by a hash of the
    /// samples' names: the same sample falls on the same side on every machine, and stays there as others are added.
    ///
    /// - Throws: `DataError` when there is no training data, or too little to divide.
    public func splits(
        validationFraction: Double = 0.1, seed: UInt64 = 0
    ) throws -> (train: any Dataset, validation: any Dataset) {
        guard let train else { throw DataError(path, "holds test data only; training data is needed") }
        if let validation { return (train, validation) }
        guard train.count >= 2 else {
            throw DataError(path, "has \(train.count) image; at least 2 are needed to divide")
        }
        let root = RandomGenerator(seed: seed).fork("split")
        let ranks = (0..<train.count).map { index in
            var stream = root.fork(train.splitKey(at: index))
            return Double(stream.uniform())
        }
        var held = Set(ranks.indices.filter { ranks[$0] < validationFraction })
        if held.isEmpty { held = [ranks.indices.min { ranks[$0] < ranks[$1] }!] }
        if held.count == train.count { held.remove(ranks.indices.max { ranks[$0] < ranks[$1] }!) }
        return (
            Subset(train, indices: ranks.indices.filter { !held.contains($0) }),
            Subset(train, indices: ranks.indices.filter(held.contains))
        )
    }

    /// What a finished model is measured on: the held-out data, or everything when nothing is held out.
    public var evaluation: any Dataset { validation ?? train! }

    private static func recognise(_ path: String) throws -> DatasetFormat? {
        guard Files.isFolder(path) else {
            let start = try Files.read(path, at: 0, count: min(512, Files.size(of: path)))
            if path.hasSuffix(".bin") { return Files.base(path).contains("batch") ? .cifar10 : .cifar100 }
            if start.count > 262, start[257..<262].elementsEqual("ustar".utf8) { return .webdataset }
            if Files.fileExtension(path) == "tar" { return .webdataset }
            return Files.base(path).contains("-ubyte") ? .idx : nil
        }
        let names = try Files.list(path)
        if names.contains(where: { $0.contains("idx3-ubyte") || $0.contains("idx3.ubyte") }) { return .idx }
        if names.contains("test_batch.bin") || names.contains("data_batch_1.bin") { return .cifar10 }
        if names.contains("train.bin") || names.contains("test.bin") { return .cifar100 }
        let training = Files.join(path, "train")
        let shards = try shards(in: path) + (Files.isFolder(training) ? shards(in: training) : [])
        if !shards.isEmpty { return .webdataset }
        if names.contains(where: { Files.isFolder(Files.join(path, $0)) }) { return .folder }
        return names.contains { ImageFormat.fileExtensions.contains(Files.fileExtension($0)) } ? .images : nil
    }

    private static func shards(in folder: String) throws -> [String] {
        try Files.list(folder).filter { Files.fileExtension($0) == "tar" }.map { Files.join(folder, $0) }
    }

    private static func idx(_ path: String, name: String) throws -> DataSource {
        let folder = Files.isFolder(path) ? path : Files.folder(path)
        let names = try Files.list(folder)
        let classes = name.lowercased().contains("fashion") ? fashionClasses : nil
        func split(_ prefix: String) throws -> PackedDataset? {
            func file(_ kind: String) -> String? {
                names.first { $0.hasPrefix("\(prefix)-\(kind)") && $0.contains("ubyte") }
            }
            guard let images = file("images") else { return nil }
            guard let labels = file("labels") else {
                throw DataError(Files.join(folder, images), "no file \(prefix)-labels-idx1-ubyte beside it")
            }
            return try PackedDataset(
                idxImages: Files.join(folder, images), idxLabels: Files.join(folder, labels), classNames: classes)
        }
        let (train, test) = (try split("train"), try split("t10k") ?? split("test"))
        guard train != nil || test != nil else {
            throw DataError(folder, "no train-images-idx3-ubyte or t10k-images-idx3-ubyte (.gz)")
        }
        return DataSource(name: name, path: path, format: .idx, train: train, validation: test)
    }

    private static func cifar(_ kind: CIFAR, _ path: String, name: String) throws -> DataSource {
        let format: DatasetFormat = kind == .ten ? .cifar10 : .cifar100
        guard Files.isFolder(path) else {
            let data = try kind.read([path])
            return DataSource(name: name, path: path, format: format, train: data, validation: nil)
        }
        let names = Files.join(path, kind == .ten ? "batches.meta.txt" : "fine_label_names.txt")
        func split(_ files: [String]) throws -> PackedDataset? {
            let present = files.map { Files.join(path, $0) }.filter(Files.exists)
            return present.isEmpty ? nil : try kind.read(present, names: names)
        }
        let train = try split(kind == .ten ? CIFAR.trainFiles10 : ["train.bin"])
        let test = try split([kind == .ten ? "test_batch.bin" : "test.bin"])
        guard train != nil || test != nil else { throw DataError(path, "no CIFAR binary files") }
        return DataSource(name: name, path: path, format: format, train: train, validation: test)
    }

    private static func folders(_ path: String, name: String, pixelLimit: Int) throws -> DataSource {
        guard let training = folder("train", in: path) else {
            let data = try ImageFolder(path, pixelLimit: pixelLimit)
            return DataSource(name: name, path: path, format: .folder, train: data, validation: nil)
        }
        let train = try ImageFolder(training, pixelLimit: pixelLimit)
        let held = try heldOut(in: path).map {
            try ImageFolder($0, classNames: train.classNames, pixelLimit: pixelLimit)
        }
        return DataSource(name: name, path: path, format: .folder, train: train, validation: held)
    }

    /// One archive, or a folder of shards, or such folders as `train` and `val`.
    private static func webDataset(_ path: String, name: String, pixelLimit: Int) throws -> DataSource {
        func source(_ train: WebDataset, _ held: WebDataset? = nil) -> DataSource {
            DataSource(name: name, path: path, format: .webdataset, train: train, validation: held)
        }
        guard Files.isFolder(path) else { return source(try WebDataset([path], pixelLimit: pixelLimit)) }
        let training = folder("train", in: path)
        let files = try shards(in: training ?? path)
        guard !files.isEmpty else { throw DataError(training ?? path, "no .tar files in the folder") }
        let train = try WebDataset(files, pixelLimit: pixelLimit)
        guard training != nil, let held = heldOut(in: path), case let files = try shards(in: held), !files.isEmpty
        else { return source(train) }
        return source(train, try WebDataset(files, classNames: train.classNames, pixelLimit: pixelLimit))
    }

    private static func heldOut(in path: String) -> String? {
        folder("val", "validation", "valid", "test", in: path)
    }

    private static func folder(_ names: String..., in path: String) -> String? {
        names.map { Files.join(path, $0) }.first(where: Files.isFolder)
    }
}
