import Tessera

extension ONNXFunction {
    static let productOperators: [String: Operator] = [
        "MatMul": { operands in [try operands.matrixProduct(operands[0], operands[1])] },
        "Gemm": { operands in
            func matrix(_ index: Int, _ flag: String) throws -> ImportedValue {
                let value = try operands.value(index, rank: 2...2)
                return try operands.flag(flag) ? ImportedValue(value.memory, value.order.transposed([1, 0])) : value
            }
            let (alpha, beta) = (try operands.float("alpha", 1), try operands.float("beta", 1))
            var product = try operands.matrixProduct(matrix(0, "transA"), matrix(1, "transB"))
            if alpha != 1 { product = product.mapped { $0 * alpha } }
            guard operands.has(2) else { return [product] }
            let bias = try operands[2].mapped { beta == 1 ? $0 : $0 * beta }
            let (tensors, order, _) = try operands.aligned([product, bias])
            return [ImportedValue(tensors[0] + tensors[1], order)]
        },
        "Conv": { operands in
            let (x, weight) = (try operands.map(0), try operands.known(1))
            let groups = try operands.integer("group", 1)
            try operands.require(
                weight.rank == 4 && groups > 0 && x.shape[1] == weight.shape[1] * groups
                    && weight.shape[0] % groups == 0,
                "weight \(weight.shape) in \(groups) groups", "one for \(x.shape)")
            let window = try ONNXWindow(operands, kernel: Array(weight.shape.dimensions[2...]), x.shape)
            _ = try operands.shape([x.shape[0], weight.shape[0]] + window.counts)
            let bias = operands.has(2) ? try operands.channels(2, weight.shape[0]) : nil
            let pads = window.pads
            let result = convolution(
                x.memory(.channelsLast), weight: weight.transposed([0, 2, 3, 1]), bias: bias,
                stride: (window.strides[0], window.strides[1]),
                padding: Padding(top: pads[0], left: pads[1], bottom: pads[2], right: pads[3]),
                dilation: (window.dilations[0], window.dilations[1]), groups: groups)
            return [ImportedValue(result, .channelsLast)]
        },
        "ConvTranspose": { operands in
            let (x, weight) = (try operands.map(0), try operands.known(1))
            try operands.require(
                weight.rank == 4 && x.shape[1] == weight.shape[0], "weight \(weight.shape)", "one for \(x.shape)")
            let bias = operands.has(2) ? try operands.channels(2, weight.shape[1]) : nil
            return [try operands.spread(x, weight, bias)]
        },
    ]
}

extension ONNXOperands {
    /// The product over the last two axes, the others broadcast. A constant on the right makes a linear layer.
    fileprivate func matrixProduct(_ a: ImportedValue, _ b: ImportedValue) throws -> ImportedValue {
        try require(a.rank >= 1 && b.rank >= 1, "\(a.shape) × \(b.shape)", "matrices")
        if a.rank == 1 || b.rank == 1 {
            // A vector is a row on the left, a column on the right, and its axis disappears.
            let left = a.rank == 1 ? a.reshaped([1] + a.shape) : a
            let right = b.rank == 1 ? b.reshaped(b.shape + [1]) : b
            let product = try matrixProduct(left, right)
            var extents = product.shape.dimensions
            if b.rank == 1 { extents.removeLast() }
            if a.rank == 1 { extents.remove(at: extents.count - (b.rank == 1 ? 1 : 2)) }
            return product.reshaped(Shape(extents))
        }
        try require(a.shape[-1] == b.shape[-2], "\(a.shape) × \(b.shape)", "equal inner extents")
        if b.rank == 2, b.isKnown, !a.isKnown {
            return ImportedValue(linear(a.tensor, weight: b.memory(AxisOrder([1, 0])), bias: nil))
        }
        var (a, b) = (a, b)
        let (left, right) = (a.shape.dimensions.dropLast(2), b.shape.dimensions.dropLast(2))
        if left != right, !left.allSatisfy({ $0 == 1 }), !right.allSatisfy({ $0 == 1 }) {
            let shared = try broadcast([Shape(Array(left)), Shape(Array(right))]).dimensions
            func expanded(_ value: ImportedValue) throws -> ImportedValue {
                ImportedValue(value.tensor.broadcast(to: try shape(shared + value.shape.dimensions.suffix(2))))
            }
            (a, b) = (try expanded(a), try expanded(b))
        }
        let leading = try broadcast([Shape(Array(left)), Shape(Array(right))]).dimensions
        let result = try shape(leading + [a.shape[-2], b.shape[-1]])
        let (x, transposesLeft) = a.matrices
        let (y, transposesRight) = b.matrices
        return ImportedValue(x.multiplied(by: y, transposing: (transposesLeft, transposesRight)).reshaped(result))
    }

