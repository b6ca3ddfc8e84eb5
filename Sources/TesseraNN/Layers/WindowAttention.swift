import Tessera

/// Self-attention inside windows of a map, with a learned bias for every relative place, optionally over windows that
/// are shifted against those of the layer before.
///
/// "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (2021), arXiv 2103.14030. A map whose sides
/// the window does not divide is padded with zeros, after the shift, which take part in the attention.
public final class WindowAttention: Module {
    public let qkv: Linear
    public let proj: Linear
    /// `[(2 · window height − 1) · (2 · window width − 1), heads]`
    public let relativePositionBiasTable: Parameter?
    private let heads: Int
    private let window: (height: Int, width: Int)
    private let isShifted: Bool
    private let placement: WindowPartition.Placement
    private let attentionDropout: Float
    private let dropout: Dropout

    /// - Parameters:
    ///   - inputs: the channels that come in, where they are not `channels`
    ///   - placement: where zeros are added
    /// - Precondition: `heads` divides `channels`.
    public init(
        _ channels: Int, inputs: Int? = nil, heads: Int, window: (height: Int, width: Int), isShifted: Bool = false,
        hasRelativePositions: Bool = true, placement: WindowPartition.Placement = .after, qkvBias: Bool = true,
        attentionDropout: Float = 0, dropout: Float = 0, initializer: Initializer? = nil
    ) {
        precondition(channels % heads == 0, "\(heads) heads do not divide \(channels) channels")
        qkv = Linear(inputs ?? channels, 3 * channels, bias: qkvBias, initializer: initializer)
        proj = Linear(channels, channels, initializer: initializer)
        relativePositionBiasTable =
            hasRelativePositions
            ? Parameter([(2 * window.height - 1) * (2 * window.width - 1), heads], .truncatedNormal(0.02)) : nil
        (self.heads, self.window, self.isShifted, self.placement) = (heads, window, isShifted, placement)
        self.attentionDropout = attentionDropout
        self.dropout = Dropout(dropout)
    }

    /// `[batch, height, width, inputs]` → `[batch, height, width, channels]`
    public func callAsFunction(_ x: Tensor) -> Tensor {
        let partition = WindowPartition(
            height: x.shape[1], width: x.shape[2], window: window, isShifted: isShifted, placement: placement)
        let pass = attentionDropout > 0 ? TrainingPass.current : nil
        let mixed = attention(
            packed: qkv(partition.windows(of: x), isForProducts: true), heads: heads,
            bias: bias(partition, batch: x.shape[0]), dropout: pass == nil ? 0 : attentionDropout,
            seed: pass?.nextSeed() ?? 0, isForProducts: true)
        return partition.map(of: dropout(proj(mixed)))
    }

    /// `[1 or batch · windows, heads, places, places]`
    private func bias(_ partition: WindowPartition, batch: Int) -> Tensor? {
        let learned = relativePositionBiasTable.map { partition.bias($0.tensor, window: window) }
        guard let mask = partition.mask else { return learned }
        let all = learned.map { $0 + mask } ?? mask
        return all.reshaped([1, all.count]).broadcast(to: [batch, all.count])
            .reshaped([batch * all.shape[0], all.shape[1], all.shape[2], all.shape[3]])
    }
}
