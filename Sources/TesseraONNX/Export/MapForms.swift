import Tessera
import TesseraIO

extension MaxPool: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        // How a last window that is only partly inside counts is said by the padding: runtimes differ about ceil_mode.
        let after = [1, 2].map { axis in
            max(0, (output[axis] - 1) * stride + kernel - inputs[0].shape[axis] - padding)
        }
        let attributes: [String: ONNXAttribute] = [
            "kernel_shape": .integers([kernel, kernel]), "strides": .integers([stride, stride]),
            "pads": .integers([padding, padding] + after),
        ]
        let x = builder.memory(inputs[0], .channelsFirst)
        return ExportedValue(builder.add("MaxPool", [x], attributes), .channelsFirst, output)
    }
}

extension Resample: ONNXExportable {
    /// The operator whose weights these are; products with the matrices of the weights where none is.
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let x = builder.memory(inputs[0], .channelsFirst)
        let name =
            averagePool.map { builder.add("AveragePool", [x], $0) } ?? resize(x, output, to: &builder)
            ?? product(x, to: &builder)
        return ExportedValue(name, .channelsFirst, output)
    }

    private var averagePool: [String: ONNXAttribute]? {
        for countsPadding in [true, false] {
            guard let rows = rows.averageWindow(countsPadding), let columns = columns.averageWindow(countsPadding)
            else {
                continue
            }
            return [
                "kernel_shape": .integers([rows.kernel, columns.kernel]),
                "strides": .integers([rows.stride, columns.stride]),
                "pads": .integers([rows.padding, columns.padding, rows.padding, columns.padding]),
                "count_include_pad": .integer(countsPadding ? 1 : 0),
            ]
        }
        return nil
    }

    private func resize(_ x: String, _ output: BatchShape, to builder: inout ONNXBuilder) -> String? {
        let kinds: [(Interpolation, alignsCorners: Bool, mode: String, coordinates: String)] = [
            (.nearest, false, "nearest", "asymmetric"), (.bilinear, false, "linear", "half_pixel"),
            (.bilinear, true, "linear", "align_corners"), (.bicubic, false, "cubic", "half_pixel"),
            (.bicubic, true, "cubic", "align_corners"),
        ]
        func isResize(_ matrix: SparseRows, _ interpolation: Interpolation, _ alignsCorners: Bool) -> Bool {
            matrix == .resizing(matrix.extent, to: matrix.count, interpolation, alignCorners: alignsCorners)
        }
        guard
            let kind = kinds.first(where: { kind in
                isResize(rows, kind.0, kind.alignsCorners) && isResize(columns, kind.0, kind.alignsCorners)
            })
        else { return nil }
        var attributes: [String: ONNXAttribute] = [
            "mode": .text(kind.mode), "coordinate_transformation_mode": .text(kind.coordinates),
        ]
        if kind.mode == "nearest" { attributes["nearest_mode"] = .text("floor") }
        if kind.mode == "cubic" { attributes["cubic_coeff_a"] = .float(-0.75) }
        let sizes = builder.dynamicList(
            AxisOrder.channelsFirst.inMemory(output.extents), factor: output.imageExtent)
        return builder.add("Resize", [x, "", "", sizes], attributes)
    }

    /// rows · x · columnsᵀ for each channel.
    private func product(_ x: String, to builder: inout ONNXBuilder) -> String {
        let right = builder.constant(columns.matrix, AxisOrder([1, 0]))
        return builder.add("MatMul", [builder.constant(rows.matrix), builder.add("MatMul", [x, right])])
    }
}

extension SparseRows {
    /// `[outputs, inputs]`, with its zeros.
    fileprivate var matrix: Tensor {
        Tensor([count, extent]) { buffer in
            buffer.update(repeating: 0)
            for row in 0..<count {
                for entry in Int(starts[row])..<Int(starts[row + 1]) {
                    buffer[row * extent + Int(columns[entry])] += weights[entry]
                }
            }
        }
    }

    /// The window whose means these are; nil if they are something else.
    fileprivate func averageWindow(_ countsPadding: Bool) -> (kernel: Int, stride: Int, padding: Int)? {
        let lengths = (0..<count).map { Int(starts[$0 + 1] - starts[$0]) }
        guard let kernel = lengths.max(), kernel > 0, lengths[0] > 0 else { return nil }
        let padding = kernel - lengths[0]
        var stride = 1
        if count > 1 {
            guard lengths[1] > 0 else { return nil }
            // Where the first window ends and where the second does, before the edge cuts it.
            let ends = [0, 1].map { Int(columns[Int(starts[$0 + 1]) - 1]) + 1 }
            stride = ends[1] - ends[0]
        }
        guard stride > 0, padding <= kernel / 2, extent + 2 * padding >= kernel else { return nil }
        let window = SparseRows.averaging(
            extent, kernel: kernel, stride: stride, padding: padding, countsPadding: countsPadding)
        return self == window ? (kernel, stride, padding) : nil
    }
}

