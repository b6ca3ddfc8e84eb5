import Tessera
import TesseraIO
import TesseraModels
import TesseraNN
import TesseraRuntime
import Testing

@testable import TesseraONNX

/// Codes as nodes, computed by the operators' definitions: the reference for what runtimes make of them.
@Suite struct QuantizedFormTests {
    /// The value of a name, for elementwise nodes over one vector.
    private static func evaluate(_ builder: ONNXBuilder, _ x: [Float], _ result: String) -> [Float] {
        var values: [String: [Float]] = ["x": x]
        for constant in builder.constants {
            switch constant.tensor {
            case .floats(let tensor): values[constant.name] = tensor.scalars
            case .codes(let codes, _): values[constant.name] = codes.map(Float.init)
            case .integers: break
            }
        }
        for node in builder.nodes {
            let operands = node.inputs.map { values[$0]! }
            values[node.outputs[0]] = x.indices.map { index in
                let a = operands.map { $0[$0.count == 1 ? 0 : index] }
                return switch node.operation {
                case "Clip": min(max(a[0], a[1]), a[2])
                case "QuantizeLinear": min(max((a[0] / a[1]).rounded(.toNearestOrEven) + a[2], -128), 127)
                case "DequantizeLinear": (a[0] - a[2]) * a[1]
                case "Add": a[0] + a[1]
                case "Less": a[0] < a[1] ? 1 : 0
                case "Where": a[0] != 0 ? a[1] : a[2]
                default: preconditionFailure(node.operation)
                }
            }
        }
        return values[result]!
    }

    @Test(arguments: [
        Quantizer(bits: 8, scale: 0.02), Quantizer(bits: 5, scale: 0.1), Quantizer(bits: 4, scale: 0.3),
        Quantizer(kind: .splitSigns, bits: 8, scale: 0.02),
        Quantizer(kind: .splitSigns, bits: 6, scale: 0.01, shift: 2),
        Quantizer(kind: .splitSigns, bits: 4, scale: 0.02, shift: 4),
        Quantizer(kind: .splitSizes, bits: 5, scale: 0.004, shift: 3),
        Quantizer(kind: .splitSizes, bits: 4, scale: 0.01, shift: 1),
        Quantizer(kind: .splitSizes, bits: 6, scale: 0.01),
    ]) func nodesRoundAsPlansDo(_ quantizer: Quantizer) {
        // Values after GELU and softmax; none beyond the range where 8 bits have a code of their own for it.
        let low: Float = quantizer.kind == .splitSizes ? 0 : quantizer.kind == .splitSigns ? -0.17 : -2.5
        // A prime number of steps: few values lie in the middle between two codes.
        let x = (0...4001).map { low + (2.5 - low) * Float($0) / 4001 }
        var builder = ONNXBuilder(parameters: [])
        let name = builder.rounded("x", quantizer)
        let values = Self.evaluate(builder, x, name)
        let expected = quantizer.rounded(Tensor(x, [x.count])).scalars
        // Between two codes the last bit of a quotient decides.
        let differing = zip(values, expected).filter { abs($0 - $1) > quantizer.scale / 2 }
        #expect(differing.count <= x.count / 500, "\(differing.prefix(3))")
    }

    /// A model in codes leaves with one pair of operators a layer, its weights as codes, and the scales of their rows.
    @Test func weightsLeaveAsCodes() throws {
        var configuration = try Registry.entry("vit_tiny_patch16_224").configuration
        try configuration.apply(
            Arguments(JSON(parsing: #"{"img_size": 32, "depth": 2, "embed_dim": 48, "num_classes": 3}"#), section: ""))
        let model = configuration.makeModel()
        model.initialize(seed: 1)
        let keys = model.parameters.map(\.key).filter { $0.hasPrefix("blocks.") && $0.hasSuffix(".weight") }
        let weights = Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.key, $0.parameter) })
        let layers = keys.filter { weights[$0]!.shape.rank == 2 }
        for key in layers { weights[key]!.value = QuantizedWeight(weights[key]!.value, bits: 4).tensor }
        let code = Quantizer(bits: 8, scale: 0.05)
        let quantization = Quantization(
            layers: Dictionary(
                uniqueKeysWithValues: layers.map { ($0, Quantization.Layer(weightBits: 4, input: code)) }),
            attentions: [1: .init(q: code, k: code, v: code, weights: code)])
        let exported = try ONNXExporter.export(
            image: [1, 32, 32, 3], outputs: ["logits"], parameters: model.parameters,
            annotate: { $0.quantize(quantization, names: ParameterNames(model)) },
            tracing: { [model.features($0).logits] })
        // An input of every layer, four operands of one attention.
        #expect(exported.nodes.count { $0.operation == "QuantizeLinear" } == layers.count + 4)
        #expect(exported.nodes.count { $0.operation == "DequantizeLinear" } == 2 * layers.count + 4)
        let constants = Dictionary(uniqueKeysWithValues: exported.constants.map { ($0.name, $0.tensor) })
        let found = exported.nodes.filter { $0.operation == "DequantizeLinear" && $0.inputs.count == 2 }
        #expect(found.count == layers.count)
        var sums: [Float] = []
        for node in found {
            guard case .codes(let codes, let shape)? = constants[node.inputs[0]],
                case .floats(let scales)? = constants[node.inputs[1]],
                case .integer(let axis)? = node.attributes["axis"]
            else {
                Issue.record("\(node.inputs)")
                continue
            }
            #expect(codes.allSatisfy { abs($0) <= 7 } && codes.contains { abs($0) == 7 })
            #expect(scales.count == shape[axis])
            let floats = Tensor(codes.map(Float.init), shape)
            let rows = axis == 0 ? floats * scales.reshaped([scales.count, 1]) : floats * scales
            sums.append(rows.scalars.reduce(0) { $0 + abs($1) })
        }
        let expected = layers.map { weights[$0]!.value.scalars.reduce(0) { $0 + abs($1) } }
        for (sum, expected) in zip(sums.sorted(), expected.sorted()) { #expect(abs(sum - expected) < 1e-3 * expected) }
    }
}
