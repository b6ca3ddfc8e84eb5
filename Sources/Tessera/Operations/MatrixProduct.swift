import CKernels

/// Batched matrix product with either operand transposed.
package struct MatrixProduct: Operation {
    package static let name = "matrixProduct"
    package let transposesLeft: Bool
    package let transposesRight: Bool
    package let precision: Precision

    /// Rows, columns and inner extent of the product, and the number of matrices on each side.
    private func extents(_ inputs: [Shape]) -> (m: Int, n: Int, k: Int, left: Int, right: Int) {
        let (a, b) = (inputs[0], inputs[1])
        precondition(a.rank >= 2 && b.rank >= 2, "matrixProduct: \(a) and \(b) are not matrices")
        let (m, k) = transposesLeft ? (a[-1], a[-2]) : (a[-2], a[-1])
        let (inner, n) = transposesRight ? (b[-1], b[-2]) : (b[-2], b[-1])
        precondition(k == inner, "matrixProduct: inner extents of \(a) and \(b) differ (\(k) and \(inner))")
        let (left, right) = (a.dimensions.dropLast(2), b.dimensions.dropLast(2))
        precondition(
            left == right || left.allSatisfy { $0 == 1 } || right.allSatisfy { $0 == 1 },
            "matrixProduct: the leading axes of \(a) and \(b) differ")
        return (m, n, k, left.reduce(1, *), right.reduce(1, *))
    }

    package func shape(_ inputs: [Shape]) -> Shape {
        let e = extents(inputs)
        let leading = e.left >= e.right ? inputs[0] : inputs[1]
        return Shape(leading.dimensions.dropLast(2) + [e.m, e.n])
    }

    /// The product without its operands.
    package func kernel(_ inputs: [Shape]) -> tk_product {
        let e = extents(inputs)
        var product = tk_product(rows: e.m, e.n, e.k, precision.wide)
        product.batch = Int64(max(e.left, e.right))
        (product.a_row, product.a_column) = transposesLeft ? (1, Int64(e.m)) : (Int64(e.k), 1)
        product.a_batch = e.left == 1 ? 0 : Int64(e.m * e.k)
        (product.b_row, product.b_column) = transposesRight ? (1, Int64(e.k)) : (Int64(e.n), 1)
        product.b_batch = e.right == 1 ? 0 : Int64(e.k * e.n)
        product.c_row = Int64(e.n)
        product.c_batch = Int64(e.m * e.n)
        return product
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let (a, b) = (inputs[0], inputs[1])
        let output = Tensor(uninitialized: shape)
        var product = kernel([a.shape, b.shape])
        (product.a, product.a_is_rounded) = a.operand
        (product.b, product.b_is_rounded) = b.operand
        product.c = output.mutablePointer
        withExtendedLifetime((inputs, output)) { tk_multiply(&product) }
        if saved.isNeeded {
            saved.tensors = [a, b]
            saved.operands = precision.holdsRounded ? 0..<2 : 0..<0
        }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let (a, b, y) = (context.saved[0], context.saved[1], context.gradient)
        return precision.use {
            var results: [Tensor?] = [nil, nil]
            if context.wanted[0] {
                let gradient =
                    transposesLeft
                    ? b.multiplied(by: y, transposing: (transposesRight, true))
                    : y.multiplied(by: b, transposing: (false, !transposesRight))
                results[0] = gradient.summedOverMatrices(to: a.shape)
            }
            if context.wanted[1] {
                let gradient =
                    transposesRight
                    ? y.multiplied(by: a, transposing: (true, transposesLeft))
                    : a.multiplied(by: y, transposing: (!transposesLeft, false))
                results[1] = gradient.summedOverMatrices(to: b.shape)
            }
            return results
        }
    }

    package func cost(_ inputs: [Shape], _ output: Shape) -> Cost {
        Cost(multiplyAdds: output.count * extents(inputs).k, inputs, output)
    }
}

extension Tensor {
    /// The matrix product over the last two axes, `[..., m, k]` × `[..., k, n]` → `[..., m, n]`.
    ///
    /// The leading axes are equal, or those of one operand are all 1 (or absent): it is shared.
    /// - Parameter transposing: whether the last two axes of the left and of the right operand are swapped first.
    public func multiplied(by right: Tensor, transposing: (left: Bool, right: Bool) = (false, false)) -> Tensor {
        let operation = MatrixProduct(
            transposesLeft: transposing.left, transposesRight: transposing.right, precision: .current)
        return apply(operation, [self, right])
    }

    /// Sums over leading axes until the shape is `shape`: the gradient of sharing one matrix between many.
    fileprivate func summedOverMatrices(to shape: Shape) -> Tensor {
        guard self.shape.count != shape.count else { return reshaped(shape) }
        return reshaped([count / shape.count, shape.count]).sum(axes: [0]).reshaped(shape)
    }
}
