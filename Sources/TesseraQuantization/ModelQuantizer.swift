import Tessera
import TesseraModels
import TesseraNN
import TesseraRuntime

/// Post-training quantization of a classifier, as "MPTQ-ViT" (2024), arXiv 2401.14895, puts it together: smoothing is
/// folded into the weights, ranges are taken from calibration images that the float model sees, Greedy MP distributes
/// bits.
///
/// Nothing of it knows a model: sites are found in the traced graph. The equations of the paper were not available; those
/// used here are this package's definitions.
public final class ModelQuantizer {
    /// What has a number of bits of its own: a weight, a layer's input, or an operand of an attention.
    public struct Unit: Sendable, Equatable {
        public enum Part: String, Sendable, CaseIterable { case weight, input, q, k, v, weights }

        /// The layer's or the attention's name.
        public let name: String
        public let part: Part
        /// Values: parameters, or activations of one image.
        public let count: Int
    }

    /// Bits that stand for "in floats".
    public static let floatBits = 32

    public let model: any ImageClassifier
    public let recipe: QuantizationRecipe
    /// All weights, all layers' inputs, then q, k, v and weights of each attention.
    public let units: [Unit]
    /// The float model's answer to each calibration image, before smoothing.
    public let floatLogits: [Tensor]
    private let images: [Tensor]
    private let graph: Graph
    private let names: ParameterNames
    private let sites: QuantizationSites
    private let values: [CalibrationValues]
    private var quantizers: [[Int: Quantizer]]
    private var weights: [[Int: QuantizedWeight]]

    /// Calibrates, and folds smoothing into the model's parameters, which do not change what it computes.
    /// - Parameter images: batches of preprocessed images `[batch, height, width, channels]`
    /// - Throws: ``QuantizationError`` that names the layer.
    public init(_ model: any ImageClassifier, images: [Tensor], recipe: QuantizationRecipe) throws {
        // A graph is of one image.
        let images = images.flatMap { batch in
            (0..<batch.shape[0]).map { batch.sliced(axis: 0, from: $0, to: $0 + 1) }
        }
        (self.model, self.images, self.recipe) = (model, images, recipe)
        var (graph, names) = ModelQuantizer.trace(model, images[0])
        var sites = QuantizationSites(&graph, names: names)
        guard !sites.layers.isEmpty else {
            throw QuantizationError(
                "the model", found: "no linear layer or convolution between its first and its last product",
                expected: "layers that can be quantized")
        }
        if recipe.method != .minmax {
            floatLogits = ModelQuantizer.smooth(model, graph, sites, images, recipe)
            (graph, names) = ModelQuantizer.trace(model, images[0])
            sites = QuantizationSites(&graph, names: names)
        } else {
            floatLogits = images.map { graph.evaluate($0)[0] }
        }
        (self.graph, self.names, self.sites) = (graph, names, sites)
        units = ModelQuantizer.units(sites)
        values = try ModelQuantizer.observe(graph, sites, units, images, recipe)
        quantizers = units.map { _ in [:] }
        weights = sites.layers.map { _ in [:] }
    }

    private static func trace(_ model: any ImageClassifier, _ images: Tensor) -> (Graph, ParameterNames) {
        let graph = Graph(input: images.shape.replacing(0, with: 1)) { image in
            let features = model.features(image)
            return [features.logits, features.pooled, features.tokens]
        }
        return (graph, ParameterNames(model))
    }

    private static func units(_ sites: QuantizationSites) -> [Unit] {
        sites.layers.map { Unit(name: $0.name, part: .weight, count: $0.weight.count) }
            + sites.layers.map { Unit(name: $0.name, part: .input, count: $0.inputCount) }
            + sites.attentions.enumerated().flatMap { number, site in
                zip([Unit.Part.q, .k, .v, .weights], site.counts).map {
                    Unit(name: "attention.\(number)", part: $0, count: $1)
                }
            }
    }

