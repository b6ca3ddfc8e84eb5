import Foundation
import Tessera
import TesseraIO
import TesseraNN
import TesseraRuntime

/// Codes of a few bits, one after the other, each row from a new byte on.
///
/// A code is stored as code + greatest, from the low bits of a byte to the high ones.
public enum PackedCodes {
    /// The bytes of a row of `count` codes.
    public static func rowBytes(_ count: Int, bits: Int) -> Int { (count * bits + 7) / 8 }

    public static func pack(_ codes: [Int8], columns: Int, bits: Int) -> [UInt8] {
        let greatest = Quantizer.greatest(bits: bits)
        return stride(from: 0, to: codes.count, by: max(1, columns)).flatMap { start in
            var row = [UInt8](repeating: 0, count: rowBytes(columns, bits: bits))
            for (place, code) in codes[start..<start + columns].enumerated() {
                let (bit, value) = (place * bits, UInt16(Int(code) + greatest))
                let shifted = value << UInt16(bit % 8)
                row[bit / 8] |= UInt8(truncatingIfNeeded: shifted)
                if bit % 8 + bits > 8 { row[bit / 8 + 1] |= UInt8(shifted >> 8) }
            }
            return row
        }
    }

    /// - Precondition: `bytes` holds whole rows.
    public static func unpack(_ bytes: [UInt8], columns: Int, bits: Int) -> [Int8] {
        let greatest = Quantizer.greatest(bits: bits)
        let mask = UInt16(1 << bits - 1)
        return stride(from: 0, to: bytes.count, by: max(1, rowBytes(columns, bits: bits))).flatMap { start in
            (0..<columns).map { place in
                let (byte, bit) = (start + place * bits / 8, place * bits % 8)
                var value = UInt16(bytes[byte])
                if bit + bits > 8 { value |= UInt16(bytes[byte + 1]) << 8 }
                // The one pattern that no code has becomes the greatest code.
                return Int8(min(Int(value >> UInt16(bit) & mask), 2 * greatest) - greatest)
            }
        }
    }
}

extension Safetensors {
    private static let scalesSuffix = "_scale"

    /// A model's tensors by key; those of quantized layers are scale · code.
    /// - Throws: ``FormatError`` if codes or scales do not fit the model.
    func tensors(of model: Module, _ quantization: Quantization) throws -> [String: Tensor] {
        let shapes = Dictionary(model.placedParameters.map { ($0.key, $0.parameter.exportedShape) }) { first, _ in first
        }
        if let stranger = quantization.layers.keys.sorted().first(where: { shapes[$0] == nil || self[$0] == nil }) {
            throw FormatError(
                file: path, subject: "tensor \(stranger)", found: "none in the file or the model",
                expected: "the weight that tessera.quantization.layers names")
        }
        var tensors: [String: Tensor] = [:]
        for entry in entries where !entry.name.hasSuffix(Safetensors.scalesSuffix) {
            guard let layer = quantization.layers[entry.name], let shape = shapes[entry.name] else {
                tensors[entry.name] = try tensor(entry.name)
                continue
            }
            tensors[entry.name] = try weight(entry, bits: layer.weightBits, shape: shape)
        }
        return tensors
    }

    private func weight(_ entry: Entry, bits: Int, shape: Shape) throws -> Tensor {
        let columns = shape.stride(0)
        let expected: Shape = [shape[0], PackedCodes.rowBytes(columns, bits: bits)]
        guard entry.shape == expected else {
            throw FormatError(
                file: path, subject: "tensor \(entry.name)", found: "\(entry.shape)",
                expected: "\(expected), rows of \(columns) codes of \(bits) bits")
        }
        let codes = PackedCodes.unpack(try bytes(entry.name), columns: columns, bits: bits)
        let scales = try tensor(entry.name + Safetensors.scalesSuffix)
        guard scales.shape == [shape[0]] else {
            throw FormatError(
                file: path, subject: "tensor \(entry.name + Safetensors.scalesSuffix)", found: "\(scales.shape)",
                expected: "\(Shape([shape[0]])), one for each row")
        }
        return QuantizedWeight(shape: shape, bits: bits, scales: scales.scalars, codes: codes).tensor
    }
}

extension RunFolder {
    /// Replaces `model.safetensors` by a model whose quantized layers are stored in codes.
    /// - Parameter weights: in codes, by key, in the model's own layout
    public func saveBest(_ model: Module, weights: [String: QuantizedWeight]) throws {
        var (tensors, bytes) = ([(String, Tensor)](), [(name: String, shape: Shape, content: [UInt8])]())
        for (key, parameter) in model.placedParameters {
            guard let weight = weights[key] else {
                tensors.append((key, parameter.exported(parameter.value)))
                continue
            }
            let columns = weight.shape.stride(0)
            let ordered = parameter.exported(Tensor(weight.codes.map(Float.init), parameter.shape))
            tensors.append((key + "_scale", Tensor(weight.scales, [weight.scales.count])))
            bytes.append(
                (
                    key, [weight.shape[0], PackedCodes.rowBytes(columns, bits: weight.bits)],
                    PackedCodes.pack(ordered.scalars.map { Int8($0) }, columns: columns, bits: weight.bits)
                ))
        }
        try saveBest(tensors, bytes: bytes)
    }
}

extension ModelFile {
    /// Which products compute in codes, nil for a model in floats: the section `tessera.quantization` of `config.json`.
    /// - Throws: ``FormatError`` that names the field.
    public var quantization: Quantization? {
        get throws {
            guard let json = configuration.tessera?["quantization"] else { return nil }
            do { return try Quantization(json) } catch let error as ArgumentError {
                let folder = URL(fileURLWithPath: weights).deletingLastPathComponent()
                throw FormatError(
                    file: folder.appendingPathComponent(RunFolder.configurationName).relativePath,
                    subject: error.field, found: error.found, expected: error.expected)
            }
        }
    }
}
