import CKernels
import Tessera

/// Turns a graph into steps of a program: one for each node that computes or moves something.
///
/// An operation that no step knows is called as it is, one image at a time.
struct Lowering {
    let graph: Graph
    private let placement: Placement
    private let memory: MemoryPlan
    var steps: [tk_step] = []
    /// What each step belongs to, for profiles.
    private(set) var labels: [StepLabel] = []
    /// What products multiply by, by the place of the step.
    private(set) var weights: [Int: Storage] = [:]
    /// Memory that steps point to.
    private(set) var owned: [AnyObject] = []

    /// Floats of the arena for one image.
    var arena: Int { memory.size }

    init(_ graph: Graph) {
        self.graph = graph
        placement = Placement(graph)
        memory = MemoryPlan(Lowering.lifetimes(graph, placement))
        for index in graph.nodes.indices { lower(graph.nodes[index]) }
        for output in placement.copiedOutputs {
            let id = graph.outputs[output]
            copyRows(
                from: place(placement.place(id)), to: place(Placement.Place(home: .output(output))), rows: 1,
                run: graph.shape(id).count, fromRow: 0, toRow: 0, name: "output")
        }
    }

    /// From the node that first writes into a buffer to the last that reads it.
    private static func lifetimes(_ graph: Graph, _ placement: Placement) -> [MemoryPlan.Buffer] {
        var spans = [ClosedRange<Int>?](repeating: nil, count: placement.buffers.count)
        func touch(_ id: Graph.ValueID, at step: Int) {
            guard case .buffer(let index) = placement.place(id).home else { return }
            let span = spans[index] ?? step...step
            spans[index] = min(span.lowerBound, step)...max(span.upperBound, step)
        }
        for (step, node) in graph.nodes.enumerated() {
            for id in node.inputs + [node.output] { touch(id, at: step) }
        }
        for output in placement.copiedOutputs { touch(graph.outputs[output], at: graph.nodes.count) }
        return zip(placement.buffers, spans).map { MemoryPlan.Buffer(count: $0, lifetime: $1!) }
    }

    private func place(_ place: Placement.Place) -> tk_place {
        var result = tk_place()
        (result.offset, result.image) = (Int64(place.offset), Int64(placement.stride(place.home)))
        switch place.home {
        case .buffer(let index):
            (result.space, result.buffer) = (TK_ARENA, Int64(memory.offsets[index]))
        case .constant(let id):
            (result.space, result.constant) = (TK_CONSTANT, graph.constant(id)!.pointer)
        case .input: result.space = TK_INPUT
        case .output(let index): (result.space, result.output) = (TK_OUTPUT, Int64(index))
        }
        return result
    }

    private func place(_ id: Graph.ValueID) -> tk_place { place(placement.place(id)) }

    private mutating func add(
        _ kind: tk_step_kind, _ node: Graph.Node?, name: String? = nil, _ fill: (inout tk_step) -> Void
    ) {
        var step = tk_step()
        step.kind = kind
        fill(&step)
        steps.append(step)
        labels.append(StepLabel(graph, node, name: name))
    }

    private mutating func lower(_ node: Graph.Node) {
        if placement.isView(node) { return }
        let output = graph.shape(node.output)
        let lowered =
            switch node.operation {
            case let product as Product: lower(product, node)
            case let attention as Attention: lower(attention, 0..<output[1], node)
            case let queries as QueryAttention:
                lower(queries.attention, queries.queries, node, quantization: queries.quantization)
            case let norm as LayerNormalization: lower(norm, node)
            case let chain as Chain: lower(chain, node)
            case let softmax as Softmax: lower(softmax, node)
            case let sum as Sum: lower(sum, node)
            case let pool as MaxPool: lower(pool, node)
            case let product as MatrixProduct: lower(product, node)
            case let concatenation as Concatenate: lower(concatenation, node)
            case let transpose as Transpose: lower(transpose, node)
            case let slice as Slice: lower(slice, node)
            default: false
            }
        if !lowered { call(node) }
    }

