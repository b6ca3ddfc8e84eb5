import Tessera
import TesseraModels
import TesseraNN

/// What masked autoencoders and the distillation of token relations share: a plain Vision Transformer whose position
/// table is fixed while it is pre-trained.
extension MethodSetup {
    /// The model with the fixed table of sines in place of its learned positions, which its checkpoints then hold too:
    /// fine-tuning goes on from there and trains it.
    /// - Throws: ``MethodError`` for another kind of model.
    func plainTransformer() throws -> VisionTransformer {
        guard let model = model as? VisionTransformer else {
            throw refusal("the model is no plain Vision Transformer, expected one of the systems vit and deit")
        }
        let c = model.configuration
        guard c.width % 4 == 0 else {
            throw refusal("the model is \(c.width) wide, expected a multiple of 4 for the fixed position table")
        }
        model.posEmbed.value = Tensor(
            [Float](repeating: 0, count: model.positionPrefix * c.width)
                + PositionTable.sinusoids(rows: c.grid.height, columns: c.grid.width, width: c.width),
            model.posEmbed.shape)
        return model
    }
}
