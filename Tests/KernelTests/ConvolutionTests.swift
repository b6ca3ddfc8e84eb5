import CKernels
import Testing

private struct ConvolutionCase {
    var batch = 2, height: Int, width: Int, inChannels: Int, outChannels: Int
    var kernel: (Int, Int), stride = (1, 1), padding = (0, 0), dilation = (1, 1), groups = 1

    var outHeight: Int { (height + 2 * padding.0 - dilation.0 * (kernel.0 - 1) - 1) / stride.0 + 1 }
    var outWidth: Int { (width + 2 * padding.1 - dilation.1 * (kernel.1 - 1) - 1) / stride.1 + 1 }
    var depth: Int { inChannels / groups }
    var inputCount: Int { batch * height * width * inChannels }
    var outputCount: Int { batch * outHeight * outWidth * outChannels }
    var weightCount: Int { outChannels * kernel.0 * kernel.1 * depth }

    func descriptor(_ precision: tk_precision) -> tk_convolution {
        var c = tk_convolution()
        (c.batch, c.height, c.width, c.in_channels) = (Int64(batch), Int64(height), Int64(width), Int64(inChannels))
        (c.out_height, c.out_width, c.out_channels) = (Int64(outHeight), Int64(outWidth), Int64(outChannels))
        (c.kernel_height, c.kernel_width) = (Int64(kernel.0), Int64(kernel.1))
        (c.stride_height, c.stride_width) = (Int64(stride.0), Int64(stride.1))
        (c.pad_top, c.pad_left) = (Int64(padding.0), Int64(padding.1))
        (c.dilation_height, c.dilation_width, c.groups) = (Int64(dilation.0), Int64(dilation.1), Int64(groups))
        c.precision = precision
        return c
    }

    /// Calls body(input index, weight index, output index) for every product of the convolution.
    func forEachProduct(_ body: (Int, Int, Int) -> Void) {
        let outputsPerGroup = outChannels / groups
        for b in 0..<batch {
            for r in 0..<outHeight {
                for s in 0..<outWidth {
                    for o in 0..<outChannels {
                        for q in 0..<kernel.0 {
                            let y = r * stride.0 - padding.0 + q * dilation.0
                            guard y >= 0, y < height else { continue }
                            for t in 0..<kernel.1 {
                                let x = s * stride.1 - padding.1 + t * dilation.1
                                guard x >= 0, x < width else { continue }
                                for i in 0..<depth {
                                    body(
                                        ((b * height + y) * width + x) * inChannels + o / outputsPerGroup * depth + i,
                                        ((o * kernel.0 + q) * kernel.1 + t) * depth + i,
                                        ((b * outHeight + r) * outWidth + s) * outChannels + o)
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

private let cases = [
    ConvolutionCase(height: 7, width: 9, inChannels: 3, outChannels: 10, kernel: (3, 3), padding: (1, 1)),
    ConvolutionCase(
        height: 12, width: 11, inChannels: 1, outChannels: 33, kernel: (3, 5), stride: (2, 1), padding: (1, 2)),
    ConvolutionCase(height: 8, width: 8, inChannels: 3, outChannels: 20, kernel: (4, 4), stride: (4, 4)),
    ConvolutionCase(height: 9, width: 10, inChannels: 3, outChannels: 7, kernel: (4, 4), stride: (4, 4)),
    ConvolutionCase(height: 5, width: 6, inChannels: 17, outChannels: 19, kernel: (1, 1)),
    ConvolutionCase(height: 6, width: 5, inChannels: 8, outChannels: 6, kernel: (1, 1), stride: (2, 3)),
    ConvolutionCase(
        height: 10, width: 9, inChannels: 12, outChannels: 18, kernel: (3, 2), stride: (2, 2), padding: (2, 1),
        dilation: (2, 3), groups: 3),
    ConvolutionCase(height: 9, width: 7, inChannels: 21, outChannels: 21, kernel: (3, 3), padding: (1, 1), groups: 21),
    ConvolutionCase(
        height: 11, width: 13, inChannels: 40, outChannels: 40, kernel: (5, 3), stride: (2, 2), padding: (2, 1),
        dilation: (1, 2), groups: 40),
    ConvolutionCase(height: 6, width: 6, inChannels: 5, outChannels: 10, kernel: (3, 3), padding: (1, 1), groups: 5),
    ConvolutionCase(
        height: 14, width: 14, inChannels: 32, outChannels: 48, kernel: (3, 3), stride: (2, 2), padding: (1, 1)),
    ConvolutionCase(batch: 1, height: 1, width: 1, inChannels: 2, outChannels: 3, kernel: (3, 3), padding: (1, 1)),
]

extension KernelTests {
    @Suite struct Convolutions {
        @Test(arguments: cases.indices, [TK_FLOAT32.rawValue, TK_BFLOAT16.rawValue])
        func agreesWithNaiveLoops(index: Int, precision: UInt32) {
            let c = cases[index]
            let precision = tk_precision(rawValue: precision)
            var random = TestRandom(seed: UInt64(index))
            let x = random.floats(c.inputCount), weight = random.floats(c.weightCount),
                bias = random.floats(c.outChannels)
            let gradient = random.floats(c.outputCount)
            // Depthwise convolution has no products of matrices to round for.
            let isDepthwise = c.groups == c.inChannels && c.groups == c.outChannels
            let round = precision == TK_BFLOAT16 && !isDepthwise ? roundedToBFloat16 : { $0 }
            let (exactX, exactW, exactG) = (
                x.map { Double(round($0)) }, weight.map { Double(round($0)) }, gradient.map { Double(round($0)) }
            )
            var y = (0..<c.outputCount).map { Double(bias[$0 % c.outChannels]) }
            var xGradient = x.map { _ in 0.0 }, weightGradient = weight.map { _ in 0.0 }
            c.forEachProduct { i, w, o in
                y[o] += exactX[i] * exactW[w]
                xGradient[i] += exactG[o] * exactW[w]
                weightGradient[w] += exactX[i] * exactG[o]
            }
            var descriptor = c.descriptor(precision)
            forEachLevel { level in
                let name = "\(level) \(c)"
                let forward = sameForAnyThreadCount {
                    var out = [Float](repeating: .nan, count: 2 * c.outputCount)
                    out.withUnsafeMutableBufferPointer { out in
                        tk_convolution_forward(
                            &descriptor, x, weight, bias, TK_RELU, out.baseAddress! + c.outputCount, out.baseAddress)
                    }
                    return out
                }
                expectClose(forward, y.map { max($0, 0) } + y, "forward \(name)")
                let backwardInput = sameForAnyThreadCount {
                    var out = [Float](repeating: .nan, count: c.inputCount)
                    tk_convolution_backward_input(&descriptor, gradient, weight, &out)
                    return out
                }
                expectClose(backwardInput, xGradient, "input gradient \(name)")
                let backwardWeight = sameForAnyThreadCount {
                    var out = [Float](repeating: .nan, count: c.weightCount)
                    tk_convolution_backward_weight(&descriptor, x, gradient, &out)
                    return out
                }
                expectClose(backwardWeight, weightGradient, "weight gradient \(name)")
            }
        }
    }
}
