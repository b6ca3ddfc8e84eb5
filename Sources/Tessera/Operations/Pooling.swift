import CKernels

/// The greatest value of each window; what lies outside the image does not count.
package struct MaxPool: Operation {
    package static let name = "maxPool"
    package let kernel: Int
    package let stride: Int
    package let padding: Int
    package let ceilMode: Bool

    package init(kernel: Int, stride: Int, padding: Int, ceilMode: Bool) {
        (self.kernel, self.stride, self.padding, self.ceilMode) = (kernel, stride, padding, ceilMode)
    }

    package func shape(_ inputs: [Shape]) -> Shape {
        let x = inputs[0]
        precondition(
            x.rank == 4 && padding <= kernel / 2 && kernel <= 15 && min(x[1], x[2]) + 2 * padding >= kernel,
            "maxPool: windows of \(kernel), padded by \(padding), on \(x)")
        func extent(_ size: Int) -> Int {
            pooledExtent(size, kernel: kernel, stride: stride, padding: padding, ceilMode: ceilMode)
        }
        return [x[0], extent(x[1]), extent(x[2]), x[3]]
    }

    package func kernel(_ x: Shape, _ y: Shape) -> tk_pooling {
        tk_pooling(
            batch: Int64(x[0]), height: Int64(x[1]), width: Int64(x[2]), channels: Int64(x[3]),
            out_height: Int64(y[1]), out_width: Int64(y[2]), kernel: Int64(kernel), stride: Int64(stride),
            padding: Int64(padding))
    }

    package func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let output = Tensor(uninitialized: shape)
        var pooling = kernel(inputs[0].shape, shape)
        // One byte an output says where in its window the maximum was; four of them share a float's memory.
        let places = saved.isNeeded ? Tensor(uninitialized: [(shape.count + 3) / 4]) : nil
        withExtendedLifetime((inputs, output, places)) {
            let bytes = places.map { UnsafeMutableRawPointer($0.mutablePointer).assumingMemoryBound(to: UInt8.self) }
            tk_max_pool(&pooling, inputs[0].pointer, output.mutablePointer, bytes)
        }
        if let places { saved.tensors = [places] }
        return output
    }

    package func backward(_ context: BackwardContext) -> [Tensor?] {
        let result = Tensor(uninitialized: context.inputShapes[0])
        var pooling = kernel(result.shape, context.gradient.shape)
        withExtendedLifetime((context, result)) {
            let bytes = UnsafeRawPointer(context.saved[0].pointer).assumingMemoryBound(to: UInt8.self)
            tk_max_pool_backward(&pooling, context.gradient.pointer, bytes, result.mutablePointer)
        }
        return [result]
    }
}

extension Tensor {
    /// The maximum over square windows of a feature map `[batch, height, width, channels]`; the padding never wins.
    /// - Parameter ceilMode: whether a last window that only starts inside the (padded) map counts
    /// - Returns: `[batch, ⌊(height + 2 · padding − kernel) / stride⌋ + 1, …, channels]`
    public func maxPool(kernel: Int, stride: Int, padding: Int = 0, ceilMode: Bool = false) -> Tensor {
        apply(MaxPool(kernel: kernel, stride: stride, padding: padding, ceilMode: ceilMode), [self])
    }
}
