import Tessera
import TesseraModels
import TesseraNN
import Testing

/// What activation checkpointing spares, in every system; that it changes no gradient is tested with the references.
@Suite struct CheckpointingTests {
    /// Without blocks to compute again: a convolutional agent's weights are another model's, and RevCol computes its columns
    /// backwards in any case.
    private static let keepsAll = ["agent", "revcol"]

    @Test(arguments: SmallModel.all) func lessIsKept(_ small: SmallModel) throws {
        let (model, images) = try small.filled()
        func bytes(checkpoints: Bool) -> Int {
            let pass = TrainingPass(RandomGenerator(seed: 6), checkpointsActivations: checkpoints)
            let tape = Tape()
            _ = pass.run { tape.record { model(images) } }
            return tape.savedBytes(besides: model.parameters.map(\.parameter.value))
        }
        let (plain, checkpointed) = (bytes(checkpoints: false), bytes(checkpoints: true))
        if Self.keepsAll.contains(where: small.name.hasPrefix) {
            #expect(checkpointed == plain)
        } else {
            #expect(checkpointed < plain)
        }
    }
}
