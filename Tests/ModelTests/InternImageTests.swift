import Foundation
import Tessera
import TesseraNN
import Testing

@testable import TesseraModels

/// The parts of InternImage on their own.
@Suite struct InternImageTests {
    static let operations = FixtureFolder.cases("internimage").filter { $0.contains("/op_") }

    @Test(arguments: operations) func samplingMatchesItsReference(_ path: String) throws {
        let (metadata, tensors) = try FixtureFolder.tensors(path)
        let config = try Arguments(parsing: try #require(metadata["config"]), section: "config")
        let inputs = try ["input", "input.offset", "input.mask"].map { Tape.leaf(try #require(tensors[$0])) }
        let tape = Tape()
        let output = try tape.record {
            deformableConvolution(
                inputs[0], offsets: inputs[1], masks: inputs[2], groups: try config.int("group"),
                kernel: (try config.int("kernel_h"), try config.int("kernel_w")), stride: try config.int("stride_h"),
                padding: try config.int("pad_h"), dilation: try config.int("dilation_h"),
                offsetScale: Float(try config.double("offset_scale")),
                removesCenter: try config.int("remove_center") == 1)
        }
        #expect(relativeError(output, try #require(tensors["output"])) <= 2e-5)
        let gradients = tape.gradients(of: output, cotangent: tensors["cotangent"])
        for (leaf, key) in zip(inputs, ["grad_input", "grad_input.offset", "grad_input.mask"]) {
            let error = relativeError(try #require(gradients[leaf]), try #require(tensors[key]))
            #expect(error <= 5e-5, "\(key): \(error)")
        }
    }

    /// With a large depthwise kernel, without the middle tap, and with the share of the token itself.
    @Test func mixingMatchesItsReference() throws {
        let (_, tensors) = try FixtureFolder.tensors(
            FixtureFolder.path("internimage", "module_dcnv3_full.safetensors"))
        var configuration = InternImage.Configuration.tiny
        (configuration.kernel, configuration.scalesCenter, configuration.removesCenter) = (5, true, true)
        configuration.offsetScale = 2
        let module = InternImage.DeformableMixing(configuration, 12, groups: 3)
        let parameters = tensors.filter { $0.key.hasPrefix("param.") }.map { (String($0.key.dropFirst(6)), $0.value) }
        try module.load(Dictionary(uniqueKeysWithValues: parameters))
        let input = Tape.leaf(try #require(tensors["input"]))
        let tape = Tape()
        let output = tape.record { module(input) }
        #expect(relativeError(output, try #require(tensors["output"])) <= 2e-5)
        let gradients = tape.gradients(of: output, cotangent: tensors["cotangent"])
        #expect(relativeError(try #require(gradients[input]), try #require(tensors["grad_input"])) <= 5e-5)
        for (key, parameter) in module.parameters {
            let found = parameter.exported(try #require(gradients[parameter.tensor], "\(key)"))
            // The softmax ignores what it is given in common: that gradient is rounding noise.
            #expect(relativeError(found, try #require(tensors["grad.\(key)"]), floor: 1e-5) <= 5e-5, "\(key)")
        }
    }
}
