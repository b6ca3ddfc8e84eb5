import CKernels

/// A run of channels, and where they are read relative to the place they are written to.
public struct ChannelShift: Sendable, Hashable {
    public let channels: Range<Int>
    public let rows: Int
    public let columns: Int

    public init(_ channels: Range<Int>, rows: Int = 0, columns: Int = 0) {
        (self.channels, self.rows, self.columns) = (channels, rows, columns)
    }
}

/// Channels of a map moved against each other.
package struct Shift: DirectOperation {
    package static let name = "shift"
    package let shifts: [ChannelShift]
    package let clamps: Bool

    package func shape(_ inputs: [Shape]) -> Shape {
        let x = inputs[0]
        precondition(
            x.rank == 4 && shifts.flatMap(\.channels).sorted() == Array(0..<x[3]),
            "shifted: the shifts do not name every channel of \(x) once")
        return x
    }

    private func run(
        _ kernel: (UnsafePointer<tk_shift>, UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void, _ x: Tensor,
        _ output: Tensor
    ) {
        let runs = shifts.map {
            tk_channel_shift(
                first: Int64($0.channels.lowerBound), count: Int64($0.channels.count), rows: Int64($0.rows),
                columns: Int64($0.columns))
        }
        withExtendedLifetime((x, output)) {
            runs.withUnsafeBufferPointer { runs in
                var shift = tk_shift(
                    batch: Int64(x.shape[0]), height: Int64(x.shape[1]), width: Int64(x.shape[2]),
                    channels: Int64(x.shape[3]), shift_count: Int64(runs.count), shifts: runs.baseAddress,
                    clamps: clamps)
                kernel(&shift, x.pointer, output.mutablePointer)
            }
        }
    }

    package func compute(_ inputs: [Tensor], into output: Tensor) { run(tk_shift_forward, inputs[0], output) }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let result = Tensor(uninitialized: context.gradient.shape)
        run(tk_shift_backward, context.gradient, result)
        return [result]
    }
}

extension Tensor {
    /// A map `[batch, height, width, channels]` whose channels are read from other places: the result at (r, c) is the
    /// map at (r + rows, c + columns).
    ///
    /// - Parameters:
    ///   - shifts: every channel once
    ///   - clamps: beyond the border the nearest place counts; else zero
    public func shifted(_ shifts: [ChannelShift], clamps: Bool = false) -> Tensor {
        apply(Shift(shifts: shifts, clamps: clamps), [self])
    }
}
