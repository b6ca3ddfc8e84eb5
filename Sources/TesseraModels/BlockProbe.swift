import Tessera
import TesseraNN

/// Collects what each block of a transformer gives to the next one, for methods that train more than the answer.
///
/// Most models show their blocks; what watches nothing costs nothing.
public final class BlockProbe: @unchecked Sendable {
    @TaskLocal private static var current: BlockProbe?

    /// The maps `[batch, rows, columns, channels]` behind each block, after its residual sums and before any later norm,
    /// in the order of execution. Tokens without a place in the image are left out.
    public private(set) var maps: [Tensor] = []

    public init() {}

    public func watch<Result>(_ body: () throws -> Result) rethrows -> Result {
        try BlockProbe.$current.withValue(self, operation: body)
    }

    /// Shows a block's map; gives it back.
    static func show(_ map: Tensor) -> Tensor {
        current?.maps.append(map)
        return map
    }

    /// Shows a block's tokens `[batch, prefix + rows · columns, channels]`; gives them back.
    static func show(_ tokens: Tensor, prefix: Int, grid: Size) -> Tensor {
        guard let current else { return tokens }
        let places = prefix == 0 ? tokens : tokens.sliced(axis: 1, from: prefix, to: tokens.shape[1])
        current.maps.append(places.reshaped([tokens.shape[0], grid.height, grid.width, tokens.shape[2]]))
        return tokens
    }
}

extension ImageClassifier {
    /// The features of images, and the maps behind the model's blocks: see ``BlockProbe/maps``. A model that does not
    /// show its blocks has one map, its last token grid.
    public func observed(_ image: Tensor) -> (features: Features, blocks: [Tensor]) {
        let probe = BlockProbe()
        let features = probe.watch { self.features(image) }
        return (features, probe.maps.isEmpty ? [features.tokens] : probe.maps)
    }
}
