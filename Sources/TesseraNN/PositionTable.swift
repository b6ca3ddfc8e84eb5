import Foundation
import Tessera

/// Learned position tables `[1, prefix + rows · columns, channels]` at another grid than they were trained on.
public enum PositionTable {
    /// How the grid is resampled. The flavours differ in the last digits, some visibly; each model's files and the
    /// program that reads them fix one.
    public enum Resampling: String, Codable, Sendable {
        /// Keys' cubic, a = −0.5, antialiased: timm.
        case bicubicAntialiased
        /// Cubic, a = −0.75, not antialiased: DeiT's fine-tuning script, Hugging Face.
        case bicubic
        /// Bilinear, half-pixel centres: Compact Transformers.
        case bilinear
        /// Bilinear with aligned corners: the original ViT code.
        case bilinearAligned
    }

    /// The table at another grid; the first `prefix` rows (class and distillation tokens) stay as they are. A table that
    /// already has the grid is returned untouched.
    public static func resampled(
        _ table: Tensor, prefix: Int, from: (rows: Int, columns: Int), to: (rows: Int, columns: Int),
        _ resampling: Resampling
    ) -> Tensor {
        precondition(
            table.rank == 3 && table.shape[1] == prefix + from.rows * from.columns,
            "a table \(table.shape) does not hold \(prefix) + \(from.rows) × \(from.columns) positions")
        guard from != to else { return table }
        let channels = table.shape[2]
        let grid = table.sliced(axis: 1, from: prefix, to: table.shape[1])
            .reshaped([1, from.rows, from.columns, channels])
        let (interpolation, aligned, antialiased): (Interpolation, Bool, Bool) =
            switch resampling {
            case .bicubicAntialiased: (.bicubic, false, true)
            case .bicubic: (.bicubic, false, false)
            case .bilinear: (.bilinear, false, false)
            case .bilinearAligned: (.bilinear, true, false)
            }
        let resized = grid.resized(
            height: to.rows, width: to.columns, interpolation: interpolation, alignCorners: aligned,
            antialias: antialiased
        ).reshaped([1, to.rows * to.columns, channels])
        return prefix == 0 ? resized : concatenate([table.sliced(axis: 1, from: 0, to: prefix), resized], axis: 1)
    }

    /// The square grid that a published table of `count` rows was made for.
    /// - Returns: nil if `count` − `prefix` is not a perfect square.
    public static func squareGrid(_ count: Int, prefix: Int) -> (rows: Int, columns: Int)? {
        let side = Int(Double(max(0, count - prefix)).squareRoot().rounded())
        return side > 0 && side * side == count - prefix ? (side, side) : nil
    }

    /// The fixed table of "Attention Is All You Need": sin for even and cos for odd channels c of
    /// position / 10000^(2⌊c/2⌋ / width), row after row. The angle is computed in double and rounded to float before its
    /// sine is taken, as the reference of Compact Transformers does.
    public static func sinusoids(_ count: Int, _ width: Int) -> [Float] {
        (0..<count * width).map { index in
            let (position, channel) = (index / width, index % width)
            let angle = Float(Double(position) / pow(10000, Double(2 * (channel / 2)) / Double(width)))
            return channel % 2 == 0 ? sin(angle) : cos(angle)
        }
    }

    /// The fixed table of a grid, row after row, as MAE and MoCo v3 have it: the first half of the channels tells the
    /// column x, sin(x ωᵢ) and then cos(x ωᵢ) with ωᵢ = 10000^(−4i / width), the second half tells the row likewise.
    /// - Precondition: 4 divides `width`.
    public static func sinusoids(rows: Int, columns: Int, width: Int) -> [Float] {
        precondition(width % 4 == 0, "4 does not divide \(width) channels")
        let quarter = width / 4
        let omega = (0..<quarter).map { pow(10000, -Double($0) / Double(quarter)) }
        func waves(_ place: Int) -> [Float] {
            omega.map { Float(sin(Double(place) * $0)) } + omega.map { Float(cos(Double(place) * $0)) }
        }
        return (0..<rows * columns).flatMap { waves($0 % columns) + waves($0 / columns) }
    }
}