    private mutating func lower(_ product: Product, _ node: Graph.Node) -> Bool {
        let (inputs, output) = (node.inputs, graph.shape(node.output))
        func operand(_ role: Product.Role) -> Graph.ValueID? { product.operand(role, inputs) }
        func constant(_ role: Product.Role) -> UnsafePointer<Float>? {
            operand(role).map { graph.constant($0)!.pointer }
        }
        guard graph.hasConstantParameters(product, node) else { return false }
        let weight = graph.shape(operand(.weight)!)
        if let convolution = product.convolution, convolution.groups > 1 {
            var step = tk_convolution_step()
            step.shape = convolution.kernel(graph.shape(operand(.x)!), weight, output)
            (step.weight, step.bias, step.activation) = (
                constant(.weight), constant(.bias), product.activation.kernel
            )
            (step.x, step.y) = (place(operand(.x)!), place(node.output))
            add(TK_STEP_CONVOLUTION, node) { $0.convolution = step }
            return true
        }
        var p = tk_product_step()
        (p.columns, p.depth) = (Int64(weight[0]), Int64(weight.stride(0)))
        p.rows = weight[0] == 0 ? 0 : Int64(output.count / weight[0])
        (p.a, p.c) = (place(operand(.x)!), place(node.output))
        (p.a_row, p.c_row) = (p.depth, p.columns)
        if let convolution = product.convolution {
            p.is_convolution = true
            p.convolution = convolution.kernel(graph.shape(operand(.x)!), weight, output)
            p.a_row = p.convolution.width * p.convolution.in_channels
        }
        if let residual = operand(.residual) {
            p.has_residual = true
            (p.residual, p.residual_row) = (place(residual), p.columns)
        }
        if let norm = product.norm {
            p.has_norm = true
            p.epsilon = norm.epsilon
            (p.norm_weight, p.norm_bias) = (constant(.normWeight), constant(.normBias))
        }
        (p.weight, p.bias) = (constant(.weight), constant(.bias))
        (p.activation, p.precision) = (product.activation.kernel, product.precision.kernel)
        if placement.isRounded(operand(.x)!) { (p.a_is_rounded, p.a_row) = (true, p.depth / 2) }
        if placement.isRounded(node.output) { (p.c_is_rounded, p.c_row) = (true, p.columns / 2) }
        if let quantization = product.quantization { quantize(&p, quantization, node, operand(.x)!, operand(.weight)!) }
        weights[steps.count] = graph.constant(operand(.weight)!)!.storage
        add(TK_STEP_PRODUCT, node) { $0.product = p }
        return true
    }

    /// Lets a product compute in codes.
    private mutating func quantize(
        _ p: inout tk_product_step, _ quantization: Quantization.Layer, _ node: Graph.Node, _ x: Graph.ValueID,
        _ weight: Graph.ValueID
    ) {
        let scales = QuantizedWeight.scales(of: graph.constant(weight)!, bits: quantization.weightBits)
        let box = UnsafeBox<Float>(count: 2 * scales.count)
        for (row, scale) in scales.enumerated() {
            box.pointer[row] = scale
            box.pointer[scales.count + row] = scale * quantization.input.scale
        }
        owned.append(box)
        p.is_quantized = true
        (p.weight_scales, p.scales) = (UnsafePointer(box.pointer), UnsafePointer(box.pointer + scales.count))
        p.a_quantizer = quantization.input.kernel
        if placement.isCoded(x) {
            p.a_is_codes = true
            p.a_row = Int64(placement.row(x))
        }
        if let quantizer = placement.codes[node.output] {
            p.c_is_codes = true
            p.c_quantizer = quantizer.kernel
            p.c_row = Int64(placement.row(node.output))
        }
    }

