import Tessera
import TesseraNN

/// What the vision MLPs that keep their parts in one list `network` have in common: an embedding, stages of pre-norm
/// blocks with a smaller map between them, a norm, the mean, a head. They differ in how a block mixes places, in the
/// norm and in the embeddings.
public class MixingPyramid: Module, FeaturePyramid {
    let patchEmbed: Embedding
    let stages: [Stage]
    let norm: any Layer
    let head: Linear
    public let pyramidStrides: [Int]

    public override var keys: [String: String] { ["stages": ""] }

    /// - Parameters:
    ///   - embedding: from the image to the first map
    ///   - dropPath: the rate at the last block
    ///   - norm: for the channels of a stage
    ///   - block: how the block with these places in its stage mixes, and its perceptron
    ///   - transition: between a stage and the next one, if there is one
    init(
        embedding: Embedding, widths: [Int], depths: [Int], classes: Int, dropPath: Float,
        norm: (Int) -> any Layer, block: (_ stage: Int, _ index: Int) -> (any Layer, FeedForward),
        transition: (_ stage: Int) -> Embedding?
    ) {
        patchEmbed = embedding
        var rates = DropPath.linear(to: dropPath, depth: depths.reduce(0, +))[...]
        var (place, stride, strides) = (0, embedding.stride, [Int]())
        stages = depths.indices.map { stage in
            let blocks = (0..<depths[stage]).map { index in
                let (mixing, perceptron) = block(stage, index)
                return Block(
                    norm(widths[stage]), mixing, norm(widths[stage]), perceptron, dropPath: rates.removeFirst())
            }
            let downsample = stage + 1 < depths.count ? transition(stage) : nil
            defer { place += downsample == nil ? 1 : 2 }
            strides.append(stride)
            stride *= downsample?.stride ?? 1
            return Stage(blocks, downsample, place: place)
        }
        self.norm = norm(widths.last!)
        head = Linear(widths.last!, classes, initializer: .truncatedNormal(0.02))
        (pyramidStrides, pyramidChannels) = (strides, widths)
    }

    /// A convolution with, possibly, a norm and an activation.
    final class Embedding: Module, Layer {
        let proj: Convolution2D
        let norm: (any Layer)?
        let stride: Int
        private let activation: Activation

        init(
            _ inputs: Int, _ outputs: Int, kernel: Int, stride: Int, padding: Int = 0, norm: (any Layer)? = nil,
            activation: Activation = .identity
        ) {
            proj = Convolution2D(inputs, outputs, kernel: kernel, stride: stride, padding: padding)
            (self.norm, self.stride, self.activation) = (norm, stride, activation)
        }

        func forward(_ x: Tensor) -> Tensor {
            let y = proj(x)
            return (norm?.forward(y) ?? y).activated(activation)
        }
    }

    /// Blocks, and what comes between them and the next stage: two places of `network`.
    final class Stage: Module {
        let blocks: [Block]
        let downsample: Embedding?
        private let place: Int

        override var keys: [String: String] {
            ["blocks": "network.\(place)", "downsample": "network.\(place + 1)"]
        }

        init(_ blocks: [Block], _ downsample: Embedding?, place: Int) {
            (self.blocks, self.downsample, self.place) = (blocks, downsample, place)
        }
    }

    /// x + mixing(norm(x)), then x + perceptron(norm(x)).
    final class Block: Module {
        let norm1: any Layer
        let attn: any Layer
        let norm2: any Layer
        let mlp: FeedForward
        private let dropPath: DropPath

        init(
            _ norm1: any Layer, _ mixing: any Layer, _ norm2: any Layer, _ mlp: FeedForward, dropPath: Float
        ) {
            (self.norm1, attn, self.norm2, self.mlp) = (norm1, mixing, norm2, mlp)
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            checkpointed(self, x) { [self] x in
                let x = x + dropPath(attn.forward(norm1.forward(x)))
                let y = norm2.forward(x)
                return dropPath.isActive ? x + dropPath(mlp(y)) : mlp(y, residual: x)
            }
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var x = patchEmbed.forward(image)
        return stages.map { stage in
            let map = stage.blocks.reduce(x) { $1($0) }
            x = stage.downsample?.forward(map) ?? map
            return map
        }
    }

    public func features(_ image: Tensor) -> Features {
        let last = norm.forward(pyramid(image).last!)
        let pooled = last.globalAveragePool()
        return Features(logits: head(pooled), pooled: pooled, tokens: last)
    }

    public let pyramidChannels: [Int]
    public var headPrefixes: [String] { ["head."] }
}

extension Arguments {
    /// An argument of a reference that has one published value, the only one that is understood.
    func fixed(_ name: String, _ value: Double) throws {
        let found = try double(name, default: value)
        guard found == value else { throw ArgumentError(field: name, found: "\(found)", expected: "\(value)") }
    }

    /// The same for a list of flags.
    func fixed(_ name: String, allOf value: Bool) throws {
        guard try bools(name, default: []).allSatisfy({ $0 == value }) else {
            throw ArgumentError(field: name, found: "\(!value)", expected: "\(value) for every stage")
        }
    }
}
