import Tessera
import TesseraIO

/// What `config.json` and `preprocessor_config.json` of Hugging Face's transformers say about images and classes.
enum TransformersConfiguration {
    /// The classes' names, none if they are placeholders (`LABEL_0`).
    /// - Throws: `ArgumentError` that names the field.
    static func labels(_ json: JSON) throws -> [String] {
        guard let members = json["id2label"]?.members else { return [] }
        var labels = [String?](repeating: nil, count: members.count)
        for member in members {
            guard let index = Int(member.key), labels.indices.contains(index), let name = member.value.string else {
                throw ArgumentError(
                    field: "id2label.\(member.key)", found: member.value.summary,
                    expected: "the name of a class from 0 to \(members.count - 1)")
            }
            labels[index] = name
        }
        let names = labels.compactMap { $0 }
        return names.allSatisfy { $0.hasPrefix("LABEL_") } || names.count < labels.count ? [] : names
    }

    /// The side of the images that the model was made for.
    static func imageSize(_ json: JSON) -> (height: Int, width: Int)? {
        guard let size = json["image_size"] else { return nil }
        if let side = size.int { return (side, side) }
        let sides = (size.array ?? []).compactMap(\.int)
        return sides.count == 2 ? (sides[0], sides[1]) : nil
    }

    /// How an image processor prepares images, in timm's terms.
    /// - Throws: `ArgumentError` that names the field.
    static func preprocessing(_ json: JSON, channels: Int) throws -> ModelConfiguration.Preprocessing {
        let fields = try Arguments(json, section: "")
        let isNormalized = try fields.bool("do_normalize", default: true)
        let mean = try isNormalized ? fields.doubles("image_mean", count: channels, in: -1000...1000) : nil
        let deviation = try isNormalized ? fields.doubles("image_std", count: channels, in: 1e-6...1000) : nil
        let size = try side(fields, "size") ?? .exact(224, 224)
        let crop = try fields.bool("do_center_crop", default: fields.has("crop_size")) ? side(fields, "crop_size") : nil
        let (height, width) = crop?.target ?? size.target
        var fraction = 1.0
        var mode = ModelConfiguration.Preprocessing.CropMode.squash
        if let part = try fields.optionalDouble("crop_pct", in: 0.01...1) {
            // Small images are cut from the middle of larger ones, large ones are taken whole.
            if case .shortest(let side) = size, side < 384 { (fraction, mode) = (part, .center) }
        } else {
            if case .shortest = size { mode = .center }
            if crop != nil { fraction = Self.fraction(of: height, in: size.target.height) }
        }
        return ModelConfiguration.Preprocessing(
            inputSize: [channels, height, width], interpolation: try interpolation(fields), cropFraction: fraction,
            cropMode: mode, mean: mean ?? [Double](repeating: 0, count: channels),
            deviation: deviation ?? [Double](repeating: 1, count: channels))
    }

    /// Whether red and blue change places on the way into the model.
    static func flipsChannels(_ json: JSON) -> Bool {
        json["do_flip_channel_order"]?.bool ?? json["do_flip_channels"]?.bool ?? false
    }

    private enum Side {
        case exact(Int, Int)
        case shortest(Int)

        var target: (height: Int, width: Int) {
            switch self {
            case .exact(let height, let width): (height, width)
            case .shortest(let side): (side, side)
            }
        }
    }

    /// A side, `{"height": …, "width": …}` or `{"shortest_edge": …}`. In old files a plain number is both sides, unless a
    /// crop follows.
    private static func side(_ fields: Arguments, _ name: String) throws -> Side? {
        let range = 1...16384
        guard let json = fields.json(name) else { return nil }
        if json.array != nil {
            let sides = try fields.ints(name, count: 2, in: range)
            return .exact(sides[0], sides[1])
        }
        guard let nested = json.members == nil ? nil : try fields.nested(name) else {
            let side = try fields.int(name, in: range)
            return fields.has("crop_pct") || (name == "size" && fields.has("crop_size"))
                ? .shortest(side) : .exact(side, side)
        }
        if nested.has("shortest_edge") { return .shortest(try nested.int("shortest_edge", in: range)) }
        return .exact(try nested.int("height", in: range), try nested.int("width", in: range))
    }

    private static func interpolation(
        _ fields: Arguments
    ) throws -> ModelConfiguration.Preprocessing.Interpolation {
        // Pillow's numbers.
        switch try fields.int("resample", default: 2) {
        case 0: return .nearest
        case 2: return .bilinear
        case 3: return .bicubic
        case let other:
            throw ArgumentError(
                field: "resample", found: "\(other)", expected: "0 (nearest), 2 (bilinear), 3 (bicubic)")
        }
    }

    /// A fraction that leads back from the crop to the size before it: `Int(crop / fraction) == size`.
    private static func fraction(of crop: Int, in size: Int) -> Double {
        var fraction = Double(crop) / Double(size)
        while Int(Double(crop) / fraction) < size { fraction = fraction.nextDown }
        return fraction
    }
}
