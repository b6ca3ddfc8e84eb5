import Tessera

extension Quantization {
    private static let section = "tessera.quantization"

    /// Reads the section of a `config.json`.
    /// - Throws: `ArgumentError` that names the field.
    public init(_ json: JSON) throws {
        let section = Quantization.section
        let fields = try Arguments(json, section: section)
        self.init()
        for member in try fields.nested("layers").flatMap({ _ in json["layers"]?.members }) ?? [] {
            let layer = try Arguments(member.value, section: "\(section).layers.\(member.key)")
            guard layer.has("input"), let input = layer.json("input") else {
                throw ArgumentError(
                    field: "\(section).layers.\(member.key).input", found: "nothing", expected: "an object")
            }
            layers[member.key] = Layer(
                weightBits: try layer.int("weight_bits", in: Quantizer.bitRange),
                input: try Quantizer(input, section: "\(section).layers.\(member.key).input"))
        }
        for member in try fields.nested("attentions").flatMap({ _ in json["attentions"]?.members }) ?? [] {
            guard let number = Int(member.key), (0..<1 << 16).contains(number) else {
                throw ArgumentError(
                    field: "\(section).attentions", found: JSON.string(member.key).summary,
                    expected: "numbers of attentions, from 0 on")
            }
            func operand(_ name: String) throws -> Quantizer {
                let path = "\(section).attentions.\(number).\(name)"
                guard let json = member.value[name] else {
                    throw ArgumentError(field: path, found: "nothing", expected: "an object")
                }
                return try Quantizer(json, section: path)
            }
            attentions[number] = Attention(
                q: try operand("q"), k: try operand("k"), v: try operand("v"), weights: try operand("weights"))
        }
    }

    /// The section, its members sorted.
    public var json: JSON {
        let layers = layers.sorted { $0.key < $1.key }.map { key, layer in
            JSON.Member(
                key,
                .object([
                    JSON.Member("weight_bits", JSON(layer.weightBits)), JSON.Member("input", layer.input.json),
                ]))
        }
        let attentions = attentions.sorted { $0.key < $1.key }.map { number, attention in
            let operands = [
                ("q", attention.q), ("k", attention.k), ("v", attention.v), ("weights", attention.weights),
            ]
            return JSON.Member("\(number)", .object(operands.map { JSON.Member($0.0, $0.1.json) }))
        }
        return .object([JSON.Member("layers", .object(layers)), JSON.Member("attentions", .object(attentions))])
    }
}

extension Quantizer {
    /// Numbers of bits that codes may have: with their shift they fill at most eight.
    public static let bitRange = 2...8

    fileprivate init(_ json: JSON, section: String) throws {
        let fields = try Arguments(json, section: section)
        let bits = try fields.int("bits", in: Quantizer.bitRange)
        self.init(
            kind: try fields.choice("kind", default: .uniform), bits: bits,
            scale: Float(try fields.double("scale", in: 1e-30...1e30)),
            shift: try fields.int("shift", default: 0, in: 0...8 - bits))
    }

    fileprivate var json: JSON {
        .object([
            JSON.Member("kind", .string(kind.rawValue)), JSON.Member("bits", JSON(bits)),
            JSON.Member("scale", JSON(Double(scale))), JSON.Member("shift", JSON(shift)),
        ])
    }
}
