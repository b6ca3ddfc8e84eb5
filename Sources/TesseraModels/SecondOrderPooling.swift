import Tessera

/// The covariance of the columns of x `[batch, rows, m]` with those of y `[batch, rows, n]`: `[batch, m, n]`, divided by
/// `count` (the rows if nil). Each sample is centred by a single mean over its rows and columns.
public func crossCovariance(_ x: Tensor, _ y: Tensor, count: Int? = nil) -> Tensor {
    func centered(_ x: Tensor) -> Tensor { x - x.mean(axes: [1, 2], keepingAxes: true) }
    return centered(x).multiplied(by: centered(y), transposing: (true, false)) * (1 / Float(count ?? x.shape[1]))
}

/// Matrices with their singular values σ raised to a power: Σ σᵢᵖ uᵢ vᵢᵀ.
///
/// The fast form takes the first few σᵢ by power iteration, one after the other from what the ones before leave over,
/// and divides what is left at the end by σ¹⁻ᵖ of the last one. Gradients flow through the iteration.
///
/// "SoT: Delving Deeper into Classification Head for Transformer" (2021), arXiv 2104.10935.
/// - Parameters:
///   - x: `[batch, rows, columns]`
///   - start: `[columns]`: where each power iteration starts
///   - iterations: of each power iteration
///   - count: how many singular values are computed; all of them, and no rest, if nil
public func singularValuePower(
    _ x: Tensor, start: Tensor, exponent: Float, iterations: Int = 1, count: Int? = 1
) -> Tensor {
    func direction(_ vector: Tensor) -> Tensor {
        vector / maximum(vector.squared().sum(axes: [1], keepingAxes: true), Tensor(1e-24)).squareRoot()
    }
    var (rest, result) = (x, Tensor?.none)
    var last = Tensor(0)
    for _ in 0..<(count ?? min(x.shape[1], x.shape[2])) {
        var v = start.reshaped([1, x.shape[2], 1])
        var u = v
        for _ in 0..<iterations {
            u = direction(rest.multiplied(by: v))
            v = direction(rest.multiplied(by: u, transposing: (true, false)))
        }
        // A matrix of zeros has no slope: the root's would be infinite.
        last = maximum(u.multiplied(by: rest.multiplied(by: v), transposing: (true, false)), Tensor(1e-12))
        let outer = u.multiplied(by: v, transposing: (false, true))
        rest = rest - outer * last
        let part = outer * last.power(exponent)
        result = result.map { $0 + part } ?? part
    }
    guard count != nil else { return result! }
    return result! + rest / (last.power(1 - exponent) + 1e-5)
}

/// The square root of positive semidefinite matrices `[batch, n, n]` by Newton and Schulz's iteration, scaled by the trace.
///
/// "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root Normalization" (2018),
/// arXiv 1712.01034.
public func matrixSquareRoot(_ x: Tensor, iterations: Int) -> Tensor {
    let (batch, size) = (x.shape[0], x.shape[1])
    let identity = Tensor((0..<size * size).map { $0 % (size + 1) == 0 ? 1 : 0 }, [1, size, size])
    let trace = (x * identity).sum(axes: [1, 2], keepingAxes: true)
    let scaled = x / trace
    func step(_ product: Tensor) -> Tensor { (3 * identity - product) * 0.5 }
    var root = scaled.multiplied(by: step(scaled))
    if iterations >= 2 {
        var inverse = step(scaled)
        for _ in 1..<(iterations - 1) {
            let factor = step(inverse.multiplied(by: root))
            (root, inverse) = (root.multiplied(by: factor), factor.multiplied(by: inverse))
        }
        root = root.multiplied(by: step(inverse.multiplied(by: root)))
    }
    return root * trace.squareRoot().reshaped([batch, 1, 1])
}

extension Tensor {
    /// The upper triangle of square matrices `[batch, n, n]`, row after row: `[batch, n (n + 1) / 2]`.
    public func upperTriangle() -> Tensor {
        let (batch, size) = (shape[0], shape[1])
        let places = (0..<size).flatMap { row in (row..<size).map { Int32(row * size + $0) } }
        return reshaped([batch, size * size]).gathered(places, axis: 1)
    }
}
