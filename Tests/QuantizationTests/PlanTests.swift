import CKernels
import Tessera
import TesseraModels
import TesseraRuntime
import Testing

@testable import TesseraQuantization

/// Small members of every family.
struct QuantizedCase: CustomTestStringConvertible, Sendable {
    let name: String
    let arguments: String
    var testDescription: String { name }

    static let all = [
        QuantizedCase(name: "vit_tiny_patch16_224", arguments: #"{"img_size": 64, "depth": 2}"#),
        QuantizedCase(name: "deit_tiny_distilled_patch16_224", arguments: #"{"img_size": 64, "depth": 2}"#),
        QuantizedCase(name: "cct_2_3x2_32", arguments: "{}"),
        QuantizedCase(name: "cct_7_7x2_224", arguments: #"{"img_size": 64, "num_layers": 1}"#),
        QuantizedCase(name: "swin_tiny_patch4_window7_224", arguments: #"{"img_size": 112, "depths": [2, 2, 2, 2]}"#),
        QuantizedCase(name: "pvt_v2_b0", arguments: "{}"),
    ]

    func model() throws -> (model: any ImageClassifier, shape: Shape) {
        var configuration = try Registry.entry(name).configuration
        try configuration.apply(Arguments(parsing: arguments, section: "model"))
        let model = configuration.makeModel()
        model.initialize(seed: 3)
        return (model, [3, configuration.imageSize.height, configuration.imageSize.width, configuration.channels])
    }
}

func randomImages(_ shape: Shape, seed: UInt64) -> Tensor {
    var generator = RandomGenerator(seed: seed)
    return Tensor(shape) { for i in $0.indices { $0[i] = generator.normal() } }
}

@Suite struct QuantizedPlanTests {
    /// The program's whole numbers against the graph's rounded floats; the same bits however work is divided.
    @Test(arguments: QuantizedCase.all) func plansComputeWhatIsSimulated(_ test: QuantizedCase) throws {
        let (model, shape) = try test.model()
        let images = randomImages(shape, seed: 1)
        let recipe = QuantizationRecipe(bits: .uniform(weights: 5, activations: 8))
        let quantizer = try ModelQuantizer(model, images: [images], recipe: recipe)
        let bits = quantizer.uniformBits!
        let expected = quantizer.logits(images, bits: bits)
        let annotation = quantizer.adopt(bits: bits).annotation
        let compiled = CompiledModel(annotate: { $0.quantize(annotation, names: ParameterNames(model)) }) {
            [model.features($0).logits]
        }
        let threads = Processor.threads
        defer { Processor.threads = threads }
        var first: Tensor?
        for count in [1, 2, 3] {
            Processor.threads = count
            let found = compiled(images)[0]
            // A value at a tie may get the code above or below, and later codes follow it.
            #expect(relativeError(found, expected) <= 0.02, "\(test.name)")
            #expect(found.scalars == (first ?? found).scalars, "\(test.name), \(count) threads")
            first = found
            let single = compiled(images.sliced(axis: 0, from: 1, to: 2))[0]
            #expect(single.scalars == found.sliced(axis: 0, from: 1, to: 2).scalars, "\(test.name)")
        }
        let plan = compiled.plan(for: shape)
        #expect(plan.steps.contains { $0.name.contains("in codes") }, "\(test.name)")
    }
}