    /// Folds smoothing into the model. Returns the logits from before.
    private static func smooth(
        _ model: any ImageClassifier, _ graph: Graph, _ sites: QuantizationSites, _ images: [Tensor],
        _ recipe: QuantizationRecipe
    ) -> [Tensor] {
        var ranges = sites.normalizations.map { _ in ChannelRanges() }
        var normOfNode: [Int: Int] = [:]
        for (number, norm) in sites.normalizations.enumerated() {
            // All layers that read a norm see the same rows.
            for node in sites.layers[norm.layers[0]].nodes { normOfNode[node] = number }
        }
        let logits = images.map { image in
            graph.evaluate(image) { node, inputs in
                if let number = normOfNode[node] { ranges[number].add(inputs[0]) }
            }[0]
        }
        let parameters = Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.key, $0.parameter) })
        for (norm, ranges) in zip(sites.normalizations, ranges) {
            let layers = norm.layers.map { sites.layers[$0] }
            // A layer without a bias has nothing to take a shift up.
            let shifts = recipe.method != .smoothquant && layers.allSatisfy { $0.biasKey != nil }
            let smoothing = Smoothing(
                ranges: ranges.ranges, weights: layers.map(\.weight), shifts: shifts, alpha: recipe.alpha)
            let (weight, bias) = (parameters[norm.weightKey]!, parameters[norm.biasKey]!)
            (weight.value, bias.value) = smoothing.folded(normWeight: weight.value, normBias: bias.value)
            for layer in layers {
                let bias = layer.biasKey.flatMap { parameters[$0] }
                let folded = smoothing.folded(weight: layer.weight, bias: bias?.value)
                parameters[layer.key]!.value = folded.weight.reshaped(parameters[layer.key]!.shape)
                if let moved = folded.bias { bias?.value = moved }
            }
        }
        return logits
    }

    /// The greatest magnitude that codes are made for.
    private static let greatestRange: Float = 1e6

    private static func observe(
        _ graph: Graph, _ sites: QuantizationSites, _ units: [Unit], _ images: [Tensor], _ recipe: QuantizationRecipe
    ) throws -> [CalibrationValues] {
        let count = images.count
        let first = sites.layers.count
        var values = units.enumerated().map { number, unit in
            let isSplit =
                unit.part == .weights
                || number >= first && number < 2 * first && sites.layers[number - first].kind != .uniform
            let node =
                number < 2 * first
                ? sites.layers[number % first].nodes[0] : sites.attentions[(number - 2 * first) / 4].node
            return CalibrationValues(
                total: unit.count * count, channels: graph.shape(graph.nodes[node].inputs[0])[-1],
                keepsSample: isSplit && recipe.method == .mptq)
        }
        var (layerOfNode, attentionOfNode) = ([Int: Int](), [Int: Int]())
        for (number, layer) in sites.layers.enumerated() { for node in layer.nodes { layerOfNode[node] = number } }
        for (number, site) in sites.attentions.enumerated() { attentionOfNode[site.node] = number }
        for image in images {
            _ = graph.evaluate(image) { node, inputs in
                if let layer = layerOfNode[node] { values[first + layer].add(inputs[0]) }
                guard let number = attentionOfNode[node] else { return }
                let (attention, place) = (sites.attentions[number].attention, 2 * first + 4 * number)
                let parts = attention.operands(inputs)
                for part in 0..<3 { values[place + part].add(parts[part]) }
                values[place + 3].add(
                    attention.weights(q: parts[0], k: parts[1], bias: attention.hasBias ? inputs.last : nil))
            }
        }
        for (unit, values) in zip(units, values).dropFirst(first) {
            let subject = "\(unit.name), \(unit.part == .input ? "input" : unit.part.rawValue)"
            guard values.isFinite else {
                throw QuantizationError(
                    subject, found: "NaN or infinity for the \(count) calibration images", expected: "finite numbers")
            }
            guard values.greatestMagnitude > 0 else {
                throw QuantizationError(
                    subject, found: "0 alone for the \(count) calibration images",
                    expected: "numbers to take a range from")
            }
            guard values.greatestMagnitude <= greatestRange else {
                throw QuantizationError(
                    subject, found: "numbers up to \(values.greatestMagnitude)",
                    expected: "at most \(greatestRange): the range explodes")
            }
        }
        return values
    }

    private func quantizer(_ unit: Int, bits: Int) -> Quantizer {
        if let known = quantizers[unit][bits] { return known }
        var kind = Quantizer.Kind.uniform
        // Codes of all the bits that there are leave no room for a second region: clipping alone would only lose outliers.
        if recipe.method == .mptq && bits < recipe.codeBits {
            if units[unit].part == .weights { kind = .splitSizes }
            if units[unit].part == .input { kind = sites.layers[unit - sites.layers.count].kind }
        }
        let search = RangeSearch(mode: kind == .uniform ? .minmax : .mse, codeBits: recipe.codeBits)
        let found = values[unit]
        let quantizer = search.quantizer(
            kind, bits: bits, values: found.sample,
            greatest: kind == .uniform ? found.greatestMagnitude : found.greatest)
        quantizers[unit][bits] = quantizer
        return quantizer
    }

    private func weight(_ layer: Int, bits: Int) -> QuantizedWeight {
        if let known = weights[layer][bits] { return known }
        let weight = QuantizedWeight(sites.layers[layer].weight, bits: bits)
        weights[layer][bits] = weight
        return weight
    }

    /// The annotation for some bits of each unit, and the weights in codes. A layer or an attention with an operand in
    /// floats stays in floats.
    public func quantization(bits: [Int]) -> (annotation: Quantization, weights: [String: QuantizedWeight]) {
        let count = sites.layers.count
        var (annotation, codes) = (Quantization(), [String: QuantizedWeight]())
        for (number, layer) in sites.layers.enumerated() {
            let (weightBits, inputBits) = (bits[number], bits[count + number])
            guard max(weightBits, inputBits) < ModelQuantizer.floatBits else { continue }
            annotation.layers[layer.key] = .init(
                weightBits: weightBits, input: quantizer(count + number, bits: inputBits))
            codes[layer.key] = weight(number, bits: weightBits)
        }
        for number in sites.attentions.indices {
            let first = 2 * count + 4 * number
            guard bits[first..<first + 4].max()! < ModelQuantizer.floatBits else { continue }
            let parts = (first..<first + 4).map { quantizer($0, bits: bits[$0]) }
            annotation.attentions[number] = .init(q: parts[0], k: parts[1], v: parts[2], weights: parts[3])
        }
        return (annotation, codes)
    }

    /// What the model answers with these bits, operation by operation.
    public func logits(_ images: Tensor, bits: [Int]) -> Tensor {
        let quantized = quantizedGraph(bits)
        return concatenate(
            (0..<images.shape[0]).map { quantized.evaluate(images.sliced(axis: 0, from: $0, to: $0 + 1))[0] }, axis: 0)
    }

    private func quantizedGraph(_ bits: [Int]) -> Graph {
        let (annotation, codes) = quantization(bits: bits)
        var quantized = graph
        quantized.quantize(annotation, names: names, weights: codes.mapValues(\.tensor))
        return quantized
    }

    /// The mean squared error of the logits of the calibration images, or of the first ones.
    public func loss(bits: [Int], images limit: Int = .max) -> Double {
        let quantized = quantizedGraph(bits)
        var (sum, count) = (0.0, 0)
        for (image, expected) in zip(images.prefix(limit), floatLogits) {
            let found = quantized.evaluate(image)[0].scalars
            sum += zip(found, expected.scalars).reduce(0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
            count += found.count
        }
        return sum / Double(count)
    }

    /// The loss with each unit at each place of the ladder, and all others on top of it.
    public func sensitivity(progress: (Int) -> Void = { _ in }) -> [[Double]] {
        let ladder = GreedyAllocation.ladder
        let top = [Int](repeating: ladder[0], count: units.count)
        let best = loss(bits: top)
        return units.indices.map { unit in
            progress(unit)
            return [best]
                + ladder.dropFirst().map { bits in
                    var trial = top
                    trial[unit] = bits
                    return loss(bits: trial)
                }
        }
    }

    /// The bits that the recipe asks for everywhere, nil if it leaves them to Greedy MP.
    public var uniformBits: [Int]? {
        guard case .uniform(let weights, let activations) = recipe.bits else { return nil }
        return units.map { $0.part == .weight ? weights : activations }
    }
}

