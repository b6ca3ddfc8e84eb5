import ArgumentParser
import Foundation
import TesseraIO
import TesseraInterchange
import TesseraNN
import TesseraONNX
import TesseraTraining

struct ExportCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Writes a trained model for other programs.",
        discussion: """
            safetensors: one file under the names of the reference implementation, with config.json beside it.
            timm: a folder that timm.create_model("local-dir:FOLDER", pretrained=True) loads.
            onnx: a graph from input [batch, channels, height, width] to logits, for any number of images; its metadata
            say how images are preprocessed and what the classes are called. A quantized run keeps its codes.
            Example: tessera export runs/first --format timm --out exported
            """)

    enum Format: String, CaseIterable, ExpressibleByArgument {
        case safetensors, timm, onnx
    }

    @Argument(help: ArgumentHelp("A run folder, or a weight file beside its config.json.", valueName: "run"))
    var model: String

    @Option(help: "The form to write.")
    var format: Format

    @Option(help: "The file to write, or the folder for timm.")
    var out: String

    @Option(help: "How numbers are stored (not in ONNX: float32).")
    var dtype = Safetensors.FloatType.float32

    @Flag(help: "ONNX: weights in a file beside the graph, with .data behind its name (always so beyond 1.9 GB).")
    var externalData = false

    func validate() throws {
        guard format == .onnx ? dtype == .float32 : !externalData else {
            throw ValidationError(
                format == .onnx
                    ? "--dtype: found \(dtype.rawValue), expected float32 for ONNX"
                    : "--external-data: found beside --format \(format.rawValue), expected onnx")
        }
    }

    func perform() throws {
        let trained = try TrainedModel(model)
        switch format {
        case .safetensors:
            let folder = URL(fileURLWithPath: out).deletingLastPathComponent().path
            let note = "\(folder)/\(RunFolder.configurationName)"
            guard !FileManager.default.fileExists(atPath: note) else {
                throw FormatError(file: note, found: "a file", expected: "a folder without one, to write it")
            }
            try Safetensors.write(
                trained.model.stateDictionary.map { ($0.key, $0.tensor) }, metadata: ["format": "pt"], as: dtype,
                to: out)
            try AtomicFile.write(trained.configuration.json.text(indented: true) + "\n", to: note)
        case .onnx:
            try ONNXExporter.export(trained.model, trained.configuration, quantization: trained.quantization)
                .write(to: out, externalData: externalData ? true : nil)
        case .timm: try TimmExport(trained.model, trained.configuration).write(to: out, as: dtype)
        }
    }
}

extension Safetensors.FloatType: ExpressibleByArgument {}
