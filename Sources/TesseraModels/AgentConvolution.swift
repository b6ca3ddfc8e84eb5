import Tessera
import TesseraNN

/// A transformer of equal blocks on one grid of patches: what an ``AgentNetwork`` can be derived from.
public protocol PlainTransformer: ImageClassifier {
    /// An agent of the transformer's own depth and widths.
    var agent: AgentNetwork.Configuration { get }

    /// The linear layers of each block, first to last; nil where a block's perceptron is another than an agent's.
    var blockWeights: [BlockWeights]? { get }
}

/// The linear layers of a transformer's block. A value, not a module: whoever holds it does not own them.
public struct BlockWeights {
    /// Rows of queries, keys and values `[3 · width, width]`.
    let qkv: Linear
    /// Of the heads' results, `[width, width]`.
    let out: Linear
    /// The perceptron: `[hidden, width]`, `[width, hidden]`.
    let first: Linear
    let second: Linear
}

extension VisionTransformer: PlainTransformer {
    public var agent: AgentNetwork.Configuration {
        var c = AgentNetwork.Configuration(
            configuration.width, configuration.depth, heads: configuration.heads,
            dropout: configuration.projectionDropout)
        (c.imageSize, c.patchSize) = (configuration.imageSize, configuration.patchSize)
        (c.channels, c.classes) = (configuration.channels, configuration.classes)
        c.hidden = Int(Float(configuration.width) * configuration.mlpRatio)
        c.biasDeviation = 1e-6
        return c
    }

    public var blockWeights: [BlockWeights]? {
        let weights = blocks.compactMap { block in
            (block.mlp as? FeedForward).map {
                BlockWeights(qkv: block.attn.qkv, out: block.attn.proj, first: $0.fc1, second: $0.fc2)
            }
        }
        return weights.count == blocks.count ? weights : nil
    }
}

/// The convolution in which each head looks at one place: the first ones, row after row, of the smallest square window
/// that has a place for each.
enum HeadWindow {
    static func side(_ heads: Int) -> Int { (1...).first { $0 * $0 >= heads }! }

    /// y(p) = bias + Σ over heads of K · x(p + the head's place), zero outside the map.
    /// - Parameter kernels: `[outputs, heads, inputs]`
    /// - Precondition: the window has a centre.
    static func convolved(_ x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor {
        let (outputs, heads, inputs) = (kernels.shape[0], kernels.shape[1], kernels.shape[2])
        let side = side(heads)
        precondition(side % 2 == 1, "a window of \(side)×\(side) has no centre")
        // Rows without any head are left out.
        let (rows, centre) = ((heads + side - 1) / side, (side - 1) / 2)
        let full = kernels.padded([(axis: 1, before: 0, after: rows * side - heads)])
        return convolution(
            x, weight: full.reshaped([outputs, rows, side, inputs]), bias: bias,
            padding: Padding(top: centre, left: centre, bottom: rows - 1 - centre, right: centre))
    }
}

/// 3×3, with weights of its own.
final class PlainConvolution: Module, Layer {
    let conv: Convolution2D

    init(_ width: Int) {
        conv = Convolution2D(
            width, width, kernel: 3, padding: 1, initializer: xavier(width, width, 9), biasInitializer: .zeros)
    }

    func forward(_ x: Tensor) -> Tensor { conv(x) }
}

/// One matrix of its own for each head.
final class HeadConvolution: Module, Layer {
    /// `[outputs, inputs, heads]`
    let weight: Parameter
    let bias: Parameter

    init(_ width: Int, heads: Int) {
        weight = Parameter([width, width, heads], xavier(width, width, heads))
        bias = Parameter([width], .zeros)
    }

    func forward(_ x: Tensor) -> Tensor {
        HeadWindow.convolved(x, kernels: weight.tensor.transposed([0, 2, 1]), bias: bias.tensor)
    }
}

/// Attention whose heads look at one place each, whatever the queries and keys: head h has the matrix W_out[h] W_value[h].
/// The values' biases do not count.
final class AttentionConvolution: Module, Layer {
    private let weights: BlockWeights
    private let heads: Int

    init(_ weights: BlockWeights, heads: Int) { (self.weights, self.heads) = (weights, heads) }

    /// `[heads, outputs, inputs]`
    var kernels: Tensor {
        let width = weights.out.weight.shape[0]
        let values = weights.qkv.weight.tensor.sliced(axis: 0, from: 2 * width, to: 3 * width)
            .reshaped([heads, width / heads, width])
        let outputs = weights.out.weight.tensor.reshaped([width, heads, width / heads]).transposed([1, 0, 2])
        return outputs.multiplied(by: values)
    }

    func forward(_ x: Tensor) -> Tensor {
        HeadWindow.convolved(
            x, kernels: kernels.transposed([1, 0, 2]),
            bias: weights.out.bias?.tensor ?? Tensor(zeros: [weights.out.weight.shape[0]]))
    }
}

/// Linear, GELU, dropout, linear.
final class Perceptron: Module, Layer {
    let first: Linear
    let second: Linear
    private let dropout: Dropout
    private let names: (String, String)

    override var keys: [String: String] { ["first": names.0, "second": names.1] }

    /// - Parameters:
    ///   - names: what the two are called in checkpoints
    ///   - isConvolution: checkpoints hold the weights as those of 1×1 convolutions
    init(
        _ width: Int, hidden: Int, dropout: Float, biasDeviation: Float, names: (String, String),
        isConvolution: Bool = false
    ) {
        func layer(_ inputs: Int, _ outputs: Int) -> Linear {
            Linear(
                inputs, outputs, initializer: xavier(inputs, outputs), biasInitializer: .normal(biasDeviation),
                isConvolution: isConvolution)
        }
        (first, second) = (layer(width, hidden), layer(hidden, width))
        (self.dropout, self.names) = (Dropout(dropout), names)
    }

    func forward(_ x: Tensor) -> Tensor { second(dropout(first(x, activation: .gelu))) }
}

/// The same with the layers of a transformer's perceptron.
final class SharedPerceptron: Module, Layer {
    private let weights: BlockWeights
    private let dropout: Dropout

    init(_ weights: BlockWeights, dropout: Float) { (self.weights, self.dropout) = (weights, Dropout(dropout)) }

    func forward(_ x: Tensor) -> Tensor { weights.second(dropout(weights.first(x, activation: .gelu))) }
}

/// Xavier's uniform initial values over all `places` of a kernel.
func xavier(_ inputs: Int, _ outputs: Int, _ places: Int = 1) -> Initializer {
    .xavierUniform(fanIn: places * inputs, fanOut: places * outputs)
}
