/// The extents of a dense, row-major array: `[batch, height, width, channels]` for feature maps, `[batch, tokens,
/// channels]` for token sequences, `[]` for a scalar.
public struct Shape: Hashable, Sendable, ExpressibleByArrayLiteral, CustomStringConvertible {
    public let dimensions: [Int]

    /// - Precondition: no extent is negative.
    public init(_ dimensions: [Int]) {
        precondition(dimensions.allSatisfy { $0 >= 0 }, "negative extent in shape \(dimensions)")
        self.dimensions = dimensions
    }

    public init(arrayLiteral elements: Int...) { self.init(elements) }

    public var rank: Int { dimensions.count }
    /// The number of elements.
    public var count: Int { dimensions.reduce(1, *) }
    public var description: String { "[" + dimensions.map(String.init).joined(separator: ", ") + "]" }

    /// The extent along an axis; negative axes count from the end.
    public subscript(_ axis: Int) -> Int { dimensions[normalized(axis)] }

    /// The elements from one step along `axis` to the next.
    public func stride(_ axis: Int) -> Int { dimensions[(normalized(axis) + 1)...].reduce(1, *) }

    /// Row-major strides in elements.
    public var strides: [Int] {
        var strides = [Int](repeating: 1, count: rank)
        for axis in (0..<max(0, rank - 1)).reversed() { strides[axis] = strides[axis + 1] * dimensions[axis + 1] }
        return strides
    }

    /// `axis` as a number from 0 up to the rank.
    /// - Precondition: the axis exists.
    public func normalized(_ axis: Int) -> Int {
        let positive = axis < 0 ? axis + rank : axis
        precondition(positive >= 0 && positive < rank, "axis \(axis) is not in shape \(self)")
        return positive
    }

    /// This shape with another extent along `axis`.
    public func replacing(_ axis: Int, with extent: Int) -> Shape {
        var result = dimensions
        result[normalized(axis)] = extent
        return Shape(result)
    }

    public static func + (left: Shape, right: Shape) -> Shape { Shape(left.dimensions + right.dimensions) }

    /// The shape that both shapes broadcast to: aligned at the last axis, extents equal or 1.
    /// - Precondition: the shapes are compatible.
    public static func broadcast(_ a: Shape, _ b: Shape) -> Shape {
        let rank = max(a.rank, b.rank)
        return Shape(
            (0..<rank).map { axis in
                let x = axis < rank - a.rank ? 1 : a.dimensions[axis - (rank - a.rank)]
                let y = axis < rank - b.rank ? 1 : b.dimensions[axis - (rank - b.rank)]
                precondition(x == y || x == 1 || y == 1, "shapes \(a) and \(b) do not broadcast")
                return x == 1 ? y : x
            })
    }
}
