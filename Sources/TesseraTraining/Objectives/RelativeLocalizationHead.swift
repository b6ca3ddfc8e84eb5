import Tessera
import TesseraNN

/// Two tokens of each image a pair: places counted along the rows of the grid.
struct TokenPairs {
    /// `[batch · pairs]`: row · columns + column.
    let first: [Int32]
    let second: [Int32]
    let pairs: Int

    /// Pairs drawn independently and with replacement for each image of `shape` `[batch, rows, columns, channels]`.
    static func random(in shape: Shape, count: Int, _ random: inout RandomGenerator) -> TokenPairs {
        let places = shape[1] * shape[2]
        func draw() -> [Int32] { (0..<shape[0] * count).map { _ in Int32(random.integer(below: places)) } }
        return TokenPairs(first: draw(), second: draw(), pairs: count)
    }
}

/// From the features of two tokens to the rows and columns between them.
///
/// Both vectors one behind the other → two hidden layers with ReLU → two numbers; or → two layers, of which the second
/// has no activation, → for each axis the logits of its possible offsets.
final class RelativeLocalizationHead: Module {
    let input: Linear
    let hidden: Linear
    let output: Linear
    /// Rows, columns.
    let unshared: [Linear]
    private let options: RelativeLocalizationOptions
    private let grid: (rows: Int, columns: Int)

    override var keys: [String: String] { ["input": "layers.0", "hidden": "layers.2", "output": "layers.4"] }

    /// - Parameter grid: `[batch, rows, columns, channels]`
    init(grid: Shape, _ options: RelativeLocalizationOptions) {
        let (inputs, width) = (2 * grid[3], options.width)
        self.grid = (grid[1], grid[2])
        self.options = options
        input = Linear(inputs, width)
        hidden = Linear(width, width)
        output = Linear(width, options.mode == .l1 ? 2 : width)
        unshared =
            options.mode == .l1
            ? [] : [grid[1], grid[2]].map { Linear(width, options.isSigned ? 2 * $0 - 1 : $0) }
    }

    /// The loss of pairs of tokens, a scalar.
    /// - Parameter tokens: `[batch, rows, columns, channels]`
    func loss(_ tokens: Tensor, _ pairs: TokenPairs) -> Tensor {
        let predicted = predictions(tokens, pairs)
        let (rows, columns) = targets(pairs)
        guard options.mode != .l1 else {
            let target = Tensor(zip(rows, columns).flatMap { [$0, $1] }, [rows.count, 2])
            return (predicted[0] - target).absolute().mean()
        }
        return zip(predicted, [rows, columns]).map { logits, target in
            options.mode == .ce
                ? crossEntropy(logits, labels: target.map { Int32($0) }) : Self.regression(logits, target)
        }.reduce(Tensor(0), +)
    }

    /// For `l1` one tensor `[batch · pairs, 2]`, else logits `[batch · pairs, offsets]` of rows and of columns.
    func predictions(_ tokens: Tensor, _ pairs: TokenPairs) -> [Tensor] {
        let (rows, channels) = (tokens.shape[0] * tokens.shape[1] * tokens.shape[2], tokens.shape[3])
        let flat = tokens.reshaped([rows, channels])
        let places = Int32(tokens.shape[1] * tokens.shape[2])
        func taken(_ chosen: [Int32]) -> Tensor {
            flat.gathered(chosen.enumerated().map { Int32($0 / pairs.pairs) * places + $1 }, axis: 0)
        }
        let both = concatenate([taken(pairs.first), taken(pairs.second)], axis: 1)
        let trunk = output(hidden(input(both, activation: .relu), activation: .relu))
        return unshared.isEmpty ? [trunk] : unshared.map { $0(trunk) }
    }

    /// What the predictions should be: for distributions the place of the offset among the possible ones.
    func targets(_ pairs: TokenPairs) -> (rows: [Float], columns: [Float]) {
        func offsets(_ extent: Int, _ coordinate: (Int) -> Int) -> [Float] {
            let largest = options.isSigned ? 2 * (extent - 1) : extent - 1
            return zip(pairs.first, pairs.second).map { first, second in
                let difference = coordinate(Int(first)) - coordinate(Int(second))
                let offset = Float(options.isSigned ? difference + extent - 1 : abs(difference))
                return options.normalizes ? offset / Float(largest) : offset
            }
        }
        return (offsets(grid.rows) { $0 / grid.columns }, offsets(grid.columns) { $0 % grid.columns })
    }

    /// The squared error of the distribution's mean μ over its variance σ², and σ² kept small:
    /// mean of (μ − target)² / σ² + 0.001 log σ², with σ² = Σ β (k − μ)² + 10⁻⁸ for β = softmax(logits) over offsets k.
    private static func regression(_ logits: Tensor, _ target: [Float]) -> Tensor {
        let (count, offsets) = (logits.shape[0], logits.shape[1])
        let beta = logits.softmax(axis: -1)
        let places = Tensor((0..<offsets).map { Float($0) }, [1, offsets])
        let mean = (beta * places).sum(axes: [1], keepingAxes: true)
        let variance = (beta * (places - mean).squared()).sum(axes: [1], keepingAxes: true) + 1e-8
        return ((mean - Tensor(target, [count, 1])).squared() / variance + variance.log() * 0.001).mean()
    }
}
