extension Tensor {
    /// The mean over square windows of a feature map `[batch, height, width, channels]`.
    ///
    /// - Parameters:
    ///   - countsPadding: whether the zeros of the padding count in the mean
    ///   - ceilMode: whether a last window that only starts inside the (padded) map counts
    /// - Returns: `[batch, ⌊(height + 2 · padding − kernel) / stride⌋ + 1, …, channels]`
    public func averagePool(
        kernel: Int, stride: Int, padding: Int = 0, countsPadding: Bool = true, ceilMode: Bool = false
    ) -> Tensor {
        precondition(
            rank == 4 && padding <= kernel / 2 && Swift.min(shape[1], shape[2]) + 2 * padding >= kernel,
            "averagePool: windows of \(kernel), padded by \(padding), on \(shape)")
        func means(_ size: Int) -> SparseRows {
            .averaging(
                size, kernel: kernel, stride: stride, padding: padding, countsPadding: countsPadding,
                ceilMode: ceilMode)
        }
        return apply(Resample(rows: means(shape[1]), columns: means(shape[2])), [self])
    }

    /// The means over windows that divide a feature map into `height` × `width`: the i-th of m along an extent n covers
    /// ⌊i n / m⌋ ..< ⌈(i + 1) n / m⌉.
    public func adaptiveAveragePool(height: Int, width: Int) -> Tensor {
        precondition(rank == 4, "adaptiveAveragePool: \(shape) is not a feature map")
        func means(_ size: Int, _ count: Int) -> SparseRows {
            SparseRows(
                extent: size,
                rows: (0..<count).map { index in
                    let inside = (index * size / count)..<(((index + 1) * size + count - 1) / count)
                    return inside.map { ($0, 1 / Double(inside.count)) }
                })
        }
        return apply(Resample(rows: means(shape[1], height), columns: means(shape[2], width)), [self])
    }

    /// The mean over the positions of a feature map: `[batch, height, width, channels]` → `[batch, channels]`.
    public func globalAveragePool() -> Tensor { mean(axes: [1, 2]) }
}

extension SparseRows {
    /// What average pooling does along an axis: the mean over a rectangle is separable, and so is the number of elements
    /// that it is taken over.
    package static func averaging(
        _ size: Int, kernel: Int, stride: Int, padding: Int, countsPadding: Bool, ceilMode: Bool = false
    ) -> SparseRows {
        let count = pooledExtent(size, kernel: kernel, stride: stride, padding: padding, ceilMode: ceilMode)
        return SparseRows(
            extent: size,
            rows: (0..<count).map { index in
                let start = index * stride - padding
                let inside = max(0, start)..<min(start + kernel, size)
                let counted = countsPadding ? min(start + kernel, size + padding) - start : inside.count
                return inside.map { ($0, 1 / Double(counted)) }
            })
    }
}

/// How many windows fit along an extent, as PyTorch counts them.
func pooledExtent(_ size: Int, kernel: Int, stride: Int, padding: Int, ceilMode: Bool) -> Int {
    let room = size + 2 * padding - kernel
    let count = (room + (ceilMode ? stride - 1 : 0)) / stride + 1
    // With ceilMode, a last window that would start in the padding behind the map is left out.
    return ceilMode && (count - 1) * stride >= size + padding ? count - 1 : count
}
