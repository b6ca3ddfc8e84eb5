import Tessera
import TesseraModels
import TesseraRuntime
import Testing

@testable import TesseraQuantization

/// Small members of families.
struct QuantizedCase: CustomTestStringConvertible, Sendable {
    let name: String
    var arguments = "{}"
    var side: Int?
    var testDescription: String { name }

    static let all = [
        QuantizedCase(name: "vit_tiny_patch16_224", arguments: #"{"img_size": 64, "depth": 2}"#),
        QuantizedCase(name: "deit_tiny_distilled_patch16_224", arguments: #"{"img_size": 64, "depth": 2}"#),
        QuantizedCase(name: "cct_2_3x2_32"),
        QuantizedCase(name: "cct_7_7x2_224", arguments: #"{"img_size": 64, "num_layers": 1}"#),
        QuantizedCase(name: "swin_tiny_patch4_window7_224", arguments: #"{"img_size": 112, "depths": [2, 2, 2, 2]}"#),
        QuantizedCase(name: "pvt_v2_b0", side: 64), QuantizedCase(name: "cvt_2_4_32"),
        QuantizedCase(name: "CvT-13@224", side: 64), QuantizedCase(name: "CMT_Ti", side: 64),
        QuantizedCase(name: "mobilevit_xxs", side: 64), QuantizedCase(name: "xcit_nano_12_p16_224", side: 64),
        QuantizedCase(name: "ViTAE_basic_Tiny", side: 64), QuantizedCase(name: "SReT_T", side: 64),
        QuantizedCase(name: "revit_b", arguments: #"{"embed_dim": 96, "depth": 2, "num_heads": 4}"#, side: 64),
    ]

    func model() throws -> (model: any ImageClassifier, shape: Shape) {
        var configuration = try Registry.entry(name).configuration
        try configuration.apply(Arguments(parsing: arguments, section: "model"))
        if let side { configuration.imageSize = Size(side) }
        try configuration.validate()
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
    private static let recipe = QuantizationRecipe(bits: .uniform(weights: 5, activations: 8))

    private func compiled(_ quantizer: ModelQuantizer, _ bits: [Int]) -> CompiledModel {
        let (annotation, model) = (quantizer.adopt(bits: bits).annotation, quantizer.model)
        return CompiledModel(annotate: { $0.quantize(annotation, names: ParameterNames(model)) }) {
            [model.features($0).logits]
        }
    }

    /// The program's whole numbers against the graph's rounded floats, one layer or attention in codes at a time. What
    /// stands before a layer is computed in another order here and there: a value at a tie may get the neighbouring code,
    /// which single layers of random weights show, and other ones on other instruction sets.
    @Test(arguments: QuantizedCase.all) func eachLayerComputesWhatIsSimulated(_ test: QuantizedCase) throws {
        let (model, shape) = try test.model()
        let image = randomImages(shape.replacing(0, with: 1), seed: 1)
        let quantizer = try ModelQuantizer(model, images: [image], recipe: Self.recipe)
        let bits = quantizer.uniformBits!
        var errors: [Float] = []
        for group in quantizer.groups {
            var alone = bits.map { _ in ModelQuantizer.floatBits }
            for unit in group.units { alone[unit] = bits[unit] }
            let plan = compiled(quantizer, alone)
            #expect(plan.plan(for: image.shape).steps.contains { $0.name.contains("in codes") }, "\(group.name)")
            let error = relativeError(plan(image)[0], quantizer.logits(image, bits: alone))
            #expect(error <= 1e-2, "\(test.name): \(group.name)")
            errors.append(Float(error))
        }
        #expect(errors.sorted()[errors.count / 2] <= 1e-4, "\(test.name): \(errors)")
    }

    /// Everything in codes: the same bits however the work is divided.
    ///
    /// Against the simulation only a loose bound means anything: one value at a tie sends others over theirs, layer after
    /// layer. The simulation of these random weights itself moves by up to 0.08 when an image changes by 5·10⁻⁶.
    @Test(arguments: QuantizedCase.all) func plansDoNotDependOnThreads(_ test: QuantizedCase) throws {
        let (model, shape) = try test.model()
        let images = randomImages(shape, seed: 1)
        let quantizer = try ModelQuantizer(model, images: [images], recipe: Self.recipe)
        let expected = quantizer.logits(images, bits: quantizer.uniformBits!)
        let plan = compiled(quantizer, quantizer.uniformBits!)
        let threads = Processor.threads
        defer { Processor.threads = threads }
        var first: Tensor?
        for count in [1, 2, 3] {
            Processor.threads = count
            let found = plan(images)[0]
            #expect(relativeError(found, expected) <= 0.15, "\(test.name)")
            #expect(found.scalars == (first ?? found).scalars, "\(test.name), \(count) threads")
            first = found
            let single = plan(images.sliced(axis: 0, from: 1, to: 2))[0]
            #expect(single.scalars == found.sliced(axis: 0, from: 1, to: 2).scalars, "\(test.name)")
        }
    }

    /// Two regions below 8 bits; at 8 the codes have no room for a second one, and clipping alone would lose outliers.
    @Test func codesOfAllBitsKeepTheWholeRange() throws {
        let (model, shape) = try QuantizedCase.all[0].model()
        let quantizer = try ModelQuantizer(model, images: [randomImages(shape, seed: 1)], recipe: Self.recipe)
        func kinds(_ bits: Int) -> [Quantizer.Kind] {
            let (annotation, _) = quantizer.quantization(bits: quantizer.uniformBits!.map { _ in bits })
            return annotation.layers.values.map(\.input.kind) + annotation.attentions.values.map(\.weights.kind)
        }
        #expect(kinds(5).contains { $0 != .uniform })
        #expect(kinds(8).allSatisfy { $0 == .uniform })
    }
}