    private mutating func lower(
        _ attention: Attention, _ queries: Range<Int>, _ node: Graph.Node, quantization: Quantization.Attention? = nil
    ) -> Bool {
        let shapes = node.inputs.map(graph.shape)
        var step = tk_attention_step()
        step.shape = attention.kernel(shapes, graph.shape(node.output))
        step.shape.queries = Int64(queries.count)
        func fit(_ strides: inout tk_strides, _ id: Graph.ValueID) {
            guard let row = placement.rows[id] else { return }
            (strides.row, strides.batch) = (Int64(row), strides.batch / strides.row * Int64(row))
        }
        fit(&step.shape.q_strides, node.inputs[0])
        fit(&step.shape.k_strides, node.inputs[attention.isPacked ? 0 : 1])
        fit(&step.shape.v_strides, node.inputs[attention.isPacked ? 0 : 2])
        let (k, v) = attention.packedOffsets(shapes)
        /// Where an operand begins, `offset` numbers behind a value's beginning, and whether those are of bfloat16.
        func operand(_ index: Int, offset: Int) -> (tk_place, Bool) {
            let id = node.inputs[attention.isPacked ? 0 : index]
            var result = place(id)
            result.offset += Int64(placement.isRounded(id) ? offset / 2 : offset)
            return (result, placement.isRounded(id))
        }
        (step.q, step.shape.q_is_rounded) = operand(0, offset: queries.lowerBound * Int(step.shape.q_strides.row))
        (step.k, step.shape.k_is_rounded) = operand(1, offset: attention.isPacked ? k : 0)
        (step.v, step.shape.v_is_rounded) = operand(2, offset: attention.isPacked ? v : 0)
        if attention.hasBias {
            step.has_bias = true
            step.bias = place(node.inputs.last!)
            step.bias.offset += Int64(queries.lowerBound) * step.shape.bias_strides.row
        }
        step.out = place(node.output)
        step.shape.out_is_rounded = placement.isRounded(node.output)
        guard let quantization else {
            add(TK_STEP_ATTENTION, node) { $0.attention = step }
            return true
        }
        var codes = tk_int8_attention_step()
        codes.shape = tk_int8_attention(
            attention: step.shape, q: quantization.q.kernel, k: quantization.k.kernel, v: quantization.v.kernel,
            weights: quantization.weights.kernel)
        (codes.q, codes.k, codes.v, codes.bias) = (step.q, step.k, step.v, step.bias)
        (codes.has_bias, codes.out) = (step.has_bias, step.out)
        add(TK_STEP_INT8_ATTENTION, node) { $0.int8_attention = codes }
        return true
    }

    private mutating func lower(_ norm: LayerNormalization, _ node: Graph.Node) -> Bool {
        let parameters = node.inputs.dropFirst().map { graph.constant($0) }
        guard parameters.allSatisfy({ $0 != nil }) else { return false }
        let shape = graph.shape(node.output)
        var step = tk_norm_step()
        (step.rows, step.columns) = (Int64(shape.count / max(1, shape[-1])), Int64(shape[-1]))
        (step.x, step.y) = (place(node.inputs[0]), place(node.output))
        step.weight = norm.hasWeight ? parameters[0]!.pointer : nil
        step.bias = norm.hasBias ? parameters.last!!.pointer : nil
        step.epsilon = norm.epsilon
        add(TK_STEP_NORM, node) { $0.norm = step }
        return true
    }

    private mutating func lower(_ chain: Chain, _ node: Graph.Node) -> Bool {
        let shape = graph.shape(node.output)
        let operands = node.inputs.dropFirst()
        guard let (outer, inner) = Chain.pattern(operands.map(graph.shape), in: shape) else { return false }
        let links = UnsafeBox<tk_link>(count: chain.links.count)
        var rest = operands.makeIterator()
        for (index, link) in chain.links.enumerated() {
            switch link {
            case .activation(let activation):
                links.pointer[index].kind = TK_LINK_ACTIVATION
                links.pointer[index].activation = activation.kernel
            case .function(let function):
                links.pointer[index].kind = TK_LINK_UNARY
                links.pointer[index].function = function.kernel
            case .arithmetic(let kind, let isRight):
                let id = rest.next()!
                let pattern = BroadcastPattern(graph.shape(id), in: shape)!
                links.pointer[index].kind = TK_LINK_BINARY
                links.pointer[index].operation = kind.kernel
                links.pointer[index].is_right = isRight
                links.pointer[index].other = place(id)
                links.pointer[index].other_inner = pattern.walksInner ? 1 : 0
                links.pointer[index].other_outer = pattern.walksOuter ? (pattern.walksInner ? Int64(inner) : 1) : 0
            }
        }
        var step = tk_chain_step()
        (step.outer, step.inner) = (Int64(outer), Int64(inner))
        (step.x, step.y) = (place(node.inputs[0]), place(node.output))
        (step.links, step.link_count) = (UnsafePointer(links.pointer), Int32(chain.links.count))
        owned.append(links)
        add(TK_STEP_CHAIN, node) { $0.chain = step }
        return true
    }

