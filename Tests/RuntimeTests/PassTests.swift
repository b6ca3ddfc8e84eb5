import Tessera
import TesseraModels
import TesseraNN
import Testing

@testable import TesseraRuntime

/// Every rewrite keeps what a graph computes, and does what it is for.
@Suite struct PassTests {
    @Test(arguments: PlanCase.all) func everyPassKeepsTheResults(_ test: PlanCase) throws {
        let (model, configuration) = try test.model()
        let images = input(configuration, batch: 1)
        var graph = Graph(input: images.shape, tracing: everything(model))
        let expected = graph.evaluate(images)
        for (name, run) in Graph.passes {
            run(&graph)
            for (found, expected) in zip(graph.evaluate(images), expected) {
                #expect(found.shape == expected.shape, "\(name)")
                #expect(relativeError(found, expected) <= 1e-5, "\(name)")
            }
        }
    }

    /// A stem with everything that passes look for, and operations that no step knows.
    final class Stem: Module {
        let conv = Convolution2D(3, 8, kernel: 3, stride: 2, padding: 1, bias: false)
        let norm = BatchNorm(8)
        let depthwise = Convolution2D(8, 8, kernel: 3, padding: 1, groups: 8)
        let fc = Linear(8, 6)
        let scale = LayerScale(6, initialValue: 0.5)
        let fc2 = Linear(6, 6)

        func callAsFunction(_ image: Tensor) -> Tensor {
            let x = depthwise(norm(conv(image)).relu()).hardSwish()
            let y = fc(x.gathered([3, 1, 0], axis: 1).reshaped([x.shape[0], 3 * x.shape[2], 8]))
            let z = (y + scale(fc2(y))) * 0.5 + y.mean(axes: [1], keepingAxes: true)
            return concatenate([z, maximum(z, 1 - z)], axis: 2)
        }
    }

    private func stem() -> Stem {
        let stem = Stem()
        stem.initialize(seed: 4)
        var generator = RandomGenerator(seed: 5)
        for (key, parameter) in stem.parameters where key.hasPrefix("norm") {
            parameter.value = Tensor(parameter.shape) { for i in $0.indices { $0[i] = 0.5 + generator.uniform() } }
        }
        return stem
    }

    @Test func anythingElseRunsAsItIs() {
        let stem = stem()
        let compiled = CompiledModel { [stem($0)] }
        for batch in [1, 2, 5] {
            let images = Tensor.random([batch, 12, 10, 3], seed: 6)
            #expect(relativeError(compiled(images)[0], stem(images)) <= 2e-5)
        }
    }

    /// A block, whose queries, keys and values, their mean and the hidden layer only products read.
    final class Block: Module {
        let norm = LayerNorm(8, epsilon: 1e-5)
        let attention = SelfAttention(8, heads: 2, qkvBias: true)
        let mlp: FeedForward

