import Tessera

/// Layer normalisation over the last axis: (x − mean) / √(variance + ε) · weight + bias.
///
/// "Layer Normalization" (2016), arXiv 1607.06450.
public final class LayerNorm: Module {
    public let weight: Parameter
    public let bias: Parameter
    private let epsilon: Float
    private let isForProducts: Bool

    /// - Parameter isForProducts: whether only linear layers will read the result
    public init(_ channels: Int, epsilon: Float, isForProducts: Bool = false) {
        weight = Parameter([channels], .ones)
        bias = Parameter([channels], .zeros)
        (self.epsilon, self.isForProducts) = (epsilon, isForProducts)
    }

    public func callAsFunction(_ x: Tensor) -> Tensor {
        layerNorm(
            x, weight: weight.tensor, bias: bias.tensor, epsilon: epsilon, isForProducts: isForProducts)
    }
}

/// Normalisation over all positions and the channels of a group, for each sample.
///
/// "Group Normalization" (2018), arXiv 1803.08494.
public final class GroupNorm: Module {
    public let weight: Parameter
    public let bias: Parameter
    private let groups: Int
    private let epsilon: Float

    /// - Precondition: `groups` divides `channels`.
    public init(_ channels: Int, groups: Int, epsilon: Float = 1e-5) {
        precondition(channels % groups == 0, "\(groups) groups do not divide \(channels) channels")
        weight = Parameter([channels], .ones)
        bias = Parameter([channels], .zeros)
        (self.groups, self.epsilon) = (groups, epsilon)
    }

    /// `[batch, ..., channels]` → the same
    public func callAsFunction(_ x: Tensor) -> Tensor {
        groupNorm(x, groups: groups, weight: weight.tensor, bias: bias.tensor, epsilon: epsilon)
    }
}

/// Batch normalisation over all axes but the last, with running statistics for evaluation.
///
/// "Batch Normalization" (2015), arXiv 1502.03167. The running variance takes the unbiased estimate, as PyTorch's does.
public final class BatchNorm: Module {
    public let weight: Parameter
    public let bias: Parameter
    public let runningMean: Parameter
    public let runningVar: Parameter
    private let epsilon: Float
    private let momentum: Float

    /// - Parameter initializer: for the weight
    public init(_ channels: Int, epsilon: Float = 1e-5, momentum: Float = 0.1, initializer: Initializer = .ones) {
        weight = Parameter([channels], initializer)
        bias = Parameter([channels], .zeros)
        runningMean = Parameter([channels], .zeros, isTrainable: false)
        runningVar = Parameter([channels], .ones, isTrainable: false)
        (self.epsilon, self.momentum) = (epsilon, momentum)
    }

    public func callAsFunction(_ x: Tensor) -> Tensor {
        guard let pass = TrainingPass.current, !x.isAbstract else {
            return batchNorm(
                x, mean: runningMean.tensor, variance: runningVar.tensor, weight: weight.tensor, bias: bias.tensor,
                epsilon: epsilon)
        }
        let (output, mean, variance) = batchNorm(x, weight: weight.tensor, bias: bias.tensor, epsilon: epsilon)
        if pass.isRepetition { return output }
        let count = Float(x.count / x.shape[-1])
        Tape.pause {
            let unbiased = variance * (count / max(1, count - 1))
            runningMean.value = runningMean.value * (1 - momentum) + mean * momentum
            runningVar.value = runningVar.value * (1 - momentum) + unbiased * momentum
        }
        return output
    }
}
