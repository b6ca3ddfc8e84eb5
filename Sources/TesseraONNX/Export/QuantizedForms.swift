import Tessera
import TesseraRuntime

// Codes in ONNX: a value goes through QuantizeLinear and DequantizeLinear, which leaves the nearest number that a code
// stands for. Runtimes turn the pair, and the one of the weight, into a product of whole numbers.
extension ONNXBuilder {
    mutating func rounded(_ value: ExportedValue, _ quantizer: Quantizer) -> ExportedValue {
        ExportedValue(rounded(value.constant == nil ? value.name : memory(value), quantizer), value.order, value.shape)
    }

    /// The nearest values that codes stand for; all values if there is no quantizer.
    ///
    /// Two regions are two roundings and a choice. What comes out counts in steps of the fine one, so a last pair with that
    /// scale changes nothing: it is there for runtimes to find.
    mutating func rounded(_ name: String, _ quantizer: Quantizer?) -> String {
        guard let quantizer else { return name }
        let (fine, greatest) = (quantizer.scale, Quantizer.greatest(bits: quantizer.bits))
        // Without a shift the regions are one.
        guard quantizer.kind != .uniform, quantizer.shift > 0 else {
            return steps(name, fine, -greatest...greatest)
        }
        let coarse = steps(name, fine * Float(1 << quantizer.shift), 0...greatest)
        let result: String
        if quantizer.kind == .splitSigns {
            // One of them is 0.
            result = add("Add", [steps(name, fine, -greatest...0), coarse])
        } else {
            let small = steps(name, fine, 0...greatest + 1)
            let isSmall = add("Less", [small, scalar((Float(greatest) + 0.5) * fine)])
            result = add("Where", [isSmall, small, coarse])
        }
        return steps(result, fine, ONNXBuilder.codes)
    }

    private static let codes = -127...127

    /// To the nearest multiple of `scale`, of those in `range`. The operator itself ends at −128 and 127.
    private mutating func steps(_ name: String, _ scale: Float, _ range: ClosedRange<Int>) -> String {
        var input = name
        if range != ONNXBuilder.codes {
            let bounds = [range.lowerBound, range.upperBound].map { scalar(Float($0) * scale) }
            input = add("Clip", [input] + bounds)
        }
        let parameters = [scalar(scale), zeroCode()]
        return add("DequantizeLinear", [add("QuantizeLinear", [input] + parameters)] + parameters)
    }
}