        init(hidden: Int) { mlp = FeedForward(8, hidden: hidden) }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let x = attention(norm(x), residual: x)
            return mlp(norm(x), residual: x)
        }
    }

    /// In bfloat16 they lie in half of the memory, unless somebody else reads them or their rows are odd.
    @Test func valuesForProductsAreRounded() {
        func graph(hidden: Int, _ precision: Precision) -> Graph {
            let block = Block(hidden: hidden)
            block.initialize(seed: 4)
            return precision.use { Graph(input: [1, 5, 8]) { [block($0)] } }
        }
        #expect(graph(hidden: 12, .bfloat16).optimized().roundedValues.count == 3)
        #expect(graph(hidden: 13, .bfloat16).optimized().roundedValues.count == 2)
        #expect(graph(hidden: 12, .float32).optimized().roundedValues.isEmpty)
        let arenas = [graph(hidden: 64, .bfloat16), graph(hidden: 64, .float32)].map { Plan($0).arenaCount }
        #expect(arenas[0] < arenas[1] * 2 / 3, "\(arenas)")
        let weights = (0..<2).map { Tensor.random([8, 8], seed: $0) }
        let shared = Precision.bfloat16.use {
            Graph(input: [1, 5, 8]) { x in
                let y = linear(x, weight: weights[0])
                return [linear(y, weight: weights[1]) * 2 + y]
            }
        }
        #expect(shared.optimized().roundedValues.isEmpty)
    }

    /// A bias that stands behind a product as an addition, as imported graphs have it.
    @Test func addedVectorsBecomeBiases() {
        let weight = Tensor.random([6, 4], seed: 1)
        let vectors = [Tensor.random([6], seed: 2), Tensor.random([1, 1, 6], seed: 3)]
        let function = { (x: Tensor) in [vectors[1] + (linear(x, weight: weight, bias: nil) + vectors[0])] }
        let graph = Graph(input: [1, 5, 4], tracing: function).optimized()
        let product = graph.nodes.first?.operation as? Product
        #expect(graph.nodes.count == 1 && product?.has(.bias) == true && product?.has(.residual) == false)
        let x = Tensor.random([1, 5, 4], seed: 4)
        #expect(relativeError(graph.evaluate(x)[0], function(x)[0]) <= 1e-6)
    }

    /// Keys and values of one input are one product, whose halves the attention reads in place, windows or not.
    @Test(arguments: [1, 3]) func keysAndValuesAreOneProduct(_ windows: Int) {
        let weights = (0..<3).map { Tensor.random([12, 8], seed: 20 + UInt64($0)) }
        let biases = (0..<3).map { Tensor.random([12], seed: 30 + UInt64($0)) }
        let function = { (x: Tensor) -> [Tensor] in
            let batch = x.shape[0]
            let x = x.reshaped([batch * windows, 6 / windows, 8])
            let kept = layerNorm(x, weight: nil, bias: nil, epsilon: 1e-5)
            let parts = (0..<3).map { linear($0 == 0 ? x : kept, weight: weights[$0], bias: biases[$0]) }
            return [attention(parts[0], parts[1], parts[2], heads: 2).reshaped([batch, 6, 12])]
        }
        let graph = Graph(input: [1, 6, 8], tracing: function).optimized()
        let products = graph.nodes.compactMap { $0.operation as? Product }
        #expect(products.count == 2 && products[1].norm != nil)
        let plan = Plan(Graph(input: [1, 6, 8], tracing: function))
        #expect(plan.steps.map(\.name) == ["linear", "norm → linear", "attention"])
        for batch in [1, 3] {
            let x = Tensor.random([batch, 6, 8], seed: 40)
            #expect(relativeError(plan(x)[0], function(x)[0]) <= 1e-5)
        }
    }

    /// Slices of channels whose heads are transposed stay where they are; one that something else reads is copied.
    @Test func slicesAreTransposedInPlace() {
        let weight = Tensor.random([24, 8], seed: 60)
        let function = { (x: Tensor) -> [Tensor] in
            let channels = linear(x, weight: weight, bias: nil)
            let parts = (0..<3).map { channels.sliced(axis: 2, from: 8 * $0, to: 8 * $0 + 8) }
            let heads = parts.map { $0.reshaped([x.shape[0], 5, 2, 4]).transposed([0, 2, 3, 1]) }
            return [heads[0] * heads[1] + heads[2], parts[2].relu()]
        }
        let plan = Plan(Graph(input: [1, 5, 8], tracing: function))
        #expect(plan.steps.filter { $0.name == "slice" }.count == 1)
        #expect(plan.steps.filter { $0.name == "transpose" }.count == 3)
        for batch in [1, 3] {
            let x = Tensor.random([batch, 5, 8], seed: 61)
            for (found, expected) in zip(plan(x), function(x)) { #expect(relativeError(found, expected) <= 1e-5) }
        }
    }

    /// Columns of a map are no channels, though there be as many of them as of those.
    @Test func slicesOfColumnsAreCopied() {
        let function = { (x: Tensor) in [x.relu().sliced(axis: 2, from: 1, to: 4).transposed([0, 3, 1, 2])] }
        let x = Tensor.random([1, 2, 5, 3], seed: 62)
        #expect(Plan(Graph(input: x.shape, tracing: function))(x)[0].scalars == function(x)[0].scalars)
    }

    @Test func affineMapsDisappear() {
        let stem = stem()
        let graph = Graph(input: [1, 12, 10, 3]) { [stem($0)] }.optimized()
        #expect(!graph.nodes.contains { $0.operation is FixedBatchNormalization })
        let products = graph.nodes.compactMap { $0.operation as? Product }
        #expect(products.count == 4)
        // BatchNorm and ReLU went into the convolution; layer scale and the residual into the second linear layer.
        #expect(products[0].activation == .relu && products[0].has(.bias))
        #expect(products[1].activation == .hardSwish)
        #expect(products[3].has(.residual))
    }

    @Test func aTransformerBecomesFiveStepsALayer() throws {
        let depth = 3
        var configuration = VisionTransformer.Configuration.tiny16
        (configuration.depth, configuration.imageSize, configuration.layerScale) = (depth, Size(32), 0.1)
        let model = VisionTransformer(configuration)
        model.initialize(seed: 1)
        let graph = Graph(input: [1, 32, 32, 3]) { [model.features($0).logits] }.optimized()
        let steps = graph.nodes.filter { !graph.isReshape($0) }.map { type(of: $0.operation).name }
        // Patches with their positions; norm, qkv; attention; projection and residual; norm, fc1, GELU; fc2 and residual.
        #expect(steps.first == "product")
        #expect(steps.filter { $0 == "product" }.count == 1 + 4 * depth + 1)
        #expect(steps.filter { $0 == "attention" }.count == depth)
        #expect(!steps.contains("layerNorm") && !steps.contains("arithmetic"))
        // The last layer computes the class token only, but for its keys and values.
        let last = try #require(graph.nodes.last { $0.operation is QueryAttention })
        #expect(graph.shape(last.output) == [1, 1, 192])
        #expect(graph.shape(graph.nodes.last!.inputs[0]) == [1, 192])
    }

    @Test func chainsJoin() {
        let shift = Tensor([1, 2, 3, 4], [4])
        let graph = Graph(input: [1, 3, 4]) { [(($0 * 2).relu() + shift).sigmoid() - $0] }.optimized()
        #expect(graph.nodes.count == 1)
        let image = Tensor.random([1, 3, 4], seed: 2)
        let expected = ((image * 2).relu() + shift).sigmoid() - image
        #expect(
            relativeError(
                Plan(Graph(input: [1, 3, 4]) { [(($0 * 2).relu() + shift).sigmoid() - $0] })(image)[0], expected) < 1e-6
        )
    }

    @Test func buffersNeverOverlapInTime() {
        var generator = RandomGenerator(seed: 8)
        for _ in 0..<50 {
            let buffers = (0..<20).map { _ in
                let start = Int(generator.uniform() * 30)
                return MemoryPlan.Buffer(
                    count: 1 + Int(generator.uniform() * 500), lifetime: start...start + Int(generator.uniform() * 6))
            }
            let plan = MemoryPlan(buffers)
            for i in buffers.indices {
                #expect(plan.offsets[i] % MemoryPlan.alignment == 0)
                #expect(plan.offsets[i] + buffers[i].count <= plan.size)
                for j in 0..<i where buffers[i].lifetime.overlaps(buffers[j].lifetime) {
                    #expect(
                        plan.offsets[i] + buffers[i].count <= plan.offsets[j]
                            || plan.offsets[j] + buffers[j].count <= plan.offsets[i])
                }
            }
            #expect(plan.size < buffers.reduce(0) { $0 + MemoryPlan.aligned($1.count) })
        }
    }
}
