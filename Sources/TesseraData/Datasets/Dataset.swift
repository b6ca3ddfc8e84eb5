/// Labelled images that can be asked for in any order, from any thread.
public protocol Dataset: Sendable {
    var count: Int { get }
    /// One name for each class; labels are places in this list.
    var classNames: [String] { get }
    /// The label of a sample, without reading its image.
    func label(at index: Int) -> Int32
    /// The image of a sample.
    ///
    /// - Throws: `DataError` that names the file when it cannot be read or decoded.
    func image(at index: Int) throws -> Image
    /// What errors and reports call the sample: its path, or its number in a file. Stable between runs.
    func name(at index: Int) -> String
    /// What decides on which side of a split the sample falls: its name without the part that depends on the machine.
    func splitKey(at index: Int) -> String
}

extension Dataset {
    public func splitKey(at index: Int) -> String { String(index) }

    /// How many samples each class has.
    public var classCounts: [Int] {
        var counts = [Int](repeating: 0, count: classNames.count)
        for index in 0..<count { counts[Int(label(at: index))] += 1 }
        return counts
    }
}

/// Some of the samples of another data set, in a given order.
public struct Subset: Dataset {
    public let base: any Dataset
    public let indices: [Int]

    /// - Parameter indices: Places in `base`.
    public init(_ base: any Dataset, indices: [Int]) {
        precondition(indices.allSatisfy { $0 >= 0 && $0 < base.count }, "a sample outside 0 ..< \(base.count)")
        self.base = base
        self.indices = indices
    }

    public var count: Int { indices.count }
    public var classNames: [String] { base.classNames }
    public func label(at index: Int) -> Int32 { base.label(at: indices[index]) }
    public func image(at index: Int) throws -> Image { try base.image(at: indices[index]) }
    public func name(at index: Int) -> String { base.name(at: indices[index]) }
    public func splitKey(at index: Int) -> String { base.splitKey(at: indices[index]) }
}

/// Images held in memory, all of one size: what idx and CIFAR files become.
struct PackedDataset: Dataset {
    let classNames: [String]
    let labels: [UInt8]
    let height: Int
    let width: Int
    let channels: Int
    /// One sample after the other, in the layout of ``Image``.
    let pixels: [UInt8]
    /// The file that the samples came from.
    let source: String

    var count: Int { labels.count }

    func label(at index: Int) -> Int32 { Int32(labels[index]) }

    func image(at index: Int) -> Image {
        let size = height * width * channels
        return Image(
            height: height, width: width, channels: channels,
            pixels: Array(pixels[index * size..<(index + 1) * size]))
    }

    func name(at index: Int) -> String { "\(source)#\(index)" }
}
