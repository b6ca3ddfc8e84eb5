import Tessera
import TesseraNN

/// ReViT: "ReViT: Enhancing Vision Transformers with Attention Residual Connections for Visual Recognition" (2024),
/// arXiv 2402.11301.
///
/// The scores of each layer's attention are mixed with those of the layer before: R = α S + (1 − α) R′, where R′ is itself
/// such a mixture and α one learned number for the whole network. So features of early layers survive in deep ones.
///
/// The reference is ADiko1997/ReViT (MIT). This is its plain form; ``ResidualMultiscaleTransformer`` and
/// ``ResidualSwinTransformer`` apply the same idea to two pyramids.
public class ResidualAttentionTransformer: Module, ImageClassifier {
    let alpha: Parameter?
    let clsToken: Parameter?
    let posEmbed: Parameter?
    let patchEmbed: Embedding
    let blocks: [Block]
    let norm: LayerNorm
    let head: Head
    let configuration: Configuration

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        alpha = c.learnsAlpha ? Parameter([1], .constant(0.5)) : nil
        clsToken = c.hasClassToken ? Parameter([1, 1, c.width], .truncatedNormal(0.02)) : nil
        let count = c.grid.height * c.grid.width + (c.hasClassToken ? 1 : 0)
        posEmbed = c.hasPositions ? Parameter([1, count, c.width], .truncatedNormal(0.02)) : nil
        patchEmbed = Embedding(c)
        let layers = c.blockShapes
        blocks = zip(layers, DropPath.linear(to: c.dropPath, depth: c.depth)).map { Block(c, $0, dropPath: $1) }
        norm = LayerNorm(layers.last!.outputs, epsilon: 1e-6)
        head = Head(layers.last!.outputs, c.classes)
    }

    final class Embedding: Module {
        let proj: Convolution2D

        init(_ c: Configuration) {
            proj = Convolution2D(
                c.channels, c.width, kernel: c.patchKernel, stride: c.patchStride, padding: c.patchPadding)
        }
    }

    final class Head: Module {
        let projection: Linear

        init(_ width: Int, _ classes: Int) {
            projection = Linear(width, classes, initializer: .truncatedNormal(0.02))
        }
    }

    /// α and 1 − α: what a layer's own scores and the previous layer's count.
    struct Shares {
        let own, previous: Tensor
    }

    /// The scores that a layer hands to the next: `[batch, heads, queries, keys]`.
    struct Scores {
        let tensor: Tensor
        /// The maps that queries and keys are; a class token comes on top.
        let queries: Size
        let keys: Size

        /// The scores for other numbers of heads, queries and keys: means, or repeated where the map grows.
        func fitted(heads: Int, queries: Size, keys: Size) -> Tensor {
            let mean = tensor.shape[1] == heads ? tensor : tensor.mean(axes: [1], keepingAxes: true)
            var shape = mean.shape.dimensions
            var fitted = mean
            if queries != self.queries {
                let maps = mean.reshaped([shape[0] * shape[1], self.queries.height, self.queries.width, shape[3]])
                shape[2] = queries.height * queries.width
                fitted = Self.sized(maps, queries).reshaped(Shape(shape))
            }
            if keys != self.keys {
                let maps = fitted.reshaped([shape[0] * shape[1] * shape[2], self.keys.height, self.keys.width, 1])
                shape[3] = keys.height * keys.width
                fitted = Self.sized(maps, keys).reshaped(Shape(shape))
            }
            return fitted
        }

        private static func sized(_ map: Tensor, _ size: Size) -> Tensor {
            map.shape[1] > size.height
                ? map.adaptiveAveragePool(height: size.height, width: size.width)
                : map.resized(height: size.height, width: size.width, interpolation: .nearest)
        }
    }

    /// x + attention(norm(x)), then x + perceptron(norm(x)), where the attention may widen or shrink the map.
    final class Block: Module {
        let norm1: LayerNorm
        let attn: ResidualAttention
        let proj: Linear?
        let norm2: LayerNorm
        let mlp: FeedForward
        let queryStride: Int
        private let dropPath: DropPath

        init(_ c: Configuration, _ layer: BlockShape, dropPath: Float) {
            let initializer = Initializer.truncatedNormal(0.02)
            norm1 = LayerNorm(layer.inputs, epsilon: 1e-6)
            attn = ResidualAttention(c, layer)
            proj =
                layer.inputs == layer.outputs
                ? nil : Linear(layer.inputs, layer.outputs, initializer: initializer)
            norm2 = LayerNorm(layer.outputs, epsilon: 1e-6)
            mlp = FeedForward(
                layer.outputs, hidden: Int(Float(layer.outputs) * c.mlpRatio), initializer: initializer)
            queryStride = layer.queryStride ?? 1
            self.dropPath = DropPath(dropPath)
        }

        /// `[batch, tokens, inputs]` → `[batch, queries, outputs]` and the scores for the next block.
        func callAsFunction(_ x: Tensor, grid: Size, previous: Scores?, shares: Shares) -> (Tensor, Scores) {
            let normalized = norm1(x)
            let (attended, scores) = attn(normalized, grid: grid, previous: previous, shares: shares)
            var skip = proj.map { $0(normalized) } ?? x
            if queryStride > 1 {
                skip = skip.reshaped([x.shape[0], grid.height, grid.width, skip.shape[2]])
                    .maxPool(kernel: queryStride + 1, stride: queryStride, padding: (queryStride + 1) / 2)
                    .reshaped(attended.shape)
            }
            let mixed = skip + dropPath(attended)
            let output =
                dropPath.isActive ? mixed + dropPath(mlp(norm2(mixed))) : mlp(norm2(mixed), residual: mixed)
            return (output, scores)
        }
    }

    public func classify(_ image: Tensor) -> Classification { features(image).classification }

    public func features(_ image: Tensor) -> Features {
        let last = stages(image).last!
        let z = norm(last.tokens)
        let (batch, width, prefix) = (z.shape[0], z.shape[2], prefixTokens)
        let patches = z.sliced(axis: 1, from: prefix, to: z.shape[1])
        let pooled =
            prefix == 1
            ? z.sliced(axis: 1, from: 0, to: 1).reshaped([batch, width]) : patches.mean(axes: [1])
        return Features(
            logits: head.projection(Dropout(configuration.dropout)(pooled)), pooled: pooled,
            tokens: patches.reshaped([batch, last.grid.height, last.grid.width, width]))
    }

    /// The tokens `[batch, prefix + places, width]` at the end of each resolution.
    func stages(_ image: Tensor) -> [(tokens: Tensor, grid: Size)] {
        let map = patchEmbed.proj(image)
        var grid = Size(map.shape[1], map.shape[2])
        var x = map.reshaped([map.shape[0], grid.height * grid.width, map.shape[3]])
        if let clsToken {
            x = concatenate([clsToken.tensor.broadcast(to: [x.shape[0], 1, x.shape[2]]), x], axis: 1)
        }
        if let posEmbed { x = x + positions(posEmbed.tensor, from: configuration.grid, to: grid) }
        var stages: [(tokens: Tensor, grid: Size)] = []
        var scores: Scores?
        let alpha = self.alpha?.tensor ?? Tensor([0.5], [1])
        let shares = Shares(own: alpha, previous: 1 - alpha)
        for block in blocks {
            if block.queryStride > 1 { stages.append((x, grid)) }
            let (before, from) = (scores, grid)
            let tensors = [x, shares.own, shares.previous] + [before?.tensor].compactMap { $0 }
            let results = checkpointed(block, tensors) { inputs in
                let previous = before.map { Scores(tensor: inputs[3], queries: $0.queries, keys: $0.keys) }
                let (output, handed) = block(
                    inputs[0], grid: from, previous: previous, shares: Shares(own: inputs[1], previous: inputs[2]))
                return [output, handed.tensor]
            }
            let (queries, keys) = block.attn.grids(grid)
            (x, grid, scores) = (results[0], queries, Scores(tensor: results[1], queries: queries, keys: keys))
        }
        return stages + [(x, grid)]
    }

    private func positions(_ table: Tensor, from: Size, to: Size) -> Tensor {
        PositionTable.resampled(
            table, prefix: prefixTokens, from: (from.height, from.width), to: (to.height, to.width),
            .bicubicAntialiased)
    }

    public var prefixTokens: Int { configuration.hasClassToken ? 1 : 0 }
    public var headPrefixes: [String] { ["head."] }

    public func adapted(_ key: String, _ tensor: Tensor) -> Tensor? {
        if key.contains(".rel_pos_"), tensor.rank == 2,
            let parameter = parameters.first(where: { $0.key == key })?.parameter,
            tensor.shape[1] == parameter.shape[1]
        {
            return ResidualAttention.resampled(tensor, rows: parameter.shape[0])
        }
        guard key == "pos_embed", tensor.rank == 3, tensor.shape[2] == configuration.width,
            let grid = PositionTable.squareGrid(tensor.shape[1], prefix: prefixTokens)
        else { return nil }
        return positions(tensor, from: Size(grid.rows, grid.columns), to: configuration.grid)
    }

    /// The reference answers with probabilities in evaluation mode.
    public func referenceOutputs(_ image: Tensor) -> [(key: String, tensor: Tensor)] {
        let logits = self(image)
        return [("output", configuration.headActivation == .softmax ? logits.softmax(axis: -1) : logits.sigmoid())]
    }
}