extension Shift: ONNXExportable {
    /// A convolution of each channel with a kernel that is one at the place to read.
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        func reach(_ steps: [Int]) -> (before: Int, after: Int) { (max(0, -steps.min()!), max(0, steps.max()!)) }
        let (rows, columns) = (reach(shifts.map(\.rows)), reach(shifts.map(\.columns)))
        let size = (height: rows.before + rows.after + 1, width: columns.before + columns.after + 1)
        let channels = output[3]
        let kernel = Tensor([channels, 1, size.height, size.width]) { buffer in
            buffer.update(repeating: 0)
            for shift in shifts {
                for channel in shift.channels {
                    let row = channel * size.height + rows.before + shift.rows
                    buffer[row * size.width + columns.before + shift.columns] = 1
                }
            }
        }
        var x = builder.memory(inputs[0], .channelsFirst)
        let pads = [rows.before, columns.before, rows.after, columns.after]
        if clamps {
            let all = [0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]]
            x = builder.add("Pad", [x, builder.integers(all)], ["mode": .text("edge")])
        }
        let attributes: [String: ONNXAttribute] = [
            "kernel_shape": .integers([size.height, size.width]), "group": .integer(channels),
            "pads": .integers(clamps ? [0, 0, 0, 0] : pads),
        ]
        return ExportedValue(builder.add("Conv", [x, builder.constant(kernel)], attributes), .channelsFirst, output)
    }
}

extension DeformableConvolution: ONNXExportable {
    /// Samples of a grid for each group, weighted by the masks and summed over the kernel's places.
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let x = inputs[0].shape
        let (height, width, channels) = (x[1], x[2], x[3] / groups)
        let (rows, columns) = (output[1], output[2])
        // [batch · groups, rows, columns · taps, 2]: where to read, the first pixel's centre at 1 / extent − 1.
        let offsets = builder.add(
            "Transpose",
            [
                builder.add(
                    "Reshape",
                    [builder.memory(inputs[1]), builder.integers([-1, rows, columns, groups, taps * 2])])
            ], ["perm": .integers([0, 3, 1, 2, 4])])
        let steps = builder.add("Reshape", [offsets, builder.integers([-1, rows, columns * taps, 2])])
        let scale = Tensor([2 * offsetScale / Float(width), 2 * offsetScale / Float(height)], [2])
        let grid = builder.add(
            "Add",
            [
                builder.add("Mul", [steps, builder.constant(scale)]),
                builder.constant(places(height, width, rows, columns)),
            ])
        let maps = builder.add(
            "Reshape", [builder.memory(inputs[0], .channelsFirst), builder.integers([-1, channels, height, width])])
        let samples = builder.add(
            "GridSample", [maps, grid],
            ["mode": .text("bilinear"), "padding_mode": .text("zeros"), "align_corners": .integer(0)])
        // [batch, groups, 1, rows, columns, taps]
        let masks = builder.add(
            "Transpose",
            [
                builder.add(
                    "Reshape", [builder.memory(inputs[2]), builder.integers([-1, rows, columns, groups, taps, 1])])
            ], ["perm": .integers([0, 3, 5, 1, 2, 4])])
        let parts = builder.add(
            "Reshape", [samples, builder.integers([-1, groups, channels, rows, columns, taps])])
        let sum = builder.add(
            "ReduceSum", [builder.add("Mul", [parts, masks]), builder.integers([5])], ["keepdims": .integer(0)])
        let result = builder.add("Reshape", [sum, builder.integers([-1, x[3], rows, columns])])
        return ExportedValue(result, .channelsFirst, output)
    }

    /// The places that the kernel reads without offsets, `[1, rows, columns · taps, 2]`, in the units of the grid.
    private func places(_ height: Int, _ width: Int, _ rows: Int, _ columns: Int) -> Tensor {
        let centre = (dilation * (kernel.height - 1) / 2, dilation * (kernel.width - 1) / 2)
        var steps: [(row: Float, column: Float)] = []
        for column in 0..<kernel.width {
            for row in 0..<kernel.height {
                if removesCenter, row == kernel.height / 2, column == kernel.width / 2 { continue }
                steps.append(
                    (
                        Float(row * dilation - centre.0) * offsetScale,
                        Float(column * dilation - centre.1) * offsetScale
                    ))
            }
        }
        return Tensor([1, rows, columns * taps, 2]) { buffer in
            var next = 0
            for row in 0..<rows {
                for column in 0..<columns {
                    for step in steps {
                        let y = Float(row * stride + centre.0 - padding) + step.row
                        let x = Float(column * stride + centre.1 - padding) + step.column
                        buffer[next] = (2 * x + 1) / Float(width) - 1
                        buffer[next + 1] = (2 * y + 1) / Float(height) - 1
                        next += 2
                    }
                }
            }
        }
    }
}