    private mutating func lower(_ softmax: Softmax, _ node: Graph.Node) -> Bool {
        guard !softmax.isLogarithm else { return false }
        let shape = graph.shape(node.output)
        var step = tk_rows_step()
        (step.outer, step.inner) = (Int64(shape.count / max(1, shape[-1])), Int64(shape[-1]))
        (step.x, step.y) = (place(node.inputs[0]), place(node.output))
        add(TK_STEP_SOFTMAX, node) { $0.rows = step }
        return true
    }

    private mutating func lower(_ sum: Sum, _ node: Graph.Node) -> Bool {
        let shape = graph.shape(node.inputs[0])
        guard let first = sum.axes.first, sum.axes == Array(first..<first + sum.axes.count) else { return false }
        let middle = sum.axes.reduce(1) { $0 * shape[$1] }
        var step = tk_rows_step()
        step.outer = Int64(shape.dimensions[..<first].reduce(1, *))
        step.middle = Int64(middle)
        step.inner = Int64(shape.dimensions[(first + sum.axes.count)...].reduce(1, *))
        step.scale = sum.isMean ? 1 / Float(max(1, middle)) : 1
        (step.x, step.y) = (place(node.inputs[0]), place(node.output))
        add(TK_STEP_SUM, node) { $0.rows = step }
        return true
    }

    private mutating func lower(_ pool: MaxPool, _ node: Graph.Node) -> Bool {
        var step = tk_pool_step()
        step.shape = pool.kernel(graph.shape(node.inputs[0]), graph.shape(node.output))
        (step.x, step.y) = (place(node.inputs[0]), place(node.output))
        add(TK_STEP_MAX_POOL, node) { $0.pool = step }
        return true
    }

    private mutating func lower(_ product: MatrixProduct, _ node: Graph.Node) -> Bool {
        var step = tk_matrix_step()
        step.shape = product.kernel(node.inputs.map(graph.shape))
        (step.a, step.b, step.c) = (place(node.inputs[0]), place(node.inputs[1]), place(node.output))
        add(TK_STEP_MATRIX, node) { $0.matrix = step }
        return true
    }

    private mutating func lower(_ transpose: Transpose, _ node: Graph.Node) -> Bool {
        var step = tk_permute_step()
        step.rank = Int32(transpose.order.count)
        withUnsafeMutableBytes(of: &step.extents) { bytes in
            let extents = bytes.bindMemory(to: Int64.self)
            for (axis, extent) in graph.shape(node.inputs[0]).dimensions.enumerated() { extents[axis] = Int64(extent) }
        }
        withUnsafeMutableBytes(of: &step.steps) { bytes in
            let steps = bytes.bindMemory(to: Int64.self)
            for axis in transpose.order.indices { steps[axis] = Int64(placement.step(node.inputs[0], along: axis)) }
        }
        withUnsafeMutableBytes(of: &step.order) { bytes in
            let order = bytes.bindMemory(to: Int32.self)
            for (axis, from) in transpose.order.enumerated() { order[axis] = Int32(from) }
        }
        (step.x, step.y) = (place(node.inputs[0]), place(node.output))
        add(TK_STEP_PERMUTE, node) { $0.permute = step }
        return true
    }

