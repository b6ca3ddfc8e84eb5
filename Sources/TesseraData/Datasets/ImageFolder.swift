import Foundation

/// A folder with one folder of images for each class, as torchvision's `ImageFolder` reads it.
///
/// Classes are the sub-folders in plain (Unicode scalar) order, so `class10` comes before `class2`; images are found at
/// any depth below them, by file-name extension.
struct ImageFolder: Dataset {
    let classNames: [String]
    private let root: String
    private let files: [(path: String, label: Int32)]
    private let pixelLimit: Int

    /// Deeper folders than this are taken for a loop of links.
    private static let maximumDepth = 12

    /// - Parameter classNames: The classes of the training split, when this is a validation split.
    /// - Throws: `DataError` when there are no class folders, a class has no images, or a class is not in `classNames`.
    init(_ root: String, classNames known: [String]? = nil, pixelLimit: Int) throws {
        let found = try Files.list(root).filter { Files.isFolder(Files.join(root, $0)) }
        guard !found.isEmpty else { throw DataError(root, "has no class folders") }
        let names = known ?? found
        var files: [(path: String, label: Int32)] = []
        for name in found {
            guard let label = names.firstIndex(of: name) else {
                throw DataError(Files.join(root, name), "class \"\(name)\" is not among the training classes")
            }
            var images: [String] = []
            try Self.collect(name, in: root, depth: 0, into: &images)
            guard !images.isEmpty else {
                throw DataError(Files.join(root, name), "class folder without images (JPEG, PNG or WebP)")
            }
            files += images.map { (path: $0, label: Int32(label)) }
        }
        self.root = root
        self.classNames = names
        self.files = files
        self.pixelLimit = pixelLimit
    }

    /// Images at any depth that are of no class; as every sample has a label, they have the same.
    /// - Throws: `DataError` when there are none.
    init(unlabelled root: String, pixelLimit: Int) throws {
        var images: [String] = []
        try Self.collect("", in: root, depth: 0, into: &images)
        guard !images.isEmpty else { throw DataError(root, "folder without images (JPEG, PNG or WebP)") }
        self.root = root
        classNames = ["image"]
        files = images.map { (path: $0, label: 0) }
        self.pixelLimit = pixelLimit
    }

    private static func collect(_ folder: String, in root: String, depth: Int, into images: inout [String]) throws {
        guard depth < maximumDepth else {
            throw DataError(Files.join(root, folder), "folders nested more than \(maximumDepth) deep")
        }
        for name in try Files.list(Files.join(root, folder)) {
            let path = folder.isEmpty ? name : Files.join(folder, name)
            if ImageFormat.fileExtensions.contains(Files.fileExtension(name)) {
                images.append(path)
            } else if Files.isFolder(Files.join(root, path)) {
                try collect(path, in: root, depth: depth + 1, into: &images)
            }
        }
    }

    var count: Int { files.count }
    func label(at index: Int) -> Int32 { files[index].label }
    func name(at index: Int) -> String { Files.join(root, files[index].path) }
    func image(at index: Int) throws -> Image { try Image(contentsOf: name(at: index), pixelLimit: pixelLimit) }
    func splitKey(at index: Int) -> String { files[index].path }
}
