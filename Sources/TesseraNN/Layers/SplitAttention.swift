import Tessera

/// Sums several views of a map, each weighted for every sample and channel by a softmax over the views.
///
/// "ResNeSt: Split-Attention Networks" (2020), arXiv 2004.08955; the vision MLPs mix their rows, their columns and their
/// channels with it. The weights come from the mean of the sum of the views through a small perceptron, whose outputs
/// are ordered [channel][view].
public final class SplitAttention: Module {
    let reweight: FeedForward

    /// - Parameter isConvolution: checkpoints hold the weights as those of 1×1 convolutions
    public init(
        _ channels: Int, views: Int = 3, initializer: Initializer? = nil, isConvolution: Bool = false
    ) {
        reweight = FeedForward(
            channels, hidden: max(1, channels / 4), outputs: channels * views, initializer: initializer,
            isConvolution: isConvolution)
    }

    public override var keys: [String: String] { ["reweight": ""] }

    /// Views `[batch, height, width, channels]` → one such map
    public func callAsFunction(_ views: [Tensor]) -> Tensor {
        let (batch, channels) = (views[0].shape[0], views[0].shape[3])
        let mean = views.dropFirst().reduce(views[0]) { $0 + $1 }.globalAveragePool()
        let weights = reweight(mean).reshaped([batch, channels, views.count]).softmax(axis: 2)
            .transposed([2, 0, 1])
        let weighted = views.enumerated().map { index, view in
            view * weights.sliced(axis: 0, from: index, to: index + 1).reshaped([batch, 1, 1, channels])
        }
        return weighted.dropFirst().reduce(weighted[0]) { $0 + $1 }
    }
}
