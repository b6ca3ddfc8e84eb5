import Tessera
import TesseraNN

/// A layer from a map `[batch, height, width, channels]` to a map.
protocol MapLayer: Module {
    func callAsFunction(_ x: Tensor) -> Tensor
}

extension InvertedResidual: MapLayer {}
extension LayerNorm: MapLayer {}
extension GroupNorm: MapLayer {}
extension BatchNorm: MapLayer {}
