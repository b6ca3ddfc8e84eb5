import Foundation
import TesseraRuntime

extension Profile {
    /// One line a step: time, shares of the machine's limits, bytes and multiply-adds of one run.
    var table: String {
        func line(_ cells: [String]) -> String {
            let widths = [44, 18, 9, 7, 9, 11, 10, 10]
            return zip(cells, widths).enumerated().map { index, cell in
                let padding = String(repeating: " ", count: max(0, cell.1 - cell.0.count))
                return index < 2 ? cell.0 + padding : padding + cell.0
            }.joined(separator: " ")
        }
        func share(_ value: Double) -> String { String(format: "%.0f %%", 100 * value) }
        let total = rows.reduce(0) { $0 + $1.seconds }
        var lines = [line(["step", "result", "ms", "time", "of peak", "of memory", "MB", "M adds"])]
        for row in rows {
            lines.append(
                line([
                    row.step.name, row.step.shape.description,
                    String(format: "%.3f", 1000 * row.seconds / Double(threads)), share(row.seconds / total),
                    row.cost.multiplyAdds == 0 ? "" : share(shareOfPeak(row)), share(shareOfBandwidth(row)),
                    String(format: "%.2f", 1e-6 * Double(row.cost.bytes)),
                    String(format: "%.1f", 1e-6 * Double(row.cost.multiplyAdds)),
                ]))
        }
        lines.append(
            String(
                format: "%d threads, busy %.0f %% of %.2f ms; peak %.0f GFLOP/s (%.0f %% reached), memory %.1f GB/s",
                threads,
                100 * busyShare, 1000 * seconds, 2e-9 * peakMultiplyAdds,
                100 * Double(rows.reduce(0) { $0 + $1.cost.multiplyAdds }) / (seconds * peakMultiplyAdds),
                1e-9 * bandwidth))
        return lines.joined(separator: "\n")
    }
}
