import CKernels

/// A sparse matrix that makes outputs from the `extent` inputs along an axis.
package struct SparseRows: Sendable, Equatable {
    package let extent: Int
    package private(set) var starts: [Int32] = [0]
    package private(set) var columns: [Int32] = []
    package private(set) var weights: [Float] = []

    package var count: Int { starts.count - 1 }

    /// - Parameter rows: for each output, the inputs that it takes and their weights.
    package init(extent: Int, rows: [[(column: Int, weight: Double)]]) {
        self.extent = extent
        for row in rows {
            for (column, weight) in row where weight != 0 {
                columns.append(Int32(column))
                weights.append(Float(weight))
            }
            starts.append(Int32(columns.count))
        }
    }

    /// The matrix of the gradient.
    package var transposed: SparseRows {
        var rows = [[(column: Int, weight: Double)]](repeating: [], count: extent)
        for row in 0..<count {
            for t in Int(starts[row])..<Int(starts[row + 1]) { rows[Int(columns[t])].append((row, Double(weights[t]))) }
        }
        return SparseRows(extent: count, rows: rows)
    }

    /// The matrix applied along an axis.
    package func applied(to x: Tensor, axis: Int) -> Tensor {
        let output = Tensor(uninitialized: x.shape.replacing(axis, with: count))
        apply(to: x, axis: axis, into: output)
        return output
    }

    fileprivate func apply(to x: Tensor, axis: Int, into output: Tensor) {
        let (outer, _, inner) = x.shape.around(axis)
        withExtendedLifetime((x, output)) {
            starts.withUnsafeBufferPointer { starts in
                columns.withUnsafeBufferPointer { columns in
                    weights.withUnsafeBufferPointer { weights in
                        var matrix = tk_sparse(
                            rows: Int64(count), extent: Int64(extent), starts: starts.baseAddress,
                            columns: columns.baseAddress, weights: weights.baseAddress)
                        tk_resample(&matrix, x.pointer, output.mutablePointer, outer, inner)
                    }
                }
            }
        }
    }
}

/// Linear combinations along the height, then along the width of a feature map: resizing and average pooling.
package struct Resample: DirectOperation {
    package static let name = "resample"
    package let rows: SparseRows
    package let columns: SparseRows

    package init(rows: SparseRows, columns: SparseRows) { (self.rows, self.columns) = (rows, columns) }

    package func shape(_ inputs: [Shape]) -> Shape {
        let x = inputs[0]
        precondition(
            x.rank == 4 && x[1] == rows.extent && x[2] == columns.extent,
            "resample: \(x) is not [batch, \(rows.extent), \(columns.extent), channels]")
        return [x[0], rows.count, columns.count, x[3]]
    }

    package func compute(_ inputs: [Tensor], into output: Tensor) {
        columns.apply(to: rows.applied(to: inputs[0], axis: 1), axis: 2, into: output)
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        [rows.transposed.applied(to: columns.transposed.applied(to: context.gradient, axis: 2), axis: 1)]
    }
}
