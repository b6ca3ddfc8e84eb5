import Tessera
import TesseraModels
import TesseraNN
import Testing

/// Activation checkpointing in every system.
@Suite struct CheckpointingTests {
    /// Without blocks to compute again: a convolutional agent's weights are another model's, and RevCol computes its columns
    /// backwards in any case.
    private static let keepsAll = ["agent", "revcol"]

    /// The same gradients, dropped paths included, and less to keep.
    @Test(arguments: SmallModel.all) func gradientsStay(_ small: SmallModel) throws {
        let (model, images) = try small.filled()
        let trainable = model.parameters.filter(\.parameter.isTrainable)
        func gradients(checkpoints: Bool) -> (bytes: Int, values: [String: Tensor]) {
            let tape = Tape()
            let pass = TrainingPass(RandomGenerator(seed: 6), checkpointsActivations: checkpoints)
            let sum = pass.run { tape.record { (model(images) * 0.3).sum() } }
            let bytes = tape.savedBytes(besides: model.parameters.map(\.parameter.value))
            let found = tape.gradients(of: sum)
            let values = trainable.compactMap { key, parameter in found[parameter.tensor].map { (key, $0) } }
            return (bytes, Dictionary(uniqueKeysWithValues: values))
        }
        let (plain, checkpointed) = (gradients(checkpoints: false), gradients(checkpoints: true))
        #expect(plain.values.keys == checkpointed.values.keys)
        for (key, expected) in plain.values {
            #expect(try relativeError(#require(checkpointed.values[key]), expected, floor: 1e-6) <= 1e-5, "\(key)")
        }
        if Self.keepsAll.contains(where: small.name.hasPrefix) {
            #expect(checkpointed.bytes == plain.bytes)
        } else {
            #expect(checkpointed.bytes < plain.bytes)
        }
    }
}
