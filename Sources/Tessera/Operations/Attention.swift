import CKernels

/// Scaled dot-product attention over all heads at once, scores never stored.
package struct Attention: Operation {
    package static let name = "attention"
    package let heads: Int
    /// One input `[batch, tokens, 3 · heads · size]` laid out [3][heads][size], instead of separate q, k and v.
    package let isPacked: Bool
    package let hasBias: Bool
    package let scale: Float
    package let dropout: Float
    package let seed: UInt64
    /// Whether only products will read the result: in bfloat16 it is then held so.
    package var isForProducts = false
    package let precision: Precision

    private struct Extents {
        let batch, queries, keys, size, valueSize: Int
    }

    private func extents(_ inputs: [Shape]) -> Extents {
        let q = inputs[0]
        if isPacked {
            precondition(
                q.rank == 3 && q[2] % (3 * heads) == 0, "attention: \(q) does not hold q, k and v of \(heads) heads")
            let size = q[2] / (3 * heads)
            return Extents(batch: q[0], queries: q[1], keys: q[1], size: size, valueSize: size)
        }
        let (k, v) = (inputs[1], inputs[2])
        precondition(
            q.rank == 3 && k.rank == 3 && v.rank == 3 && q[0] == k[0] && k[0] == v[0] && k[1] == v[1] && q[2] == k[2]
                && q[2] % heads == 0 && v[2] % heads == 0,
            "attention: q \(q), k \(k) and v \(v) do not fit \(heads) heads")
        return Extents(batch: q[0], queries: q[1], keys: k[1], size: q[2] / heads, valueSize: v[2] / heads)
    }

    package func shape(_ inputs: [Shape]) -> Shape {
        let e = extents(inputs)
        precondition(e.queries > 0 && e.keys > 0, "attention: no queries or keys in \(inputs)")
        if hasBias {
            let bias = inputs.last!
            precondition(
                bias.rank == 4 && (bias[0] == 1 || bias[0] == e.batch) && (bias[1] == 1 || bias[1] == heads)
                    && bias[2] == e.queries && bias[3] == e.keys,
                "attention: bias \(bias) for \(e.batch) images, \(heads) heads, \(e.queries) × \(e.keys) scores")
        }
        return [e.batch, e.queries, heads * e.valueSize]
    }

    /// Where q, k and v begin in the packed input, in floats.
    package func packedOffsets(_ inputs: [Shape]) -> (k: Int, v: Int) {
        let e = extents(inputs)
        return (heads * e.size, 2 * heads * e.size)
    }

    /// The attention without its operands.
    package func kernel(_ inputs: [Shape], _ output: Shape) -> tk_attention {
        let e = extents(inputs)
        var a = tk_attention()
        (a.batch, a.heads, a.queries, a.keys) = (Int64(e.batch), Int64(heads), Int64(e.queries), Int64(e.keys))
        (a.head_size, a.value_size) = (Int64(e.size), Int64(e.valueSize))
        func strides(_ shape: Shape, _ size: Int) -> tk_strides {
            tk_strides(row: Int64(shape[2]), head: Int64(size), batch: Int64(shape[1] * shape[2]))
        }
        a.q_strides = strides(inputs[0], e.size)
        a.k_strides = isPacked ? a.q_strides : strides(inputs[1], e.size)
        a.v_strides = isPacked ? a.q_strides : strides(inputs[2], e.valueSize)
        a.out_strides = strides(output, e.valueSize)
        if hasBias, let bias = inputs.last {
            let scores = e.queries * e.keys
            a.bias_strides = tk_strides(
                row: Int64(e.keys), head: Int64(bias[1] == 1 ? 0 : scores),
                batch: Int64(bias[0] == 1 ? 0 : bias[1] * scores))
        }
        a.scale = scale
        a.dropout = dropout
        a.seed = seed
        a.precision = precision.wide.kernel
        return a
    }

    private func kernel(_ inputs: [Tensor], _ output: Shape) -> tk_attention {
        let shapes = inputs.map(\.shape)
        var a = kernel(shapes, output)
        let (k, v) = packedOffsets(shapes)
        (a.q, a.q_is_rounded) = inputs[0].operand
        if isPacked {
            let (raw, bytes) = (UnsafeRawPointer(a.q!), a.q_is_rounded ? 2 : 4)
            a.k = (raw + bytes * k).assumingMemoryBound(to: Float.self)
            a.v = (raw + bytes * v).assumingMemoryBound(to: Float.self)
            (a.k_is_rounded, a.v_is_rounded) = (a.q_is_rounded, a.q_is_rounded)
        } else {
            (a.k, a.k_is_rounded) = inputs[1].operand
            (a.v, a.v_is_rounded) = inputs[2].operand
        }
        a.bias = hasBias ? inputs.last!.pointer : nil
        return a
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let rounds = isForProducts && precision.holdsRounded
        let output = rounds ? Tensor(uninitializedRounded: shape) : Tensor(uninitialized: shape)
        var a = kernel(inputs, shape)
        (a.out, a.out_is_rounded) = output.target
        let logSumExp = saved.isNeeded ? Tensor(uninitialized: [shape[0], heads, shape[1]]) : nil
        a.log_sum_exp = logSumExp?.mutablePointer
        withExtendedLifetime((inputs, output, logSumExp)) { tk_attention_forward(&a) }
        if let logSumExp {
            saved.tensors = inputs + [logSumExp]
            saved.operands = precision.holdsRounded ? 0..<(isPacked ? 1 : 3) : 0..<0
        }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let inputs = Array(context.saved.dropLast())
        var a = kernel(inputs, context.gradient.shape)
        a.log_sum_exp = context.saved.last!.mutablePointer
        let operands = hasBias ? inputs.count - 1 : inputs.count
        let areRounded = context.rounded.prefix(operands).allSatisfy { $0 }
        let gradients = inputs.enumerated().map { place, input in
            areRounded && place < operands
                ? Tensor(uninitializedRounded: input.shape) : Tensor(uninitialized: input.shape)
        }
        let wantsBias = hasBias && context.wanted.last!
        withExtendedLifetime((context, gradients)) {
            let q = gradients[0].target.pointer
            let part = (areRounded ? 2 : 4) * heads * Int(a.head_size)
            func gradient(_ place: Int) -> UnsafeMutablePointer<Float> {
                guard isPacked else { return gradients[place].target.pointer }
                return (UnsafeMutableRawPointer(q) + place * part).assumingMemoryBound(to: Float.self)
            }
            let (pointer, isRounded) = context.gradient.operand
            tk_attention_backward(
                &a, pointer, isRounded, q, gradient(1), gradient(2), areRounded,
                wantsBias ? gradients.last!.mutablePointer : nil)
        }
        return zip(gradients, context.wanted).map { $1 ? $0 : nil }
    }

    package func cost(_ inputs: [Shape], _ output: Shape) -> Cost {
        let e = extents(inputs)
        return Cost(
            multiplyAdds: e.batch * heads * e.queries * e.keys * (e.size + e.valueSize), inputs, output)
    }
}

