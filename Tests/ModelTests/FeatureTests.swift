import Tessera
@testable import TesseraModels
import TesseraNN
import Testing

/// What happens inside models, against the features of their reference implementations, where no map of a pyramid shows
/// it.
@Suite struct FeatureTests {
    /// Compares values with features of a case: tokens, or maps with their channels first.
    private func expect(_ found: [String: Tensor], in tensors: [String: Tensor], _ path: String) throws {
        for (name, value) in found {
            guard var expected = tensors["feature.\(name)"] else { continue }
            if expected.rank == 4, value.rank == 4 { expected = expected.transposed([0, 2, 3, 1]) }
            #expect(expected.count == value.count, "\(name)")
            #expect(relativeError(value, expected) <= 5e-5, "\(name) of \(path)")
        }
    }

    private func model<Model>(_ path: String, _: Model.Type) throws -> (Model, Tensor, [String: Tensor])? {
        let (metadata, tensors) = try FixtureFolder.tensors(path)
        let model = try ReferenceCase(metadata: metadata, tensors: tensors).model
        return try (model as? Model).map { ($0, try #require(tensors["input"]).transposed([0, 2, 3, 1]), tensors) }
    }

    /// The mixed scores that each layer hands to the next show in its attention weights.
    @Test(arguments: FixtureFolder.cases("revit")) func residualScores(_ path: String) throws {
        guard let (model, image, tensors) = try model(path, ResidualAttentionTransformer.self) else { return }
        let probe = AttentionProbe()
        let features = probe.watch { model.features(image) }
        for (layer, weights) in probe.weights.enumerated() {
            let scores = try #require(tensors["feature.attn_res\(layer)"])
            #expect(relativeError(weights, scores.softmax(axis: -1)) <= 5e-5, "layer \(layer) of \(path)")
        }
        #expect(probe.weights.count == model.blocks.count)
        try expect(["logits": features.logits], in: tensors, path)
        if model.prefixTokens == 0 { try expect(["norm": features.tokens], in: tensors, path) }
    }

    @Test(arguments: FixtureFolder.cases("dhvt")) func hybridBlocks(_ path: String) throws {
        guard let (model, image, tensors) = try model(path, DynamicHybridTransformer.self) else { return }
        let map = model.patchEmbed(image)
        let grid = Size(map.shape[1], map.shape[2])
        let patches = map.reshaped([map.shape[0], grid.height * grid.width, map.shape[3]])
        let x = concatenate(
            [model.clsToken.tensor.broadcast(to: [patches.shape[0], 1, patches.shape[2]]), patches], axis: 1)
        let block = model.blocks[0]
        let attended = block.attn(block.norm1(x))
        let found = [
            "patch_embed": patches, "blocks.0.attn": attended,
            "blocks.0.mlp": block.mlp(block.norm2(x + attended), grid: grid), "blocks.0": block(x, grid: grid),
        ]
        #expect(found.keys.allSatisfy { tensors["feature.\($0)"] != nil })
        try expect(found, in: tensors, path)
    }

    @Test(arguments: FixtureFolder.cases("xcit_qkv")) func crossCovarianceBlocks(_ path: String) throws {
        guard let (model, image, tensors) = try model(path, CrossCovarianceTransformer.self) else { return }
        let map = model.patchEmbed.proj(image)
        let grid = Size(map.shape[1], map.shape[2])
        let (batch, count, width) = (map.shape[0], grid.height * grid.width, map.shape[3])
        let encoding = try #require(model.posEmbed)
        let positions = encoding(rows: grid.height, columns: grid.width).broadcast(to: map.shape)
        let x = (map + positions).reshaped([batch, count, width])
        var found = [
            "patch_embed": map.reshaped([batch, count, width]), "pos_embed": positions,
            "blocks.0.attn": model.blocks[0].attn(model.blocks[0].norm1(x)),
        ]
        var y = x
        for (index, block) in model.blocks.enumerated() {
            y = block(y, grid: grid)
            found["blocks.\(index)"] = y
        }
        y = concatenate([model.clsToken.tensor.broadcast(to: [batch, 1, width]), y], axis: 1)
        for (index, block) in model.clsAttnBlocks.enumerated() {
            y = block(y)
            found["cls_attn_blocks.\(index)"] = y
        }
        try expect(found, in: tensors, path)
    }

    @Test(arguments: FixtureFolder.cases("vitae")) func reductionCells(_ path: String) throws {
        guard let (model, image, tensors) = try model(path, ViTAE.self) else { return }
        var x = ViTAE.Tokens(image)
        for (index, stage) in model.layers.enumerated() {
            if let cell = stage.reduction as? ViTAE.ReductionCell {
                try expect(["layers.\(index).RC": cell.reduce(x.map).tensor], in: tensors, path)
                try expect(["layers.\(index).RC.PRM": ViTAE.Tokens(cell.pyramid(x.map)).tensor], in: tensors, path)
                if let branch = cell.convolutions {
                    try expect(["layers.\(index).RC.PCM": branch(x.map)], in: tensors, path)
                }
            }
            x = stage(x)
            try expect(["layers.\(index)": x.tensor], in: tensors, path)
        }
    }
}
