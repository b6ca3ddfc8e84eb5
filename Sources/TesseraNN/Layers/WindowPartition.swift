import Tessera

/// How a map is cut into windows, optionally shifted by half a window, with zeros around it where the windows do not
/// divide it.
///
/// "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (2021), arXiv 2103.14030.
public struct WindowPartition {
    /// Where the zeros go.
    public enum Placement: Sendable {
        /// Below and right of the shifted map, whose sides a window never exceeds.
        case after
        /// Around the map, and windows keep their size.
        case around
    }

    private let rows: WindowAxis
    private let columns: WindowAxis
    /// The windows of one map.
    public var count: Int { rows.count * columns.count }
    /// The places of one window.
    public var places: Int { rows.window * columns.window }

    public init(
        height: Int, width: Int, window: (height: Int, width: Int), isShifted: Bool = false,
        placement: Placement = .after
    ) {
        rows = WindowAxis(extent: height, window: window.height, isShifted: isShifted, placement)
        columns = WindowAxis(extent: width, window: window.width, isShifted: isShifted, placement)
    }

    /// `[batch, height, width, channels]` → `[batch · windows, places, channels]`
    public func windows(of x: Tensor) -> Tensor {
        let padded = x.rolled(by: -rows.shift, axis: 1).rolled(by: -columns.shift, axis: 2)
            .padded([(1, rows.before, rows.after), (2, columns.before, columns.after)].filter { $0.1 + $0.2 > 0 })
        let (batch, channels) = (x.shape[0], x.shape[3])
        return padded.reshaped([batch, rows.count, rows.window, columns.count, columns.window, channels])
            .transposed([0, 1, 3, 2, 4, 5])
            .reshaped([batch * count, places, channels])
    }

    /// The way back; what became of the zeros is cut off.
    public func map(of x: Tensor) -> Tensor {
        let (batch, channels) = (x.shape[0] / count, x.shape[2])
        return x.reshaped([batch, rows.count, columns.count, rows.window, columns.window, channels])
            .transposed([0, 1, 3, 2, 4, 5])
            .reshaped([batch, rows.count * rows.window, columns.count * columns.window, channels])
            .sliced(axis: 1, from: rows.before, to: rows.before + rows.extent)
            .sliced(axis: 2, from: columns.before, to: columns.before + columns.extent)
            .rolled(by: rows.shift, axis: 1).rolled(by: columns.shift, axis: 2)
    }

    /// The learned bias of each pair of places, `[1, heads, places, places]`.
    ///
    /// - Parameters:
    ///   - table: `[(2 · window height − 1) · (2 · window width − 1), heads]`, a row for every relative place
    ///   - window: the window that the table was made for, of which smaller ones use the middle
    public func bias(_ table: Tensor, window: (height: Int, width: Int)) -> Tensor {
        var indices: [Int32] = []
        for query in 0..<places {
            for key in 0..<places {
                let down = query / columns.window - key / columns.window + window.height - 1
                let right = query % columns.window - key % columns.window + window.width - 1
                indices.append(Int32(down * (2 * window.width - 1) + right))
            }
        }
        return table.gathered(indices, axis: 0).transposed([1, 0]).reshaped([1, table.shape[1], places, places])
    }

    /// What keeps places apart that only the shift brought together, `[windows, 1, places, places]`; nil without a
    /// shift.
    public var mask: Tensor? {
        guard rows.shift + columns.shift > 0 else { return nil }
        return Tensor([count, 1, places, places]) { buffer in
            var place = 0
            for window in 0..<count {
                let regions = (0..<places).map { index in
                    let row = rows.region(window / columns.count * rows.window + index / columns.window)
                    let column = columns.region(window % columns.count * columns.window + index % columns.window)
                    return 3 * row + column
                }
                for query in regions {
                    for key in regions {
                        // Not −∞: the reference's −100 leaves a trace that belongs to its results.
                        buffer[place] = query == key ? 0 : -100
                        place += 1
                    }
                }
            }
        }
    }
}

/// How one axis of a map is cut into windows.
private struct WindowAxis {
    let extent: Int
    let window: Int
    let shift: Int
    let count: Int
    let before: Int
    let after: Int

    init(extent: Int, window: Int, isShifted: Bool, _ placement: WindowPartition.Placement) {
        self.extent = extent
        self.window = placement == .after ? min(window, extent) : window
        shift = isShifted && extent > window ? window / 2 : 0
        count = (extent + self.window - 1) / self.window
        let padding = count * self.window - extent
        before = placement == .after ? 0 : padding / 2
        after = padding - before
    }

    /// Which of the three parts, that were apart before the shift, a place is in.
    func region(_ place: Int) -> Int {
        guard shift > 0 else { return 0 }
        let end = count * window
        return place < end - window ? 0 : place < end - shift ? 1 : 2
    }
}
