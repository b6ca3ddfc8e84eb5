import Tessera

/// Self-attention inside windows of a map, with a learned bias for every relative place, optionally over windows that
/// are shifted against those of the layer before.
///
/// "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (2021), arXiv 2103.14030. A map whose sides
/// the window does not divide is padded with zeros, after the shift, which take part in the attention.
public final class WindowAttention: Module {
    public let qkv: Linear
    public let proj: Linear
    /// `[(2 · window height − 1) · (2 · window width − 1), heads]`
    public let relativePositionBiasTable: Parameter
    private let heads: Int
    private let window: (height: Int, width: Int)
    private let isShifted: Bool
    private let attentionDropout: Float
    private let dropout: Dropout

    /// - Precondition: `heads` divides `channels`.
    public init(
        _ channels: Int, heads: Int, window: (height: Int, width: Int), isShifted: Bool, qkvBias: Bool = true,
        attentionDropout: Float = 0, dropout: Float = 0, initializer: Initializer? = nil
    ) {
        precondition(channels % heads == 0, "\(heads) heads do not divide \(channels) channels")
        qkv = Linear(channels, 3 * channels, bias: qkvBias, initializer: initializer)
        proj = Linear(channels, channels, initializer: initializer)
        relativePositionBiasTable = Parameter(
            [(2 * window.height - 1) * (2 * window.width - 1), heads], .truncatedNormal(0.02))
        (self.heads, self.window, self.isShifted) = (heads, window, isShifted)
        self.attentionDropout = attentionDropout
        self.dropout = Dropout(dropout)
    }

    /// `[batch, height, width, channels]` → the same
    public func callAsFunction(_ x: Tensor) -> Tensor {
        let rows = WindowAxis(extent: x.shape[1], window: window.height, isShifted: isShifted)
        let columns = WindowAxis(extent: x.shape[2], window: window.width, isShifted: isShifted)
        let shifted = x.rolled(by: -rows.shift, axis: 1).rolled(by: -columns.shift, axis: 2)
            .padded(
                [(1, 0, rows.padding), (2, 0, columns.padding)].filter { $0.2 > 0 }.map {
                    (axis: $0, before: $1, after: $2)
                })
        let pass = attentionDropout > 0 ? TrainingPass.current : nil
        let mixed = attention(
            packed: qkv(windows(of: shifted, rows, columns)), heads: heads,
            bias: bias(rows, columns, batch: x.shape[0]), dropout: pass == nil ? 0 : attentionDropout,
            seed: pass?.nextSeed() ?? 0)
        return map(of: dropout(proj(mixed)), rows, columns)
            .sliced(axis: 1, from: 0, to: rows.extent).sliced(axis: 2, from: 0, to: columns.extent)
            .rolled(by: rows.shift, axis: 1).rolled(by: columns.shift, axis: 2)
    }

    /// `[batch, height, width, channels]` → `[batch · windows, places, channels]`
    private func windows(of x: Tensor, _ rows: WindowAxis, _ columns: WindowAxis) -> Tensor {
        let (batch, channels) = (x.shape[0], x.shape[3])
        return x.reshaped([batch, rows.count, rows.window, columns.count, columns.window, channels])
            .transposed([0, 1, 3, 2, 4, 5])
            .reshaped([batch * rows.count * columns.count, rows.window * columns.window, channels])
    }

    private func map(of x: Tensor, _ rows: WindowAxis, _ columns: WindowAxis) -> Tensor {
        let (batch, channels) = (x.shape[0] / (rows.count * columns.count), x.shape[2])
        return x.reshaped([batch, rows.count, columns.count, rows.window, columns.window, channels])
            .transposed([0, 1, 3, 2, 4, 5])
            .reshaped([batch, rows.count * rows.window, columns.count * columns.window, channels])
    }

    /// The learned bias of each pair of places, and what keeps places apart that only the shift brought together:
    /// `[1 or batch · windows, heads, places, places]`.
    private func bias(_ rows: WindowAxis, _ columns: WindowAxis, batch: Int) -> Tensor {
        let places = rows.window * columns.window
        var indices: [Int32] = []
        for query in 0..<places {
            for key in 0..<places {
                let down = query / columns.window - key / columns.window + window.height - 1
                let right = query % columns.window - key % columns.window + window.width - 1
                indices.append(Int32(down * (2 * window.width - 1) + right))
            }
        }
        let learned = relativePositionBiasTable.tensor.gathered(indices, axis: 0)
            .transposed([1, 0]).reshaped([1, heads, places, places])
        guard rows.shift + columns.shift > 0 else { return learned }
        let count = rows.count * columns.count
        let mask = Tensor([count, 1, places, places]) { buffer in
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
        let all = learned + mask
        return all.reshaped([1, all.count]).broadcast(to: [batch, all.count])
            .reshaped([batch * count, heads, places, places])
    }
}

/// How one axis of a map is cut into windows.
private struct WindowAxis {
    let extent: Int
    let window: Int
    let shift: Int

    init(extent: Int, window: Int, isShifted: Bool) {
        self.extent = extent
        self.window = min(window, extent)
        shift = isShifted && extent > window ? window / 2 : 0
    }

    var count: Int { (extent + window - 1) / window }
    var padding: Int { count * window - extent }

    /// Which of the three parts, that were apart before the shift, a place is in.
    func region(_ place: Int) -> Int {
        guard shift > 0 else { return 0 }
        let end = count * window
        return place < end - window ? 0 : place < end - shift ? 1 : 2
    }
}
