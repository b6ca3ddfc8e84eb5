import Tessera
import TesseraModels
import TesseraNN

/// What masked autoencoders and the distillation of token relations share: a plain Vision Transformer whose position
/// table is fixed while it is pre-trained.
extension MethodSetup {
    /// The model with the fixed table of sines in place of its learned positions, which its checkpoints then hold too:
    /// fine-tuning goes on from there and trains it. A new one begins with the weights of masked autoencoders.
    /// - Throws: ``MethodError`` for another kind of model.
    func plainTransformer() throws -> VisionTransformer {
        guard let model = model as? VisionTransformer else {
            throw refusal("the model is no plain Vision Transformer, expected one of the systems vit and deit")
        }
        let c = model.configuration
        guard c.width % 4 == 0 else {
            throw refusal("the model is \(c.width) wide, expected a multiple of 4 for the fixed position table")
        }
        if isNew { model.drawWeights(seed: options.seed) }
        model.posEmbed.value = Tensor(
            [Float](repeating: 0, count: model.positionPrefix * c.width)
                + PositionTable.sinusoids(rows: c.grid.height, columns: c.grid.width, width: c.width),
            model.posEmbed.shape)
        return model
    }
}

extension Module {
    /// The first weights of masked autoencoders (arXiv 2111.06377): Xavier's uniform distribution for every matrix, that of
    /// the patches and that of queries, keys and values as a single one each; no biases but the patches'; deviations of
    /// 0.02 for tokens. Norms, heads and fixed tables keep their values.
    func drawWeights(seed: UInt64) {
        initialize(seed: seed, keepingValues: true)
        for (key, parameter) in parameters where parameter.isTrainable && !key.hasPrefix("head") {
            let shape = parameter.shape
            var random = RandomGenerator(seed: seed).fork("masked").fork(key)
            if key.hasSuffix("weight"), shape.rank > 1 {
                let bound = (6 / Float(shape[0] + shape.count / shape[0])).squareRoot()
                parameter.value = Tensor(shape) { for i in $0.indices { $0[i] = random.uniform(-bound, bound) } }
            } else if key.hasSuffix("token") {
                parameter.value = Tensor(shape) { for i in $0.indices { $0[i] = 0.02 * random.normal() } }
            } else if key.hasSuffix("bias"), !key.hasPrefix("patch_embed") {
                parameter.value = Tensor(zeros: shape)
            }
        }
    }
}