/// Self-attention from packed projections: softmax(scale · q kᵀ + bias) v for every head.
///
/// "Attention Is All You Need" (2017), arXiv 1706.03762.
///
/// - Parameters:
///   - qkv: `[batch, tokens, 3 · heads · size]`, laid out [3][heads][size]
///   - scale: 1/√size if nil
///   - bias: added to the scores, `[batch or 1, heads or 1, tokens, tokens]`, or nil
///   - dropout: the probability with which an attention weight is dropped; `seed` names the mask
///   - isForProducts: whether only linear layers will read the result; in bfloat16 it is then held in half of the memory
/// - Returns: `[batch, tokens, heads · size]`
public func attention(
    packed qkv: Tensor, heads: Int, scale: Float? = nil, bias: Tensor? = nil, dropout: Float = 0, seed: UInt64 = 0,
    isForProducts: Bool = false
) -> Tensor {
    let size = qkv.shape[2] / (3 * heads)
    if let probe = AttentionProbe.current {
        let parts = qkv.split(axis: 2, sizes: [Int](repeating: heads * size, count: 3))
        probe.observe(parts[0], parts[1], heads: heads, scale: scale, bias: bias)
    }
    let operation = Attention(
        heads: heads, isPacked: true, hasBias: bias != nil, scale: scale ?? 1 / Float(size).squareRoot(),
        dropout: dropout, seed: seed, isForProducts: isForProducts, precision: .current)
    return apply(operation, [qkv] + (bias.map { [$0] } ?? []))
}

/// Attention of queries over keys and values: softmax(scale · q kᵀ + bias) v for every head.
///
/// - Parameters:
///   - q: `[batch, queries, heads · size]`
///   - k: `[batch, keys, heads · size]`
///   - v: `[batch, keys, heads · value size]`
///   - scale: 1/√size if nil
///   - bias: added to the scores, `[batch or 1, heads or 1, queries, keys]`, or nil
///   - dropout: the probability with which an attention weight is dropped; `seed` names the mask
///   - isForProducts: whether only linear layers will read the result; in bfloat16 it is then held in half of the memory
/// - Returns: `[batch, queries, heads · value size]`
public func attention(
    _ q: Tensor, _ k: Tensor, _ v: Tensor, heads: Int, scale: Float? = nil, bias: Tensor? = nil, dropout: Float = 0,
    seed: UInt64 = 0, isForProducts: Bool = false
) -> Tensor {
    AttentionProbe.current?.observe(q, k, heads: heads, scale: scale, bias: bias)
    let operation = Attention(
        heads: heads, isPacked: false, hasBias: bias != nil,
        scale: scale ?? 1 / Float(q.shape[2] / heads).squareRoot(), dropout: dropout, seed: seed,
        isForProducts: isForProducts, precision: .current)
    return apply(operation, [q, k, v] + (bias.map { [$0] } ?? []))
}

/// Collects the attention weights of every layer that runs inside ``watch(_:)``, to show where a model looks.
///
/// Fused attention never stores its weights, so they are computed a second time, only while a probe watches.
public final class AttentionProbe: @unchecked Sendable {
    @TaskLocal static var current: AttentionProbe?

    /// One tensor `[batch, heads, queries, keys]` a layer, in the order of execution.
    public private(set) var weights: [Tensor] = []

    public init() {}

    public func watch<Result>(_ body: () throws -> Result) rethrows -> Result {
        try AttentionProbe.$current.withValue(self, operation: body)
    }

    /// For layers that do compute their weights: shows them `[batch, heads, queries, keys]` to a probe that watches.
    public static func show(_ weights: Tensor) { current?.weights.append(weights.detached) }

    func observe(_ q: Tensor, _ k: Tensor, heads: Int, scale: Float?, bias: Tensor?) {
        let size = q.shape[2] / heads
        func byHead(_ x: Tensor) -> Tensor {
            x.detached.reshaped([x.shape[0], x.shape[1], heads, size]).transposed([0, 2, 1, 3])
        }
        let scores =
            byHead(q).multiplied(by: byHead(k), transposing: (false, true))
            * (scale ?? 1 / Float(size).squareRoot())
        weights.append((bias.map { scores + $0.detached } ?? scores).softmax(axis: -1))
    }
}
