import Foundation
import Tessera
import TesseraNN
import Testing

@testable import TesseraModels

/// Second-order pooling and its normalisations on their own.
@Suite struct SoTTests {
    /// Output and input gradient of one tag of a file of reference values.
    private func check(
        _ tensors: [String: Tensor], _ tag: String, gradientKey: String? = nil, tolerance: Float = 5e-5,
        _ body: (Tensor) -> Tensor
    ) throws {
        let input = Tape.leaf(try #require(tensors["input.\(tag)"]))
        let expected = try #require(tensors["output.\(tag)"])
        let tape = Tape()
        let output = tape.record { body(input).reshaped(expected.shape) }
        #expect(relativeError(output, expected) <= tolerance, "\(tag)")
        let gradients = tape.gradients(of: output, cotangent: tensors["cotangent.\(tag)"])
        let error = relativeError(
            try #require(gradients[input]), try #require(tensors[gradientKey ?? "grad_input.\(tag)"]))
        #expect(error <= tolerance, "\(tag): \(error)")
    }

    /// The exact form iterates 60 times; float32 loses digits in the deflation, and two implementations differ by as much.
    @Test(
        arguments: [
            ("sv1_it1", 0.5, 1, 1, 5e-5), ("sv1_it3", 0.5, 3, 1, 5e-5), ("sv2_it2", 0.5, 2, 2, 5e-5),
            ("rect", 0.7, 2, 2, 5e-5), ("exact", 0.5, 60, nil, 1e-3), ("triu", 0.5, 1, 1, 5e-5),
        ] as [(String, Float, Int, Int?, Float)])
    func singularValuePowers(
        _ tag: String, _ exponent: Float, _ iterations: Int, _ count: Int?, _ tolerance: Float
    ) throws {
        let (_, tensors) = try FixtureFolder.tensors(FixtureFolder.path("sot", "svpn.safetensors"))
        let start = Tape.leaf(try #require(tensors["param.\(tag).weight"]))
        let input = Tape.leaf(try #require(tensors["input.\(tag)"]))
        let expected = try #require(tensors["output.\(tag)"])
        let tape = Tape()
        let output = tape.record {
            let y = singularValuePower(
                input, start: start, exponent: exponent, iterations: iterations, count: count)
            return (tag == "triu" ? y.upperTriangle() : y).reshaped(expected.shape)
        }
        #expect(relativeError(output, expected) <= tolerance)
        let gradients = tape.gradients(of: output, cotangent: tensors["cotangent.\(tag)"])
        let error = relativeError(try #require(gradients[input]), try #require(tensors["grad_input.\(tag)"]))
        #expect(error <= tolerance, "\(tag): \(error)")
        let ofStart = try #require(gradients[start])
        let expectedOfStart = try #require(tensors["grad.\(tag).weight"])
        if tag == "exact" {
            // Where the iteration starts does not matter once it has converged.
            #expect(ofStart.scalars.allSatisfy { abs($0) < 1e-2 })
        } else {
            #expect(relativeError(ofStart, expectedOfStart, floor: 1e-5) <= tolerance)
        }
        // The length of the start does not matter, so nothing flows along it.
        let along = zip(ofStart.scalars, start.scalars).reduce(0) { $0 + $1.0 * $1.1 }
        #expect(abs(along) <= 1e-3 * max(1, ofStart.scalars.map(abs).max() ?? 0))
    }

    @Test func covariances() throws {
        let (_, tensors) = try FixtureFolder.tensors(FixtureFolder.path("sot", "svpn.safetensors"))
        try check(tensors, "cov") { crossCovariance($0, $0, count: $0.shape[2]) }
        let inputs = try ["x", "y"].map { Tape.leaf(try #require(tensors["input.crosscov.\($0)"])) }
        let tape = Tape()
        let output = tape.record { crossCovariance(inputs[0], inputs[1]) }
        #expect(relativeError(output, try #require(tensors["output.crosscov"])) <= 2e-6)
        let gradients = tape.gradients(of: output, cotangent: tensors["cotangent.crosscov"])
        for (leaf, name) in zip(inputs, ["x", "y"]) {
            let expected = try #require(tensors["grad_input.crosscov.\(name)"])
            #expect(relativeError(try #require(gradients[leaf]), expected) <= 5e-5)
        }
    }

    /// The reference's own gradient is the transpose of the true one, which it keeps beside it.
    @Test(arguments: [("it1", 1), ("it2", 2), ("it3", 3), ("it5", 5)])
    func matrixSquareRoots(_ tag: String, _ iterations: Int) throws {
        let (_, tensors) = try FixtureFolder.tensors(FixtureFolder.path("sot", "isqrt.safetensors"))
        try check(tensors, tag, gradientKey: "feature.\(tag).autograd_grad_input") {
            matrixSquareRoot($0, iterations: iterations)
        }
    }

    @Test func upperTriangles() throws {
        let (_, tensors) = try FixtureFolder.tensors(FixtureFolder.path("sot", "isqrt.safetensors"))
        try check(tensors, "triuvec") { $0.upperTriangle() }
    }

    @Test func zeroHasAFiniteGradient() throws {
        let input = Tape.leaf(Tensor(zeros: [2, 4, 4]))
        let tape = Tape()
        let output = tape.record { singularValuePower(input, start: Tensor(repeating: 1, [4]), exponent: 0.5).sum() }
        let gradient = try #require(tape.gradients(of: output)[input])
        #expect(output.scalars[0].isFinite && gradient.scalars.allSatisfy(\.isFinite))
    }

    @Test func positionsAreThoseOfTheReference() throws {
        let (metadata, tensors) = try FixtureFolder.tensors(FixtureFolder.path("sot", "naive_gcp_sumfc.safetensors"))
        let model = try ReferenceCase(metadata: metadata, tensors: tensors).model
        model.initialize(seed: 1)
        let table = try #require(model.parameters.first { $0.key == "pos_embed" }).parameter.value
        #expect(relativeError(table, try #require(tensors["param.pos_embed"])) <= 2e-7)
    }
}