/// ReMViTv2: the residual attention of ``ResidualAttentionTransformer`` in a pyramid, after "MViTv2: Improved Multiscale
/// Vision Transformers for Classification and Detection" (2021), arXiv 2112.01526.
///
/// Queries, keys and values are pooled by depthwise convolutions: where queries are, the map shrinks.
public final class ResidualMultiscaleTransformer: ResidualAttentionTransformer, FeaturePyramid {
    public func pyramid(_ image: Tensor) -> [Tensor] {
        stages(image).map { tokens, grid in
            tokens.reshaped([tokens.shape[0], grid.height, grid.width, tokens.shape[2]])
        }
    }

    public var pyramidStrides: [Int] {
        blocks.reduce(into: [configuration.patchStride]) { strides, block in
            if block.queryStride > 1 { strides.append(strides.last! * block.queryStride) }
        }
    }

    public var pyramidChannels: [Int] {
        let layers = configuration.blockShapes
        let ends = layers.indices.filter { $0 == layers.count - 1 || (layers[$0 + 1].queryStride ?? 1) > 1 }
        return (layers[0].queryStride ?? 1 > 1 ? [configuration.width] : []) + ends.map { layers[$0].outputs }
    }
}

extension ResidualAttentionTransformer {
    /// Attention whose scores are mixed with the previous layer's, over pooled queries, keys and values.
    final class ResidualAttention: Module {
        let qkv: Linear
        let proj: Linear
        let poolQ, poolK, poolV: Convolution2D?
        let normQ, normK, normV: LayerNorm?
        /// `[2 · side − 1, head width]`: a vector for every vertical or horizontal distance.
        let relPosH, relPosW: Parameter?
        private let heads: Int
        private let strides: (queries: Int, keys: Int)
        private let addsQueries: Bool