    /// Parts that were not computed in place are copied.
    private mutating func lower(_ concatenation: Concatenate, _ node: Graph.Node) -> Bool {
        let output = graph.shape(node.output)
        let toRow = output.dimensions[concatenation.axis...].reduce(1, *)
        var start = 0
        for part in node.inputs {
            let run = graph.shape(part).dimensions[concatenation.axis...].reduce(1, *)
            var target = placement.place(node.output)
            target.offset += start
            if placement.place(part) != target {
                copyRows(
                    from: place(part), to: place(target), rows: run == 0 ? 0 : graph.shape(part).count / run, run: run,
                    fromRow: run, toRow: toRow, name: "concatenate")
            }
            start += run
        }
        return true
    }

    private mutating func lower(_ slice: Slice, _ node: Graph.Node) -> Bool {
        let (input, output) = (graph.shape(node.inputs[0]), graph.shape(node.output))
        var from = placement.place(node.inputs[0])
        from.offset += slice.range.lowerBound * input.stride(slice.axis)
        let run = output.dimensions[slice.axis...].reduce(1, *)
        copyRows(
            from: place(from), to: place(node.output), rows: run == 0 ? 0 : output.count / run, run: run,
            fromRow: input.dimensions[slice.axis...].reduce(1, *), toRow: run, name: "slice")
        return true
    }

    private mutating func copyRows(
        from: tk_place, to: tk_place, rows: Int, run: Int, fromRow: Int, toRow: Int, name: String
    ) {
        let step = tk_copy_step(
            rows: Int64(rows), run: Int64(run), from_row: Int64(fromRow), to_row: Int64(toRow), from: from, to: to)
        add(TK_STEP_COPY, nil, name: name) { $0.copy = step }
    }

    private mutating func call(_ node: Graph.Node) {
        let call = EagerCall(node.operation, node.inputs.map(graph.shape), graph.shape(node.output))
        let inputs = UnsafeBox<tk_place>(count: node.inputs.count)
        for (index, id) in node.inputs.enumerated() { inputs.pointer[index] = place(id) }
        owned += [call, inputs]
        var step = tk_call_step()
        step.context = Unmanaged.passUnretained(call).toOpaque()
        step.function = { context, inputs, output in
            Unmanaged<EagerCall>.fromOpaque(context!).takeUnretainedValue().run(inputs!, output!)
        }
        (step.inputs, step.input_count) = (UnsafePointer(inputs.pointer), Int32(node.inputs.count))
        step.output = place(node.output)
        add(TK_STEP_CALL, node) { $0.call = step }
    }
}

/// An operation that is run as it is on the memory of a program.
private final class EagerCall {
    private let operation: any Operation
    private let inputs: [Shape]
    private let output: Shape

    init(_ operation: any Operation, _ inputs: [Shape], _ output: Shape) {
        (self.operation, self.inputs, self.output) = (operation, inputs, output)
    }

    func run(_ pointers: UnsafePointer<UnsafePointer<Float>?>, _ to: UnsafeMutablePointer<Float>) {
        let tensors = inputs.indices.map { Tensor(borrowing: pointers[$0]!, inputs[$0], owner: self) }
        if let direct = operation as? any DirectOperation {
            direct.compute(tensors, into: Tensor(borrowing: to, output, owner: self))
            return
        }
        let result = Tape.pause { operation.evaluate(tensors) }
        result.withUnsafeBuffer { to.update(from: $0.baseAddress!, count: output.count) }
    }
}

/// Plain memory, zeroed, that lives as long as this object.
final class UnsafeBox<Element> {
    let pointer: UnsafeMutablePointer<Element>

    init(count: Int) {
        let memory = UnsafeMutableRawBufferPointer.allocate(
            byteCount: max(1, count) * MemoryLayout<Element>.stride, alignment: MemoryLayout<Element>.alignment)
        memory.initializeMemory(as: UInt8.self, repeating: 0)
        pointer = memory.baseAddress!.assumingMemoryBound(to: Element.self)
    }

    deinit { pointer.deallocate() }
}
