import CKernels

/// Two-dimensional convolution, channels last, with bias and activation fused.
package struct Convolution: RecomputableOperation {
    package static let name = "convolution"
    package let stride: (height: Int, width: Int)
    package let padding: Padding
    package let dilation: (height: Int, width: Int)
    package let groups: Int
    package let activation: Activation
    package let hasBias: Bool
    package let precision: Precision

    package func shape(_ inputs: [Shape]) -> Shape {
        let (x, weight) = (inputs[0], inputs[1])
        precondition(
            x.rank == 4 && weight.rank == 4 && x[3] == weight[3] * groups && weight[0] % groups == 0,
            "convolution: input \(x) does not fit weight \(weight) in \(groups) groups")
        precondition(!hasBias || inputs[2] == [weight[0]], "convolution: bias \(inputs[2]) for weight \(weight)")
        func extent(_ size: Int, _ padding: Int, _ kernel: Int, _ stride: Int, _ dilation: Int) -> Int {
            let room = size + padding - dilation * (kernel - 1) - 1
            precondition(room >= 0, "convolution: kernel \(weight) is larger than the padded input \(x)")
            return room / stride + 1
        }
        return [
            x[0],
            extent(x[1], padding.top + padding.bottom, weight[1], stride.height, dilation.height),
            extent(x[2], padding.left + padding.right, weight[2], stride.width, dilation.width),
            weight[0],
        ]
    }

    package func kernel(_ x: Shape, _ weight: Shape, _ y: Shape) -> tk_convolution {
        var c = tk_convolution()
        (c.batch, c.height, c.width, c.in_channels) = (Int64(x[0]), Int64(x[1]), Int64(x[2]), Int64(x[3]))
        (c.out_height, c.out_width, c.out_channels) = (Int64(y[1]), Int64(y[2]), Int64(y[3]))
        (c.kernel_height, c.kernel_width) = (Int64(weight[1]), Int64(weight[2]))
        (c.stride_height, c.stride_width) = (Int64(stride.height), Int64(stride.width))
        (c.pad_top, c.pad_left) = (Int64(padding.top), Int64(padding.left))
        (c.dilation_height, c.dilation_width) = (Int64(dilation.height), Int64(dilation.width))
        c.groups = Int64(groups)
        c.precision = precision.wide.kernel
        return c
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let (x, weight) = (inputs[0], inputs[1])
        let output = Tensor(uninitialized: shape)
        let preactivation = saved.isNeeded && activation != .identity ? Tensor(uninitialized: shape) : nil
        var c = kernel(x.shape, weight.shape, shape)
        withExtendedLifetime((inputs, output, preactivation)) {
            tk_convolution_forward(
                &c, x.pointer, weight.pointer, hasBias ? inputs[2].pointer : nil, activation.kernel,
                preactivation?.mutablePointer, output.mutablePointer)
        }
        if saved.isNeeded { saved.tensors = [x, weight] + (preactivation.map { [$0] } ?? []) }
        return output
    }

    package var isRecomputable: Bool { activation != .identity }

    package func recompute(_ saved: (Int) -> Tensor, _ shape: Shape) -> Tensor { activation(saved(2)) }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let (x, weight) = (context.saved[0], context.saved[1])
        var gradient = context.gradient
        var c = kernel(x.shape, weight.shape, gradient.shape)
        var biasGradient: Tensor?
        let wantsBias = hasBias && context.wanted[2]
        if activation != .identity {
            (gradient, biasGradient) = activation.backward(gradient, context.saved[2], sumsColumns: wantsBias)
        } else if wantsBias {
            biasGradient = gradient.sum(axes: [0, 1, 2])
        }
        var results: [Tensor?] = [nil, nil]
        withExtendedLifetime((x, weight, gradient)) {
            if context.wanted[0] {
                let result = Tensor(uninitialized: x.shape)
                tk_convolution_backward_input(&c, gradient.pointer, weight.pointer, result.mutablePointer)
                results[0] = result
            }
            if context.wanted[1] {
                let result = Tensor(uninitialized: weight.shape)
                tk_convolution_backward_weight(&c, x.pointer, gradient.pointer, result.mutablePointer)
                results[1] = result
            }
        }
        if hasBias { results.append(biasGradient) }
        return results
    }

    package func cost(_ inputs: [Shape], _ output: Shape) -> Cost {
        Cost(multiplyAdds: output.count * inputs[1].stride(0), inputs, output)
    }
}

/// Zeros around an image.
public struct Padding: Sendable, Equatable, Codable {
    public var top, left, bottom, right: Int

    public init(top: Int, left: Int, bottom: Int, right: Int) {
        (self.top, self.left, self.bottom, self.right) = (top, left, bottom, right)
    }

    /// The same on all four sides.
    public init(_ all: Int) { self.init(top: all, left: all, bottom: all, right: all) }
}

/// Two-dimensional convolution: y[r, c] = activation(Σ x[r·stride − top + i·dilation, …] · weight[i, j] + bias).
///
/// - Parameters:
///   - x: `[batch, height, width, channels]`
///   - weight: `[outputs, kernel height, kernel width, channels / groups]`; `groups` = channels = outputs is a depthwise
///     convolution
///   - bias: `[outputs]`, or nil
/// - Returns: `[batch, ⌊(height + padding − dilation·(kernel − 1) − 1) / stride⌋ + 1, …, outputs]`
public func convolution(
    _ x: Tensor, weight: Tensor, bias: Tensor? = nil, stride: (height: Int, width: Int) = (1, 1),
    padding: Padding = Padding(0), dilation: (height: Int, width: Int) = (1, 1), groups: Int = 1,
    activation: Activation = .identity
) -> Tensor {
    let operation = Convolution(
        stride: stride, padding: padding, dilation: dilation, groups: groups, activation: activation,
        hasBias: bias != nil, precision: .current)
    return apply(operation, [x, weight] + (bias.map { [$0] } ?? []))
}