        init(_ c: Configuration, _ layer: BlockShape) {
            let initializer = Initializer.truncatedNormal(0.02)
            let size = layer.outputs / layer.heads
            func pool(_ stride: Int?) -> Convolution2D? {
                stride.map {
                    Convolution2D(
                        size, size, kernel: c.poolKernel, stride: $0, padding: c.poolKernel / 2, groups: size,
                        bias: false)
                }
            }
            func norm(_ stride: Int?) -> LayerNorm? { stride.map { _ in LayerNorm(size, epsilon: 1e-6) } }
            func distances(_ side: Int) -> Parameter? {
                guard c.hasRelativePositions else { return nil }
                let (queries, keys) = (c.pooled(side, layer.queryStride), c.pooled(side, layer.keyStride))
                return Parameter(
                    [2 * max(queries, keys) - 1, size], c.zeroesRelativePositions ? .zeros : initializer)
            }
            qkv = Linear(layer.inputs, 3 * layer.outputs, bias: c.qkvBias, initializer: initializer)
            proj = Linear(layer.outputs, layer.outputs, initializer: initializer)
            (poolQ, poolK, poolV) = (pool(layer.queryStride), pool(layer.keyStride), pool(layer.keyStride))
            (normQ, normK, normV) = (norm(layer.queryStride), norm(layer.keyStride), norm(layer.keyStride))
            (relPosH, relPosW) = (distances(layer.grid.height), distances(layer.grid.width))
            (heads, addsQueries) = (layer.heads, c.residualPooling)
            strides = (layer.queryStride ?? 1, layer.keyStride ?? 1)
        }

