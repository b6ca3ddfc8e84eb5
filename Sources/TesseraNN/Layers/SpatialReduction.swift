import Tessera

/// Attention whose keys and values come from a smaller map, so that its cost stays low on large maps.
///
/// "Pyramid Vision Transformer" (2021), arXiv 2102.12122: the map is shrunk by a convolution whose stride is its kernel;
/// "PVT v2" (2021), arXiv 2106.13797: or by a mean over a grid of 7×7, whatever its size.
public final class SpatialReductionAttention: Module {
    public enum Reduction: Sendable {
        /// A convolution with this kernel and stride; 1: none.
        case convolution(Int)
        /// The mean over a grid of 7×7, then a 1×1 convolution.
        case pooling
    }

    public let q: Linear
    /// Keys, then values.
    public let kv: Linear
    public let sr: Convolution2D?
    public let norm: LayerNorm?
    public let proj: Linear
    private let heads: Int
    private let isPooled: Bool
    private let attentionDropout: Float
    private let dropout: Dropout

    /// - Parameter convolutionInitializer: for the weight of the reduction
    /// - Precondition: `heads` divides `channels`.
    public init(
        _ channels: Int, heads: Int, reduction: Reduction, qkvBias: Bool, attentionDropout: Float = 0,
        dropout: Float = 0, initializer: Initializer? = nil, convolutionInitializer: Initializer? = nil
    ) {
        precondition(channels % heads == 0, "\(heads) heads do not divide \(channels) channels")
        q = Linear(channels, channels, bias: qkvBias, initializer: initializer)
        kv = Linear(channels, 2 * channels, bias: qkvBias, initializer: initializer)
        proj = Linear(channels, channels, initializer: initializer)
        let kernel: Int?
        switch reduction {
        case .convolution(let ratio): (kernel, isPooled) = (ratio > 1 ? ratio : nil, false)
        case .pooling: (kernel, isPooled) = (1, true)
        }
        sr = kernel.map {
            Convolution2D(
                channels, channels, kernel: $0, stride: $0, initializer: convolutionInitializer,
                biasInitializer: convolutionInitializer.map { _ in .zeros })
        }
        norm = kernel.map { _ in LayerNorm(channels, epsilon: 1e-5) }
        self.heads = heads
        self.attentionDropout = attentionDropout
        self.dropout = Dropout(dropout)
    }

    /// `[batch, tokens, channels]` → the same.
    /// - Parameter grid: the map that the tokens are; needed only with a reduction
    public func callAsFunction(_ x: Tensor, grid: (rows: Int, columns: Int)) -> Tensor {
        let (batch, channels) = (x.shape[0], x.shape[2])
        var source = x
        if let sr, let norm {
            let map = x.reshaped([batch, grid.rows, grid.columns, channels])
            let reduced = sr(isPooled ? map.adaptiveAveragePool(height: 7, width: 7) : map)
            source = norm(reduced.reshaped([batch, reduced.shape[1] * reduced.shape[2], channels]))
            if isPooled { source = source.gelu() }
        }
        let parts = kv(source).split(axis: 2, sizes: [channels, channels])
        let pass = attentionDropout > 0 ? TrainingPass.current : nil
        let mixed = attention(
            q(x), parts[0], parts[1], heads: heads, dropout: pass == nil ? 0 : attentionDropout,
            seed: pass?.nextSeed() ?? 0)
        return dropout(proj(mixed))
    }
}

/// The transformer's perceptron with a depthwise 3×3 convolution between its two layers, which also tells tokens where
/// they are.
///
/// "PVT v2" (2021), arXiv 2106.13797; "CvT", "LocalViT" and others have it under other names.
public final class DepthwiseFeedForward: Module {
    public let fc1: Linear
    public let dwconv: Convolution2D
    public let fc2: Linear
    private let hasRelu: Bool
    private let dropout: Dropout

    /// - Parameter hasRelu: whether a ReLU comes before the convolution (the linear form of PVT v2)
    public init(
        _ channels: Int, hidden: Int, hasRelu: Bool = false, dropout: Float = 0, initializer: Initializer? = nil,
        convolutionInitializer: Initializer? = nil
    ) {
        fc1 = Linear(channels, hidden, initializer: initializer)
        dwconv = Convolution2D(
            hidden, hidden, kernel: 3, padding: 1, groups: hidden, initializer: convolutionInitializer,
            biasInitializer: convolutionInitializer.map { _ in .zeros })
        fc2 = Linear(hidden, channels, initializer: initializer)
        self.hasRelu = hasRelu
        self.dropout = Dropout(dropout)
    }

    /// `[batch, rows · columns, channels]` → the same
    public func callAsFunction(_ x: Tensor, grid: (rows: Int, columns: Int)) -> Tensor {
        let (batch, tokens) = (x.shape[0], x.shape[1])
        let hidden = fc1(x, activation: hasRelu ? .relu : .identity)
        let map = hidden.reshaped([batch, grid.rows, grid.columns, hidden.shape[2]])
        let mixed = dwconv(map, activation: .gelu).reshaped([batch, tokens, hidden.shape[2]])
        return dropout(fc2(dropout(mixed)))
    }
}
