import Tessera

/// Multi-head self-attention: one projection to queries, keys and values, softmax(q kᵀ / √size) v, one projection back.
///
/// "Attention Is All You Need" (2017), arXiv 1706.03762. The packed projection is laid out [3][heads][size].
public final class SelfAttention: Module {
    public let qkv: Linear
    public let proj: Linear
    private let heads: Int
    private let scale: Float?
    private let attentionDropout: Float
    private let projectionDropout: Dropout

    /// - Parameter scale: the factor of the scores; 1/√size if nil
    /// - Precondition: `heads` divides `channels`.
    public init(
        _ channels: Int, heads: Int, qkvBias: Bool, scale: Float? = nil, attentionDropout: Float = 0,
        dropout: Float = 0,
        initializer: Initializer? = nil
    ) {
        precondition(channels % heads == 0, "\(heads) heads do not divide \(channels) channels")
        qkv = Linear(channels, 3 * channels, bias: qkvBias, initializer: initializer)
        proj = Linear(channels, channels, initializer: initializer)
        (self.heads, self.scale) = (heads, scale)
        self.attentionDropout = attentionDropout
        projectionDropout = Dropout(dropout)
    }

    /// `[batch, tokens, channels]` → the same, or only the first `queries` tokens of it; `residual` is added to the
    /// result.
    public func callAsFunction(_ x: Tensor, queries: Int? = nil, residual: Tensor? = nil) -> Tensor {
        let pass = attentionDropout > 0 ? TrainingPass.current : nil
        let (dropout, seed) = (pass == nil ? 0 : attentionDropout, pass?.nextSeed() ?? 0)
        let mixed: Tensor
        if let queries {
            let q = project(x.sliced(axis: 1, from: 0, to: queries), part: 0)
            mixed = attention(
                q, project(x, part: 1), project(x, part: 2), heads: heads, scale: scale, dropout: dropout, seed: seed,
                isForProducts: true)
        } else {
            mixed = attention(
                packed: qkv(x, isForProducts: true), heads: heads, scale: scale, dropout: dropout, seed: seed,
                isForProducts: true)
        }
        guard let residual else { return projectionDropout(proj(mixed)) }
        if projectionDropout.rate > 0 { return residual + projectionDropout(proj(mixed)) }
        return proj(mixed, residual: residual)
    }

    /// Queries, keys or values alone: one of three parts of the packed projection.
    private func project(_ x: Tensor, part: Int) -> Tensor {
        let channels = x.shape[-1]
        func rows(_ parameter: Parameter) -> Tensor {
            parameter.tensor.sliced(axis: 0, from: part * channels, to: (part + 1) * channels)
        }
        return linear(x, weight: rows(qkv.weight), bias: qkv.bias.map(rows), isForProducts: true)
    }
}

/// The transformer's two-layer perceptron: linear, activation, linear.
public final class FeedForward: Module {
    public let fc1: Linear
    public let fc2: Linear
    private let activation: Activation
    private let dropout: Dropout

    /// - Parameters:
    ///   - outputs: the channels of the result; those of the input if nil
    ///   - isConvolution: checkpoints hold the weights as those of 1×1 convolutions
    public init(
        _ channels: Int, hidden: Int, outputs: Int? = nil, activation: Activation = .gelu, dropout: Float = 0,
        initializer: Initializer? = nil, biasInitializer: Initializer? = nil, isConvolution: Bool = false
    ) {
        func layer(_ inputs: Int, _ outputs: Int) -> Linear {
            Linear(
                inputs, outputs, initializer: initializer, biasInitializer: biasInitializer,
                isConvolution: isConvolution)
        }
        (fc1, fc2) = (layer(channels, hidden), layer(hidden, outputs ?? channels))
        self.activation = activation
        self.dropout = Dropout(dropout)
    }

    /// `[..., channels]` → `[..., outputs]`; `residual` is added to the result.
    public func callAsFunction(_ x: Tensor, residual: Tensor? = nil) -> Tensor {
        let hidden = dropout(fc1(x, activation: activation, isForProducts: true))
        guard let residual else { return dropout(fc2(hidden)) }
        if dropout.rate > 0 { return residual + dropout(fc2(hidden)) }
        return fc2(hidden, residual: residual)
    }
}

/// A two-layer perceptron whose hidden layer is gated: silu(a) · b, where (a, b) = x Wᵀ + c.
///
/// "GLU Variants Improve Transformer" (2020), arXiv 2002.05202. The first layer holds the rows of a, then those of b.
public final class SwiGLU: Module {
    public let fc1: Linear
    public let fc2: Linear
    private let hidden: Int
    private let dropout: Dropout

    /// - Parameter hidden: the channels of a and of b
    public init(_ channels: Int, hidden: Int, dropout: Float = 0, initializer: Initializer? = nil) {
        fc1 = Linear(channels, 2 * hidden, initializer: initializer)
        fc2 = Linear(hidden, channels, initializer: initializer)
        (self.hidden, self.dropout) = (hidden, Dropout(dropout))
    }

    /// `[..., channels]` → the same; `residual` is added to the result.
    public func callAsFunction(_ x: Tensor, residual: Tensor? = nil) -> Tensor {
        let parts = fc1(x).split(axis: x.rank - 1, sizes: [hidden, hidden])
        let result = dropout(fc2(dropout(parts[0].activated(.silu) * parts[1])))
        return residual.map { $0 + result } ?? result
    }
}

/// An image cut into patches, each mapped to a token: a convolution whose stride is its kernel.
public final class PatchEmbedding: Module {
    public let proj: Convolution2D

    public init(
        channels: Int, width: Int, patch: (height: Int, width: Int), initializer: Initializer? = nil
    ) {
        proj = Convolution2D(
            channels, width, kernel: (patch.height, patch.width), stride: (patch.height, patch.width),
            initializer: initializer)
    }

    /// `[batch, height, width, channels]` → `[batch, height / patch, width / patch, width]`
    public func callAsFunction(_ image: Tensor) -> Tensor { proj(image) }
}

/// A convolution to tokens and a layer norm: the start of each stage of a pyramid.
public final class NormalizedPatchEmbedding: Module {
    public let proj: Convolution2D
    public let norm: LayerNorm

    /// - Parameters:
    ///   - stride: the kernel's size if nil: patches that do not overlap
    ///   - initializer: for the convolution's weight; its bias is then zero at first
    public init(
        _ inputs: Int, _ width: Int, kernel: Int, stride: Int? = nil, padding: Int = 0, initializer: Initializer? = nil
    ) {
        proj = Convolution2D(
            inputs, width, kernel: kernel, stride: stride ?? kernel, padding: padding, initializer: initializer,
            biasInitializer: initializer.map { _ in .zeros })
        norm = LayerNorm(width, epsilon: 1e-5)
    }

    /// `[batch, height, width, inputs]` → `[batch, rows, columns, width]`
    public func callAsFunction(_ x: Tensor) -> Tensor { norm(proj(x)) }
}