extension ModelQuantizer {
    /// Puts the weights in codes into the model's parameters. Returns the annotation that goes with them, and the codes.
    public func adopt(bits: [Int]) -> (annotation: Quantization, weights: [String: QuantizedWeight]) {
        let (annotation, codes) = quantization(bits: bits)
        let parameters = Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.key, $0.parameter) })
        for layer in sites.layers {
            let parameter = parameters[layer.key]!
            parameter.value = (codes[layer.key]?.tensor ?? layer.weight).reshaped(parameter.shape)
        }
        return (annotation, codes)
    }

    /// Units that only make sense together: a layer's weight and input, the operands of an attention.
    public var groups: [(name: String, units: [Int])] {
        let count = sites.layers.count
        return sites.layers.indices.map { (units[$0].name, [$0, count + $0]) }
            + sites.attentions.indices.map { number in
                ("attention.\(number)", Array(2 * count + 4 * number..<2 * count + 4 * number + 4))
            }
    }

    /// The loss on the first calibration images with one group in codes and all others in floats.
    public func lossOfEachGroup(bits: [Int], images: Int = 8) -> [Double] {
        groups.map { group in
            var trial = bits.map { _ in ModelQuantizer.floatBits }
            for unit in group.units { trial[unit] = bits[unit] }
            return loss(bits: trial, images: images)
        }
    }

    /// The next more bits, floats in the end, for the tenth of all groups for which they help most. Nil if all are in
    /// floats.
    public func raised(_ bits: [Int]) -> [Int]? {
        let ladder = [ModelQuantizer.floatBits] + GreedyAllocation.ladder
        let trials = groups.filter { group in
            group.units.contains { bits[$0] < ModelQuantizer.floatBits }
        }.map { group in
            var trial = bits
            for unit in group.units { trial[unit] = ladder.last { $0 > bits[unit] } ?? ModelQuantizer.floatBits }
            return (group, trial, loss(bits: trial))
        }.sorted { $0.2 < $1.2 }
        guard !trials.isEmpty else { return nil }
        var result = bits
        for (group, trial, _) in trials.prefix(max(1, groups.count / 10)) {
            for unit in group.units { result[unit] = trial[unit] }
        }
        return result
    }

    /// Bits a value on average, over those in codes and those in floats.
    public func averageBits(_ bits: [Int]) -> Double {
        let total = zip(units, bits).reduce(0) { $0 + $1.0.count * $1.1 }
        return Double(total) / Double(units.reduce(0) { $0 + $1.count })
    }
}
