import CKernels

/// A convolution that reads learned places with learned weights.
package struct DeformableConvolution: DirectOperation {
    package static let name = "deformableConvolution"
    package let groups: Int
    package let kernel: (height: Int, width: Int)
    package let stride: Int
    package let padding: Int
    package let dilation: Int
    package let offsetScale: Float
    package let removesCenter: Bool

    package var taps: Int { kernel.height * kernel.width - (removesCenter ? 1 : 0) }

    package func shape(_ inputs: [Shape]) -> Shape {
        let x = inputs[0]
        precondition(
            x.rank == 4 && x[3] % groups == 0 && taps <= 64,
            "deformableConvolution: \(groups) groups of \(taps) taps on \(x)")
        func extent(_ size: Int, _ kernel: Int) -> Int {
            (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1
        }
        let (rows, columns) = (extent(x[1], kernel.height), extent(x[2], kernel.width))
        precondition(
            inputs[1] == [x[0], rows, columns, groups * taps * 2] && inputs[2] == [x[0], rows, columns, groups * taps],
            "deformableConvolution: offsets \(inputs[1]) and masks \(inputs[2]) for \(rows)×\(columns) places of \(x)")
        return [x[0], rows, columns, x[3]]
    }

    private func attributes(_ x: Shape, _ y: Shape) -> tk_deformable {
        tk_deformable(
            batch: Int64(x[0]), height: Int64(x[1]), width: Int64(x[2]), groups: Int64(groups),
            channels: Int64(x[3] / groups), out_height: Int64(y[1]), out_width: Int64(y[2]),
            kernel_height: Int64(kernel.height), kernel_width: Int64(kernel.width), stride: Int64(stride),
            padding: Int64(padding), dilation: Int64(dilation), offset_scale: offsetScale,
            removes_center: removesCenter)
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        compute(inputs, into: output)
        if saved.isNeeded { saved.tensors = inputs }
        return output
    }

    package func compute(_ inputs: [Tensor], into output: Tensor) {
        var attributes = attributes(inputs[0].shape, output.shape)
        withExtendedLifetime((inputs, output)) {
            tk_deformable_forward(
                &attributes, inputs[0].pointer, inputs[1].pointer, inputs[2].pointer, output.mutablePointer)
        }
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let inputs = context.saved
        let results = context.inputShapes.map { Tensor(uninitialized: $0) }
        var attributes = attributes(inputs[0].shape, context.gradient.shape)
        withExtendedLifetime((context, results)) {
            tk_deformable_backward(
                &attributes, inputs[0].pointer, inputs[1].pointer, inputs[2].pointer, context.gradient.pointer,
                results[0].mutablePointer, results[1].mutablePointer, results[2].mutablePointer)
        }
        return results
    }
}

/// DCNv3's sampling: y[i, j, g] = Σₖ masks[i, j, g, k] · x(pₖ, g), with x(p) between pixels bilinear and outside of the map
/// zero, and pₖ = stride · (i, j) + centre + scale · (the k-th place of the kernel + offsets[i, j, g, k]).
///
/// "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions" (2022), arXiv 2211.05778.
/// There are no kernel weights. The places of the kernel are counted column after column.
/// - Parameters:
///   - x: `[batch, height, width, channels]`
///   - offsets: `[batch, rows, columns, groups · taps · 2]`: to the right, then down
///   - masks: `[batch, rows, columns, groups · taps]`
///   - removesCenter: the kernel has no tap in the middle
/// - Returns: `[batch, rows, columns, channels]`
public func deformableConvolution(
    _ x: Tensor, offsets: Tensor, masks: Tensor, groups: Int, kernel: (height: Int, width: Int) = (3, 3),
    stride: Int = 1, padding: Int = 1, dilation: Int = 1, offsetScale: Float = 1, removesCenter: Bool = false
) -> Tensor {
    let operation = DeformableConvolution(
        groups: groups, kernel: kernel, stride: stride, padding: padding, dilation: dilation,
        offsetScale: offsetScale, removesCenter: removesCenter)
    return apply(operation, [x, offsets, masks])
}
