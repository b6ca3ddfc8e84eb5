import Tessera
import TesseraNN

/// ViTAE: "ViTAE: Vision Transformer Advanced by Exploring Intrinsic Inductive Bias" (2021), arXiv 2106.03348, and
/// ViTAEv2: "ViTAEv2: Vision Transformer Advanced by Exploring Inductive Bias for Image Recognition and Beyond" (2022),
/// arXiv 2202.10108.
///
/// Two inductive biases of convolutions. A reduction cell shrinks the map by parallel convolutions of growing dilation,
/// so that tokens know several scales; and in every cell a branch of convolutions runs beside the attention, for
/// locality. The first version has its attention on 1/16 of the image, the second in four stages, the first two of them
/// in windows.
///
/// The reference is ViTAE-Transformer/ViTAE-Transformer (no licence file for the classification code, "research purpose
/// only"). In its first version the reduction cells that are not `performer` lose attention and convolutions, which
/// here is what `performer_less` means.
public final class ViTAE: Module, FeaturePyramid {
    let layers: [Stage]
    let fcNorm: LayerNorm?
    let head: Linear?
    let configuration: Configuration

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        let width = c.tokenWidths.last!
        layers = c.depths.indices.map { Stage(c, $0) }
        fcNorm = c.hasClassToken ? LayerNorm(width, epsilon: 1e-6) : nil
        head = c.kind == .dense ? nil : Linear(width, c.classes, initializer: .truncatedNormal(0.02))
    }

    /// A map as tokens `[batch, prefix + places, width]`; the prefix is the class token, if there is one.
    struct Tokens {
        var tensor: Tensor
        let grid: Size

        init(_ tensor: Tensor, _ grid: Size) { (self.tensor, self.grid) = (tensor, grid) }

        init(_ map: Tensor) {
            grid = Size(map.shape[1], map.shape[2])
            tensor = map.reshaped([map.shape[0], grid.height * grid.width, map.shape[3]])
        }

        var prefix: Int { tensor.shape[1] - grid.height * grid.width }

        /// `[batch, rows, columns, width]`
        var map: Tensor {
            tensor.sliced(axis: 1, from: prefix, to: tensor.shape[1])
                .reshaped([tensor.shape[0], grid.height, grid.width, tensor.shape[2]])
        }
    }

    /// A reduction cell, then normal cells.
    final class Stage: Module {
        let reduction: (Module & Reduction)?
        let cells: [NormalCell]

        override var keys: [String: String] { ["reduction": "RC", "cells": "NC"] }

        init(_ c: Configuration, _ stage: Int) {
            switch c.reductionTypes[stage] {
            case .none: reduction = nil
            case .embedding: reduction = EmbeddingCell(c, stage)
            default: reduction = c.ratios[stage] == 1 ? nil : ReductionCell(c, stage)
            }
            // As in the reference, a stage's rates begin where the stage before it was long, not where it ended.
            let rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))
            let start = stage == 0 ? 0 : c.depths[stage - 1]
            cells = rates.dropFirst(start).prefix(c.depths[stage]).map { NormalCell(c, stage, dropPath: $0) }
        }

        func callAsFunction(_ x: Tokens) -> Tokens {
            cells.reduce(reduction.map { $0.reduce(x.map) } ?? x) { x, cell in
                Tokens(checkpointed(cell, x.tensor) { cell(Tokens($0, x.grid)).tensor }, x.grid)
            }
        }
    }

    protocol Reduction {
        func reduce(_ map: Tensor) -> Tokens
    }

    /// Patches, a class token and positions: how the large models of the first version begin.
    final class EmbeddingCell: Module, Reduction {
        let patches: PatchEmbedding
        let clsToken: Parameter
        let posEmbed: Parameter
        private let grid: Size

        override var keys: [String: String] { ["patches": "PRM"] }

        init(_ c: Configuration, _ stage: Int) {
            let (width, ratio) = (c.tokenWidths[stage], c.ratios[stage])
            patches = PatchEmbedding(channels: c.channels, width: width, patch: (ratio, ratio))
            clsToken = Parameter([1, 1, width], .zeros)
            grid = Size(c.imageSize.height / ratio, c.imageSize.width / ratio)
            posEmbed = Parameter([1, 1 + grid.height * grid.width, width], .zeros)
        }

        func reduce(_ map: Tensor) -> Tokens {
            let tokens = Tokens(patches(map))
            let (batch, width) = (tokens.tensor.shape[0], tokens.tensor.shape[2])
            let all = concatenate([clsToken.tensor.broadcast(to: [batch, 1, width]), tokens.tensor], axis: 1)
            return Tokens(all + positions(posEmbed.tensor, from: grid, to: tokens.grid), tokens.grid)
        }

        func positions(_ table: Tensor, from: Size, to: Size) -> Tensor {
            PositionTable.resampled(
                table, prefix: 1, from: (from.height, from.width), to: (to.height, to.width), .bicubicAntialiased)
        }
    }

    /// z = attention(norm(pyramid(x))) + convolutions(x), then z + perceptron(norm(z)); or the pyramid alone.
    final class ReductionCell: Module, Reduction {
        let pyramid: PyramidReduction
        let convolutions: [any Layer]?
        let attn: (Module & TokenMixer)?

        override var keys: [String: String] { ["pyramid": "PRM", "convolutions": "PCM"] }

        init(_ c: Configuration, _ stage: Int) {
            let inputs = stage == 0 ? c.channels : c.tokenWidths[stage - 1]
            let (middle, outputs, groups) = (c.embeddingWidths[stage], c.tokenWidths[stage], c.reductionGroups[stage])
            pyramid = PyramidReduction(c, stage, inputs)
            let widths = [(inputs, middle), (middle, middle), (middle, outputs)]
            let strides = [2, c.ratios[stage] / 2, 1]
            let layers = zip(widths, strides).map { widths, stride in
                Convolution2D(
                    widths.0, widths.1, kernel: 3, stride: stride, padding: 1, groups: groups) as any Layer
            }
            func silu() -> any Layer { ActivationLayer(.silu) }
            if c.reductionTypes[stage] == .performerLess {
                (convolutions, attn) = (nil, nil)
            } else {
                convolutions =
                    c.kind == .first
                    ? [layers[0], silu(), layers[1], BatchNorm(middle), silu(), layers[2], silu()]
                    : [layers[0], BatchNorm(middle), silu(), layers[1], BatchNorm(middle), silu(), layers[2]]
                attn = Self.mixer(c, stage, inputs: middle * c.dilations[stage].count)
            }
        }

        private static func mixer(_ c: Configuration, _ stage: Int, inputs: Int) -> Module & TokenMixer {
            let (width, heads) = (c.tokenWidths[stage], c.reductionHeads[stage])
            switch c.reductionTypes[stage] {
            case .performer:
                return TokensToTokenTransformer.PerformerLayer(inputs, width, dropout: c.performerDropout)
            case .window:
                // Its window is seven, whatever that of the normal cells.
                let attention = WindowAttention(
                    width, inputs: inputs, heads: heads, window: (7, 7),
                    hasRelativePositions: c.hasRelativePositions, placement: .around,
                    attentionDropout: c.attentionDropout, initializer: .truncatedNormal(0.02))
                return ReductionMixer(inputs, width, attention)
            default: return ReductionMixer(inputs, width, ValueAttention(inputs, width, heads: heads))
            }
        }

        func reduce(_ map: Tensor) -> Tokens {
            let tokens = Tokens(pyramid(map))
            guard let attn, let convolutions else { return tokens }
            return attn.mix(tokens, adding: Tokens(convolutions(map)).tensor)
        }
    }

    /// Convolutions with the same stride and growing dilation side by side.
    final class PyramidReduction: Module {
        let convs: [[any Layer]]

        init(_ c: Configuration, _ stage: Int, _ inputs: Int) {
            let (kernel, stride) = (c.kernels[stage], c.ratios[stage])
            convs = c.dilations[stage].map { dilation in
                let padding = (max(0, (kernel - 1) * dilation + 1 - stride) + 1) / 2
                return [
                    Convolution2D(
                        inputs, c.embeddingWidths[stage], kernel: kernel, stride: stride, padding: padding,
                        dilation: dilation),
                    ActivationLayer(.gelu),
                ]
            }
        }

        func callAsFunction(_ map: Tensor) -> Tensor { concatenate(convs.map { $0(map) }, axis: 3) }
    }

    /// A transformer layer that changes the width, with something added between its two halves.
    protocol TokenMixer {
        func mix(_ x: Tokens, adding branch: Tensor) -> Tokens
    }

    final class ReductionMixer: Module, TokenMixer {
        let attn: Module & MapAttention
        let norm1: LayerNorm
        let norm2: LayerNorm
        let mlp: FeedForward

        init(_ inputs: Int, _ width: Int, _ attention: Module & MapAttention) {
            attn = attention
            norm1 = LayerNorm(inputs, epsilon: 1e-5)
            norm2 = LayerNorm(width, epsilon: 1e-5)
            mlp = FeedForward(width, hidden: width, initializer: .truncatedNormal(0.02))
        }

        func mix(_ x: Tokens, adding branch: Tensor) -> Tokens {
            let z = Tokens(attn(Tokens(norm1(x.tensor), x.grid).map)).tensor + branch
            return Tokens(mlp(norm2(z), residual: z), x.grid)
        }
    }

    /// Attention over all places of a map, whose residual is the values.
    final class ValueAttention: Module, MapAttention {
        let qkv: Linear
        let proj: Linear
        private let heads: Int

        init(_ inputs: Int, _ width: Int, heads: Int) {
            qkv = Linear(inputs, 3 * width, bias: false, initializer: .truncatedNormal(0.02))
            proj = Linear(width, width, initializer: .truncatedNormal(0.02))
            self.heads = heads
        }

        func callAsFunction(_ map: Tensor) -> Tensor {
            let packed = qkv(Tokens(map).tensor)
            let width = packed.shape[2] / 3
            let values = packed.sliced(axis: 2, from: 2 * width, to: 3 * width)
            return proj(attention(packed: packed, heads: heads), residual: values)
                .reshaped([map.shape[0], map.shape[1], map.shape[2], width])
        }
    }

    /// x + attention(norm(x)) + convolutions(x), then x + perceptron(norm(x)).
    final class NormalCell: Module {
        let norm1: LayerNorm
        let attn: Module
        let norm2: LayerNorm
        let mlp: FeedForward
        let convolutions: [any Layer]
        private let dropPath: DropPath

        override var keys: [String: String] { ["convolutions": "PCM"] }

        init(_ c: Configuration, _ stage: Int, dropPath: Float) {
            let (width, heads, groups) = (c.tokenWidths[stage], c.heads[stage], c.groups[stage])
            let (hidden, initializer) = (Int(Float(width) * c.mlpRatio), Initializer.truncatedNormal(0.02))
            norm1 = LayerNorm(width, epsilon: 1e-6)
            attn =
                c.cellTypes[stage] == .window
                ? WindowAttention(
                    width, heads: heads, window: (c.window, c.window), hasRelativePositions: c.hasRelativePositions,
                    placement: .around, qkvBias: c.qkvBias, attentionDropout: c.attentionDropout, dropout: c.dropout,
                    initializer: initializer)
                : SelfAttention(
                    width, heads: heads, qkvBias: c.qkvBias, attentionDropout: c.attentionDropout,
                    dropout: c.dropout, initializer: initializer)
            norm2 = LayerNorm(width, epsilon: 1e-6)
            mlp = FeedForward(width, hidden: hidden, dropout: c.dropout, initializer: initializer)
            func convolution(_ inputs: Int, _ outputs: Int) -> Convolution2D {
                Convolution2D(inputs, outputs, kernel: 3, padding: 1, groups: groups)
            }
            var layers: [any Layer] = [
                convolution(width, hidden), BatchNorm(hidden), ActivationLayer(.silu), convolution(hidden, width),
            ]
            if c.cellTypes[stage] != .shallow {
                layers += [BatchNorm(width), ActivationLayer(.silu), convolution(width, width)]
                if c.kind == .first { layers.append(ActivationLayer(.silu)) }
            }
            convolutions = layers
            self.dropPath = DropPath(dropPath)
        }

        func callAsFunction(_ x: Tokens) -> Tokens {
            // The branch sees what is not normalised, and no class token.
            var branch = dropPath(Tokens(convolutions(x.map)).tensor)
            if x.prefix > 0 { branch = branch.padded([(axis: 1, before: x.prefix, after: 0)]) }
            let y = x.tensor + dropPath(attended(Tokens(norm1(x.tensor), x.grid))) + branch
            return Tokens(dropPath.isActive ? y + dropPath(mlp(norm2(y))) : mlp(norm2(y), residual: y), x.grid)
        }

        private func attended(_ x: Tokens) -> Tensor {
            switch attn {
            case let windows as WindowAttention: Tokens(windows(x.map)).tensor
            case let attention as SelfAttention: attention(x.tensor)
            default: preconditionFailure("a normal cell has one of two attentions")
            }
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] { stages(image).map(\.map) }

    /// The tokens at the end of each resolution.
    private func stages(_ image: Tensor) -> [Tokens] {
        var x = Tokens(image)
        return layers.enumerated().compactMap { stage, layer in
            x = layer(x)
            return endsResolution(stage) ? x : nil
        }
    }

    private func endsResolution(_ stage: Int) -> Bool {
        stage == layers.count - 1 || configuration.ratios[stage + 1] > 1
    }

    public func features(_ image: Tensor) -> Features {
        // There is no last norm, and the class token is not read.
        let map = stages(image).last!.map
        let mean = map.globalAveragePool()
        let pooled = fcNorm.map { $0(mean) } ?? mean
        return Features(logits: head.map { $0(pooled) } ?? pooled, pooled: pooled, tokens: map)
    }

    public var pyramidStrides: [Int] {
        var stride = 1
        return layers.indices.compactMap { stage in
            stride *= configuration.ratios[stage]
            return endsResolution(stage) ? stride : nil
        }
    }
    public var pyramidChannels: [Int] { layers.indices.filter(endsResolution).map { configuration.tokenWidths[$0] } }
    public var headPrefixes: [String] { ["head."] }
    public var prefixTokens: Int { configuration.hasClassToken ? 1 : 0 }
    public var undecayedKeys: Set<String> { ["layers.0.RC.cls_token", "layers.0.RC.pos_embed"] }

    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? {
        guard key == "layers.0.RC.pos_embed", let cell = layers[0].reduction as? EmbeddingCell, tensor.rank == 3,
            tensor.shape[2] == cell.posEmbed.shape[2],
            let grid = PositionTable.squareGrid(tensor.shape[1], prefix: 1)
        else { return nil }
        let ratio = configuration.ratios[0]
        let target = Size(configuration.imageSize.height / ratio, configuration.imageSize.width / ratio)
        return cell.positions(tensor, from: Size(grid.rows, grid.columns), to: target)
    }

    /// The dense backbone has no head: its answers are the maps.
    public func referenceOutputs(_ image: Tensor) -> [(key: String, tensor: Tensor)] {
        guard head == nil else { return [("output", self(image))] }
        return pyramid(image).enumerated().map { ("output.stage\($0)", $1.transposed([0, 3, 1, 2])) }
    }
}

/// Attention on a map `[batch, rows, columns, channels]`.
protocol MapAttention {
    func callAsFunction(_ map: Tensor) -> Tensor
}

extension WindowAttention: MapAttention {}

extension TokensToTokenTransformer.PerformerLayer: ViTAE.TokenMixer {
    func mix(_ x: ViTAE.Tokens, adding branch: Tensor) -> ViTAE.Tokens {
        ViTAE.Tokens(self(x.tensor, adding: branch), x.grid)
    }
}
