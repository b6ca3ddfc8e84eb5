import CKernels
import Tessera
import TesseraModels
import TesseraRuntime
import Testing

/// The greatest difference between two tensors, relative to the greatest value of the expected one.
func relativeError(_ found: Tensor, _ expected: Tensor) -> Float {
    let largest = expected.scalars.map(abs).max() ?? 0
    let difference = zip(found.scalars, expected.scalars).map { abs($0 - $1) }.max() ?? 0
    return difference == 0 ? 0 : difference / max(largest, .leastNormalMagnitude)
}

/// Small configurations of every family, and what the model computes.
struct PlanCase: CustomTestStringConvertible, Sendable {
    let name: String
    let arguments: String
    var testDescription: String { "\(name) \(arguments)" }

    static let all = [
        PlanCase(name: "vit_tiny_patch16_224", arguments: #"{"img_size": 64, "depth": 2, "num_classes": 7}"#),
        PlanCase(
            name: "vit_tiny_patch16_224",
            arguments: #"{"img_size": [48, 32], "depth": 2, "num_classes": 5, "init_values": 0.1, "qkv_bias": false}"#),
        PlanCase(
            name: "vit_tiny_patch16_224",
            arguments: #"{"img_size": 48, "depth": 2, "num_classes": 5, "no_embed_class": true}"#),
        PlanCase(name: "vit_base_patch16_gap_224", arguments: #"{"img_size": 32, "depth": 1, "num_classes": 5}"#),
        PlanCase(
            name: "vit_tiny_patch16_224",
            arguments: #"{"img_size": 64, "depth": 2, "num_classes": 3, "global_pool": "avg", "class_token": false}"#),
        PlanCase(name: "deit_tiny_distilled_patch16_224", arguments: #"{"img_size": 64, "depth": 2}"#),
        PlanCase(name: "cct_2_3x2_32", arguments: "{}"), PlanCase(name: "cct_2_3x2_32_sine", arguments: "{}"),
        PlanCase(name: "cct_7_7x2_224", arguments: #"{"img_size": 64, "num_layers": 1}"#),
        PlanCase(name: "cvt_2_4_32", arguments: "{}"), PlanCase(name: "vit_2_4_32", arguments: "{}"),
    ]

    func model(seed: UInt64 = 3) throws -> (model: any ImageClassifier, configuration: any ClassifierConfiguration) {
        var configuration = try Registry.entry(name).configuration
        try configuration.apply(Arguments(parsing: arguments, section: "model"))
        let model = configuration.makeModel()
        model.initialize(seed: seed)
        var generator = RandomGenerator(seed: seed + 1)
        // Norms and biases that are not one and zero.
        for (_, parameter) in model.parameters where parameter.shape.rank == 1 {
            parameter.value = parameter.value + Tensor(zeros: parameter.shape).randomized(&generator, scale: 0.3)
        }
        return (model, configuration)
    }
}

extension Tensor {
    func randomized(_ generator: inout RandomGenerator, scale: Float) -> Tensor {
        Tensor(shape) { for i in $0.indices { $0[i] = scale * generator.normal() } }
    }

    static func random(_ shape: Shape, seed: UInt64) -> Tensor {
        var generator = RandomGenerator(seed: seed)
        return Tensor(zeros: shape).randomized(&generator, scale: 1)
    }
}

/// Logits, pooled features and tokens.
func everything(_ model: any ImageClassifier) -> (Tensor) -> [Tensor] {
    { image in
        let features = model.features(image)
        return [features.logits, features.pooled, features.tokens]
    }
}

func input(_ configuration: any ClassifierConfiguration, batch: Int, extra: Int = 0) -> Tensor {
    let size = configuration.imageSize
    return Tensor.random([batch, size.height + extra, size.width + extra, configuration.channels], seed: 9)
}

@Suite(.serialized) struct PlanTests {
    @Test(arguments: PlanCase.all) func agreesWithEager(_ test: PlanCase) throws {
        let (model, configuration) = try test.model()
        let compiled = CompiledModel(everything(model))
        let logitsOnly = CompiledModel { [model($0)] }
        for (batch, extra) in [(1, 0), (2, 0), (5, 0), (3, 16)] {
            let images = input(configuration, batch: batch, extra: extra)
            let expected = everything(model)(images)
            for (found, expected) in zip(compiled(images) + logitsOnly(images), expected + [expected[0]]) {
                #expect(found.shape == expected.shape)
                #expect(relativeError(found, expected) <= 2e-5)
            }
        }
    }
}
