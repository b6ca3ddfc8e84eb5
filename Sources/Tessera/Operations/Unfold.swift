extension Tensor {
    /// Each square neighbourhood of a map as one vector, its values in PyTorch's order: channel, row, column.
    ///
    /// - Parameter padding: zeros around the map
    /// - Returns: `[batch, ⌊(height + 2 · padding − kernel) / stride⌋ + 1, …, channels · kernel²]`
    public func unfolded(kernel: Int, stride: Int, padding: Int) -> Tensor {
        precondition(
            rank == 4 && Swift.min(shape[1], shape[2]) + 2 * padding >= kernel,
            "unfolded: neighbourhoods of \(kernel), padded by \(padding), in \(shape)")
        let x = padding == 0 ? self : padded([(1, padding, padding), (2, padding, padding)])
        let (batch, height, width, channels) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
        let (rows, columns) = ((height - kernel) / stride + 1, (width - kernel) / stride + 1)
        var places: [Int32] = []
        places.reserveCapacity(rows * columns * kernel * kernel)
        for row in 0..<rows {
            for column in 0..<columns {
                for i in 0..<kernel * kernel {
                    places.append(Int32((row * stride + i / kernel) * width + column * stride + i % kernel))
                }
            }
        }
        return x.reshaped([batch, height * width, channels]).gathered(places, axis: 1)
            .reshaped([batch, rows * columns, kernel * kernel, channels]).transposed([0, 1, 3, 2])
            .reshaped([batch, rows, columns, channels * kernel * kernel])
    }
}
