import Tessera
import TesseraNN

/// DINOv2: "DINOv2: Learning Robust Visual Features without Supervision" (2023), arXiv 2304.07193; with registers:
/// "Vision Transformers Need Registers" (2023), arXiv 2309.16588.
///
/// Vision Transformers with layer scale, patches of 14×14 and no head, trained without labels: their class token is a
/// description of the image that a linear classifier or its nearest neighbours read. They were trained at 518×518 and
/// run at any multiple of 14. The reference is timm's `VisionTransformer`; away from 518 the position table is resampled
/// as in Hugging Face's `Dinov2Model`, without antialiasing.
public enum DINOv2 {
    /// - Parameter perceptron: the gated form has two matrices where the plain one has one, each 2/3 as wide
    static func configuration(
        _ width: Int, _ depth: Int, heads: Int, _ perceptron: VisionTransformer.Configuration.Perceptron = .plain,
        registers: Int = 0
    ) -> VisionTransformer.Configuration {
        var c = VisionTransformer.Configuration(width, depth, heads, patch: 14, image: 518)
        c.classes = 0
        c.layerScale = 1e-5
        (c.perceptron, c.mlpRatio) = (perceptron, perceptron == .swiGLU ? 2.66667 * 2 : 4)
        (c.registers, c.excludesClassFromPositions) = (registers, registers > 0)
        c.resampling = .bicubic
        return c
    }

    static let system = ModelSystem(
        id: "dinov2", title: "DINOv2: Learning Robust Visual Features without Supervision", year: 2023,
        arxiv: "2304.07193",
        variants: [0, 4].flatMap { registers in
            let suffix = registers > 0 ? "patch14_reg4_dinov2" : "patch14_dinov2"
            return [
                ("vit_small_\(suffix)", configuration(384, 12, heads: 6, registers: registers)),
                ("vit_base_\(suffix)", configuration(768, 12, heads: 12, registers: registers)),
                ("vit_large_\(suffix)", configuration(1024, 24, heads: 16, registers: registers)),
                ("vit_giant_\(suffix)", configuration(1536, 40, heads: 24, .swiGLU, registers: registers)),
            ]
        },
        reference: { $0.contains("vision_transformer") ? VisionTransformer.Configuration() : nil })
}