    /// A convolution backwards: zeros between the places, then a convolution with the kernel turned around.
    fileprivate func spread(_ x: ImportedValue, _ weight: Tensor, _ bias: Tensor?) throws -> ImportedValue {
        let kernel = Array(weight.shape.dimensions[2...])
        let window = try ONNXWindow(self, kernel: kernel, nil)
        let extra = try integers("output_padding") ?? [0, 0]
        try require(
            try integer("group", 1) == 1 && extra.count == 2 && node.attributes["output_shape"] == nil,
            "groups or an output shape", "a plain transposed convolution")
        var map = x.memory(.channelsLast)
        var pads = window.pads
        for axis in 0..<2 {
            let (reach, step) = (window.dilations[axis] * (kernel[axis] - 1), window.strides[axis])
            (pads[axis], pads[axis + 2]) = (reach - pads[axis], reach - pads[axis + 2] + extra[axis])
            try require(pads[axis] >= 0 && pads[axis + 2] >= 0, "pads \(window.pads)", "less than the kernel")
            let shape = map.shape
            _ = try self.shape(shape.replacing(axis + 1, with: shape[axis + 1] * step).dimensions)
            if step > 1 {
                var spaced = shape.dimensions
                spaced.insert(1, at: axis + 2)
                let parts = [
                    map.reshaped(Shape(spaced)), Tensor(zeros: Shape(spaced).replacing(axis + 2, with: step - 1)),
                ]
                let extent = shape[axis + 1] * step
                map = concatenate(parts, axis: axis + 2).reshaped(shape.replacing(axis + 1, with: extent))
                    .sliced(axis: axis + 1, from: 0, to: extent - step + 1)
            }
            try require(
                map.shape[axis + 1] + pads[axis] + pads[axis + 2] > reach, "kernel \(kernel)",
                "one that fits \(x.shape)")
        }
        func reversed(_ count: Int) -> [Int32] { (0..<Int32(count)).reversed() }
        let turned = weight.gathered(reversed(kernel[0]), axis: 2).gathered(reversed(kernel[1]), axis: 3)
        let result = convolution(
            map, weight: turned.transposed([1, 2, 3, 0]), bias: bias,
            padding: Padding(top: pads[0], left: pads[1], bottom: pads[2], right: pads[3]),
            dilation: (window.dilations[0], window.dilations[1]))
        return ImportedValue(result, .channelsLast)
    }
}

extension ImportedValue {
    /// The memory as matrices, and whether their rows and columns are swapped there.
    fileprivate var matrices: (Tensor, isTransposed: Bool) {
        var swapped = Array(0..<rank)
        swapped.swapAt(rank - 2, rank - 1)
        return order.axes == swapped ? (memory, true) : (tensor, false)
    }
}

/// How a window walks over a map: attributes that convolutions and pools share, for height and width.
struct ONNXWindow {
    let kernel: [Int]
    let strides: [Int]
    let dilations: [Int]
    /// Top, left, bottom, right.
    private(set) var pads: [Int]
    /// How often it fits.
    private(set) var counts: [Int] = []

    /// - Parameter x: `[batch, channels, height, width]`; nil if the window need not fit
    init(_ operands: ONNXOperands, kernel given: [Int]?, _ x: Shape?) throws {
        func list(_ name: String, _ standard: [Int], _ range: ClosedRange<Int>) throws -> [Int] {
            let values = try operands.integers(name) ?? standard
            try operands.require(
                values.count == standard.count && values.allSatisfy(range.contains), "\(name) \(values)",
                "\(standard.count) from \(range.lowerBound) to \(range.upperBound)")
            return values
        }
        kernel = try list("kernel_shape", given ?? [0, 0], 1...4096)
        try operands.require(given == nil || kernel == given!, "kernel_shape \(kernel)", "that of the weight")
        strides = try list("strides", [1, 1], 1...4096)
        dilations = try list("dilations", [1, 1], 1...4096)
        pads = try list("pads", [0, 0, 0, 0], 0...4096)
        let automatic = try operands.text("auto_pad", "NOTSET")
        let ceils = try operands.flag("ceil_mode")
        guard let x else {
            try operands.require(["NOTSET", ""].contains(automatic), "auto_pad \(automatic)", "explicit pads")
            return
        }
        for axis in 0..<2 {
            let (extent, reach) = (x[axis + 2], dilations[axis] * (kernel[axis] - 1) + 1)
            if automatic.hasPrefix("SAME") {
                let count = (extent + strides[axis] - 1) / strides[axis]
                let missing = max(0, (count - 1) * strides[axis] + reach - extent)
                pads[axis] = (missing + (automatic == "SAME_LOWER" ? 1 : 0)) / 2
                pads[axis + 2] = missing - pads[axis]
            } else if automatic == "VALID" {
                (pads[axis], pads[axis + 2]) = (0, 0)
            }
            let room = extent + pads[axis] + pads[axis + 2] - reach
            try operands.require(room >= 0, "kernel \(kernel)", "one that fits \(x)")
            var count = (room + (ceils ? strides[axis] - 1 : 0)) / strides[axis] + 1
            // A last window that would start in the padding behind the map does not count.
            if ceils, (count - 1) * strides[axis] >= extent + pads[axis] { count -= 1 }
            counts.append(count)
        }
    }
}
