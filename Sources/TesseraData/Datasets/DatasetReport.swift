/// What a data set holds, found by reading every image.
public struct DatasetReport: Codable, Sendable, Equatable {
    public struct Size: Codable, Sendable, Equatable {
        public var height: Int
        public var width: Int
    }

    public struct Unreadable: Codable, Sendable, Equatable {
        public var file: String
        public var reason: String
    }

    public let classNames: [String]
    public let classCounts: [Int]
    /// All samples, unreadable ones included.
    public let count: Int
    /// Least and greatest height and width; nil when no image can be read.
    public private(set) var smallest: Size?
    public private(set) var largest: Size?
    /// 1 when every image is grey.
    public private(set) var channels = 1
    /// Of the pixel values, in 0 ... 1, weighing all pixels alike; one for each channel.
    public private(set) var mean: [Double] = []
    public private(set) var std: [Double] = []
    public private(set) var unreadable: [Unreadable] = []

    /// Reads every image. `progress` is told how many have been read.
    public init(scanning dataset: any Dataset, progress: (Int) -> Void = { _ in }) {
        classNames = dataset.classNames
        classCounts = dataset.classCounts
        count = dataset.count
        var histograms = [[Int]](repeating: [Int](repeating: 0, count: 256), count: 3)
        for index in 0..<dataset.count {
            do {
                let image = try dataset.image(at: index)
                note(image)
                for (i, value) in image.pixels.enumerated() {
                    if image.channels == 3 {
                        histograms[i % 3][Int(value)] += 1
                    } else {
                        for c in 0..<3 { histograms[c][Int(value)] += 1 }
                    }
                }
            } catch let error as DataError {
                unreadable.append(Unreadable(file: error.subject, reason: error.reason))
            } catch {
                unreadable.append(Unreadable(file: dataset.name(at: index), reason: "\(error)"))
            }
            progress(index + 1)
        }
        guard smallest != nil else { return }
        for histogram in histograms.prefix(channels) {
            let total = Double(histogram.reduce(0, +))
            let first = histogram.enumerated().reduce(0.0) { $0 + Double($1.offset * $1.element) } / total
            let second = histogram.enumerated().reduce(0.0) { $0 + Double($1.offset * $1.offset * $1.element) } / total
            mean.append(first / 255)
            std.append(max(0, second - first * first).squareRoot() / 255)
        }
    }

    private mutating func note(_ image: Image) {
        let size = Size(height: image.height, width: image.width)
        let (low, high) = (smallest ?? size, largest ?? size)
        smallest = Size(height: min(low.height, size.height), width: min(low.width, size.width))
        largest = Size(height: max(high.height, size.height), width: max(high.width, size.width))
        channels = max(channels, image.channels)
    }
}
