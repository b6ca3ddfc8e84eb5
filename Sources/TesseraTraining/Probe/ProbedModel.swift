import Tessera
import TesseraData
import TesseraIO
import TesseraModels

extension TrainedModel {
    /// This model with a linear probe for its head, as a run that every verb takes.
    ///
    /// - Parameters:
    ///   - folder: to write, `config.json` and weights
    ///   - source: where this model's weights lie
    /// - Throws: `DataError` for a model whose head is more than one linear layer over its pooled features, or one that is
    ///   quantized.
    public func write(_ probe: LinearProbe, labels: [String], from source: String, to folder: RunFolder) throws {
        guard quantization == nil else {
            throw DataError(source, "is quantized; a head is put on a run in floats, and the result quantized")
        }
        var file = configuration
        (file.classCount, file.labels, file.tessera) = (labels.count, labels, nil)
        let model = try file.buildModel()
        model.initialize(seed: 0)
        try model.start(from: source)
        let head = model.parameters.filter { entry in model.headPrefixes.contains { entry.key.hasPrefix($0) } }
        guard head.count == 2, let weight = head.first(where: { $0.parameter.shape == probe.weight.shape }),
            let bias = head.first(where: { $0.parameter.shape == probe.bias.shape })
        else {
            throw DataError(
                configuration.architecture, "has a head that is not one linear layer over its features, to be replaced")
        }
        (weight.parameter.value, bias.parameter.value) = (probe.weight, probe.bias)
        try folder.write(file)
        try folder.saveBest(model.stateDictionary.map { ($0.key, $0.tensor) })
    }
}
