import ArgumentParser
import Foundation
import Tessera
import TesseraData
import TesseraIO
import TesseraTraining

struct FeaturesCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "features", abstract: "Writes what a model computes for each image: pooled features and logits.",
        discussion: """
            The file holds features [images, channels], logits [images, classes] and, with --tokens, tokens
            [images, rows, columns, channels]; its metadata name the images, in order.
            Example: tessera features runs/first photos/ --out features.safetensors
            """)

    @Argument(help: ArgumentHelp("A run folder, or a weight file beside its config.json.", valueName: "run"))
    var model: String

    @OptionGroup var input: ImageArguments

    @Option(help: "The safetensors file to write.")
    var out: String

    @Flag(help: "Also the last token grid.")
    var tokens = false

    @OptionGroup var compute: ComputeOptions

    func perform() throws {
        compute.apply()
        let model = try TrainedModel(model)
        let files = try input.files()
        guard !files.isEmpty else { throw DataError("images", "none given") }
        let results = try files.map { file in
            let image = try Image(contentsOf: file, pixelLimit: input.pixelLimit)
            return (compute.precision ?? .float32).use { model.compiled.features(model.input(image)) }
        }
        var tensors = [
            ("features", concatenate(results.map(\.pooled), axis: 0)),
            ("logits", concatenate(results.map(\.logits), axis: 0)),
        ]
        if tokens { tensors.append(("tokens", concatenate(results.map(\.tokens), axis: 0))) }
        let names = JSON.array(files.map { .string($0) })
        try Safetensors.write(tensors, metadata: ["files": names.text()], to: out)
        standardError("\(grouped(files.count)) images: features \(tensors[0].1.shape), logits \(tensors[1].1.shape)")
    }
}

struct ExplainCommand: Verb {
    static let configuration = CommandConfiguration(
        commandName: "explain", abstract: "Shows where a model looks: attention rollout over the image.",
        discussion: """
            Attention rollout (arXiv 2005.00928) follows the attention of all layers from the answer back to the image.
            Example: tessera explain runs/first shirt.png --out shirt-attention.png
            """)

    @Argument(help: ArgumentHelp("A run folder, or a weight file beside its config.json.", valueName: "run"))
    var model: String

    @Argument(help: "An image file (JPEG, PNG, WebP).")
    var image: String

    @Option(help: "The PNG file to write.")
    var out: String

    @Option(help: ArgumentHelp("Refuse images with more pixels.", valueName: "n"))
    var pixelLimit = Image.defaultPixelLimit

    @OptionGroup var compute: ComputeOptions

    func perform() throws {
        compute.apply()
        let model = try TrainedModel(model)
        let picture = try Image(contentsOf: image, pixelLimit: pixelLimit)
        guard let map = model.attentionImage(picture) else {
            throw DataError(
                model.configuration.architecture, "has no attention over its whole token grid, so there is no rollout")
        }
        try map.writePNG(to: out)
    }
}
