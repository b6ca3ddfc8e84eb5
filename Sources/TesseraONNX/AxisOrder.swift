import Tessera

/// Axes in another order than in memory: a transposition that is noted, not carried out.
///
/// Between channels first (ONNX) and channels last (here) every convolution would stand between two transpositions. Both
/// ways, export and import, values carry their order along instead: transpositions compose, elementwise operations keep
/// the order of their operands, and data moves only where an operation needs an order of its own.
struct AxisOrder: Hashable {
    /// The place in memory of each axis.
    let axes: [Int]

    init(_ axes: [Int]) { self.axes = axes }

    /// The order of memory itself.
    static func plain(_ rank: Int) -> AxisOrder { AxisOrder(Array(0..<rank)) }

    /// Of `[batch, height, width, channels]`, for memory with the channels before the places.
    static let channelsFirst = AxisOrder([0, 2, 3, 1])
    /// Of `[batch, channels, height, width]`, for memory with the channels last.
    static let channelsLast = AxisOrder([0, 3, 1, 2])

    var rank: Int { axes.count }
    var isPlain: Bool { axes == Array(0..<rank) }

    /// The axis at each place in memory.
    var inverse: [Int] {
        var inverse = axes
        for (axis, place) in axes.enumerated() { inverse[place] = axis }
        return inverse
    }

    /// What becomes of the order when the axes are transposed: the result's axis i is axis `order[i]`.
    func transposed(_ order: [Int]) -> AxisOrder { AxisOrder(order.map { axes[$0] }) }

    /// The extents as memory has them.
    func inMemory<Element>(_ extents: [Element]) -> [Element] { inverse.map { extents[$0] } }

    func inMemory(_ shape: Shape) -> Shape { Shape(inMemory(shape.dimensions)) }

    /// How memory must be transposed to have another order.
    func permutation(to other: AxisOrder) -> [Int] { other.inverse.map { axes[$0] } }

    /// The order after a reshape from `from` to `to` that memory can follow; nil if data would have to move.
    ///
    /// Both shapes fall into groups of axes with equal products. Memory can follow if the axes of each group lie side by
    /// side.
    func reshaped(from: Shape, to: Shape) -> AxisOrder? {
        if isPlain { return .plain(to.rank) }
        guard from.count == to.count, let groups = AxisOrder.groups(from.dimensions, to.dimensions) else { return nil }
        // Axes of extent 1 lie nowhere.
        let places = inverse.filter { from[$0] != 1 }
        var placed: [(place: Int, axes: Range<Int>)] = []
        for (source, target) in groups {
            let axes = source.filter { from[$0] != 1 }
            guard let first = axes.first, let place = places.firstIndex(of: first) else {
                placed.append((placed.last?.place ?? -1, target))
                continue
            }
            guard place + axes.count <= places.count, Array(places[place..<place + axes.count]) == axes else {
                return nil
            }
            placed.append((place, target))
        }
        // A stable sort, so that groups without a place stay behind their neighbours.
        let sorted = placed.enumerated().sorted { ($0.element.place, $0.offset) < ($1.element.place, $1.offset) }
        return AxisOrder(AxisOrder(sorted.flatMap(\.element.axes)).inverse)
    }

    private static func groups(_ from: [Int], _ to: [Int]) -> [(Range<Int>, Range<Int>)]? {
        guard !from.contains(0), !to.contains(0) else { return nil }
        var groups: [(Range<Int>, Range<Int>)] = []
        var (i, j) = (0, 0)
        while i < from.count, j < to.count {
            let (start, target) = (i, j)
            var (left, right) = (from[i], to[j])
            (i, j) = (i + 1, j + 1)
            while left != right {
                if left < right {
                    guard i < from.count else { return nil }
                    left *= from[i]
                    i += 1
                } else {
                    guard j < to.count else { return nil }
                    right *= to[j]
                    j += 1
                }
            }
            groups.append((start..<i, target..<j))
        }
        // What is left over are ones.
        guard let last = groups.popLast() else { return nil }
        groups.append((last.0.lowerBound..<from.count, last.1.lowerBound..<to.count))
        return groups
    }
}