        func callAsFunction(_ x: Tensor, grid: Size, previous: Scores?, shares: Shares) -> (Tensor, Scores) {
            let (batch, count) = (x.shape[0], x.shape[1])
            let packed = qkv(x)
            let size = packed.shape[2] / 3 / heads
            let parts = packed.split(axis: 2, sizes: [Int](repeating: heads * size, count: 3)).map {
                $0.reshaped([batch, count, heads, size]).transposed([0, 2, 1, 3])
            }
            let (queries, keys) = grids(grid)
            let q = pooled(parts[0], poolQ, normQ, grid)
            let k = pooled(parts[1], poolK, normK, grid)
            let v = pooled(parts[2], poolV, normV, grid)
            var scores = (q * (1 / Float(size).squareRoot())).multiplied(by: k, transposing: (false, true))
            if let previous {
                let before = previous.fitted(heads: heads, queries: queries, keys: keys)
                scores = scores * shares.own + before * shares.previous
            }
            // The next layer's residual contains the relative positions too.
            if let relPosH, let relPosW {
                scores = scores + relativeScores(q, queries, keys, relPosH.tensor, relPosW.tensor)
            }
            let weights = scores.softmax(axis: -1)
            AttentionProbe.show(weights)
            let mixed = weights.multiplied(by: v)
            let merged = (addsQueries ? mixed + q : mixed).transposed([0, 2, 1, 3])
                .reshaped([batch, q.shape[2], heads * size])
            return (proj(merged), Scores(tensor: scores, queries: queries, keys: keys))
        }

        /// The maps of queries and of keys that a map of tokens gives.
        func grids(_ grid: Size) -> (queries: Size, keys: Size) {
            func pooled(_ stride: Int) -> Size {
                Size((grid.height - 1) / stride + 1, (grid.width - 1) / stride + 1)
            }
            return (pooled(strides.queries), pooled(strides.keys))
        }

        /// `[batch, heads, tokens, size]` as maps through a convolution that all heads share, then normalised.
        private func pooled(_ x: Tensor, _ pool: Convolution2D?, _ norm: LayerNorm?, _ grid: Size) -> Tensor {
            guard let pool, let norm else { return x }
            let (batch, size) = (x.shape[0], x.shape[3])
            let maps = pool(x.reshaped([batch * heads, grid.height, grid.width, size]))
            return norm(maps.reshaped([batch, heads, maps.shape[1] * maps.shape[2], size]))
        }

        /// q · (vector of the vertical distance) + q · (vector of the horizontal distance) for all queries and keys.
        private func relativeScores(
            _ q: Tensor, _ queries: Size, _ keys: Size, _ vertical: Tensor, _ horizontal: Tensor
        ) -> Tensor {
            let (maps, size) = (q.shape[0] * heads, q.shape[3])
            let map = q.reshaped([maps, queries.height, queries.width, size])
            let rows = map.transposed([1, 0, 2, 3]).reshaped([queries.height, maps * queries.width, size])
                .multiplied(by: distances(vertical, queries.height, keys.height), transposing: (false, true))
                .reshaped([queries.height, maps, queries.width, keys.height]).transposed([1, 0, 2, 3])
            let columns = map.transposed([2, 0, 1, 3]).reshaped([queries.width, maps * queries.height, size])
                .multiplied(by: distances(horizontal, queries.width, keys.width), transposing: (false, true))
                .reshaped([queries.width, maps, queries.height, keys.width]).transposed([1, 2, 0, 3])
            let count = queries.height * queries.width
            let sums =
                rows.reshaped([maps * count, keys.height, 1]) + columns.reshaped([maps * count, 1, keys.width])
            return sums.reshaped([q.shape[0], heads, count, keys.height * keys.width])
        }

        /// The vectors between every query and key along an axis, `[queries, keys, size]`; the coarser of the two has
        /// its places spread over the finer one's.
        private func distances(_ table: Tensor, _ queries: Int, _ keys: Int) -> Tensor {
            let (queryStep, keyStep) = (
                max(Double(keys) / Double(queries), 1), max(Double(queries) / Double(keys), 1)
            )
            let places = (0..<queries).flatMap { query in
                (0..<keys).map { key in Int32(Double(query) * queryStep + Double(keys - 1 - key) * keyStep) }
            }
            return Self.resampled(table, rows: 2 * max(queries, keys) - 1).gathered(places, axis: 0)
                .reshaped([queries, keys, table.shape[1]])
        }

        /// A table of distances for a map of another size.
        static func resampled(_ table: Tensor, rows: Int) -> Tensor {
            guard table.shape[0] != rows else { return table }
            return table.reshaped([1, table.shape[0], 1, table.shape[1]])
                .resized(height: rows, width: 1, interpolation: .bilinear).reshaped([rows, table.shape[1]])
        }
    }
}
