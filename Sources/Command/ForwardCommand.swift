import ArgumentParser
import Tessera
import TesseraIO
import TesseraModels

struct ForwardCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "forward",
        abstract: "Raw tensors in, raw tensors out: holds a model against its PyTorch original.",
        discussion: """
            The fixture's metadata name the model (system, reference, config), its tensors are param.KEY, input and
            cotangent, in PyTorch's layout. The output file has output and, with --gradients, grad_input and grad.KEY.
            Example: tessera forward case.safetensors --out result.safetensors --gradients
            """)

    @Argument(help: "A safetensors file with metadata, parameters and input.")
    var fixture: String

    @Option(help: "The file to write.")
    var out: String

    @Flag(help: "Also the gradients of sum(output × cotangent), in evaluation mode.")
    var gradients = false

    @OptionGroup var compute: ComputeOptions

    func perform() throws {
        compute.apply()
        let file = try Safetensors(fixture)
        let tensors = Dictionary(uniqueKeysWithValues: try file.tensors())
        let results: [(key: String, tensor: Tensor)]
        do {
            let reference = try ReferenceCase(metadata: file.metadata, tensors: tensors)
            results = try (compute.precision ?? .float32).use { try reference.run(gradients: gradients) }
        } catch let error as any Error & CustomStringConvertible { throw FileProblem(file: fixture, error: error) }
        try Safetensors.write(results.map { ($0.key, $0.tensor) }, metadata: file.metadata, to: out)
    }
}

/// An error with the file that it is about.
struct FileProblem: Error, CustomStringConvertible {
    let file: String
    let error: any Error

    var description: String { "\(file): \(error)" }
}
