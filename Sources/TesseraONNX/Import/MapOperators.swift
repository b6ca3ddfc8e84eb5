import Tessera

extension ONNXFunction {
    static let mapOperators: [String: Operator] = [
        "MaxPool": { operands in
            let value = try operands.map(0)
            let window = try ONNXWindow(operands, kernel: nil, value.shape)
            let (kernel, stride, pads) = (window.kernel[0], window.strides[0], window.pads)
            try operands.require(
                window.kernel == [kernel, kernel] && window.strides == [stride, stride] && window.dilations == [1, 1]
                    && kernel <= 15 && operands.node.outputs.count == 1,
                "kernel \(window.kernel), strides \(window.strides), dilations \(window.dilations)",
                "square windows of at most 15")
            var x = value.memory(.channelsLast)
            // Padding never wins: what it does beyond the first window is how often the window fits.
            let (before, isEven) = (pads[0], pads[0] == pads[1] && pads[0] <= kernel / 2)
            let fits = [false, true].first { ceils in
                let pool = MaxPool(kernel: kernel, stride: stride, padding: before, ceilMode: ceils)
                let side = min(value.shape[2], value.shape[3]) + 2 * before
                return isEven && side >= kernel && Array(pool.shape([x.shape]).dimensions[1...2]) == window.counts
            }
            if let fits {
                return [
                    ImportedValue(
                        x.maxPool(kernel: kernel, stride: stride, padding: before, ceilMode: fits), .channelsLast)
                ]
            }
            for axis in 0..<2 {
                let after = (window.counts[axis] - 1) * stride + kernel - value.shape[axis + 2] - pads[axis]
                x = x.padded([(axis + 1, pads[axis], max(0, after))], value: -.greatestFiniteMagnitude)
                x = x.sliced(axis: axis + 1, from: 0, to: (window.counts[axis] - 1) * stride + kernel)
            }
            return [ImportedValue(x.maxPool(kernel: kernel, stride: stride), .channelsLast)]
        },
        "AveragePool": { operands in
            let value = try operands.map(0)
            let window = try ONNXWindow(operands, kernel: nil, value.shape)
            try operands.require(
                zip(window.counts, window.kernel).allSatisfy { $0 * $1 <= 1 << 22 },
                "\(window.counts) windows of \(window.kernel)", "at most \(1 << 22) rows or columns in all")
            let countsPadding = try operands.flag("count_include_pad")
            func means(_ axis: Int) -> SparseRows {
                let (extent, before, after) = (value.shape[axis + 2], window.pads[axis], window.pads[axis + 2])
                return SparseRows(
                    extent: extent,
                    rows: (0..<window.counts[axis]).map { index in
                        let start = index * window.strides[axis] - before
                        let places = (0..<window.kernel[axis]).map { start + $0 * window.dilations[axis] }
                        let inside = places.filter { $0 >= 0 && $0 < extent }
                        let counted = countsPadding ? places.filter { $0 < extent + after }.count : inside.count
                        return inside.map { ($0, 1 / Double(counted)) }
                    })
            }
            return [
                ImportedValue(
                    apply(Resample(rows: means(0), columns: means(1)), [value.memory(.channelsLast)]), .channelsLast)
            ]
        },
        "Resize": { operands in [try operands.resized(scales: operands.version < 11 ? 1 : 2, sizes: 3)] },
        "Upsample": { operands in [try operands.resized(scales: 1, sizes: nil)] },
        "GridSample": { operands in
            let (x, grid) = (try operands.map(0), try operands.value(1, rank: 4...4))
            let mode = try operands.text("mode", "bilinear")
            let padding = try operands.text("padding_mode", "zeros")
            let alignsCorners = try operands.flag("align_corners")
            try operands.require(
                ["bilinear", "linear"].contains(mode) && padding == "zeros", "mode \(mode), padding \(padding)",
                "bilinear samples with zeros outside")
            try operands.require(
                grid.shape[0] == x.shape[0] && grid.shape[3] == 2 && grid.shape.count > 0 && x.shape.count > 0,
                "grid \(grid.shape)", "places in \(x.shape)")
            try operands.require(
                grid.shape[1] * grid.shape[2] <= 1 << 22, "grid \(grid.shape)", "at most \(1 << 22) places")
            return [try operands.sampled(x, grid.tensor, alignsCorners: alignsCorners)]
        },
    ]
}

extension ONNXOperands {
    /// Samples at places given from −1 to 1: a deformable convolution of one tap and no kernel, on a map that is as large
    /// as the grid.
    fileprivate func sampled(_ x: ImportedValue, _ grid: Tensor, alignsCorners: Bool) throws -> ImportedValue {
        let (height, width, rows, columns) = (x.shape[2], x.shape[3], grid.shape[1], grid.shape[2])
        let size = (height: max(height, rows), width: max(width, columns))
        _ = try shape([x.shape[0], size.height, size.width, max(2, x.shape[1])])
        // From the grid's units to pixels, relative to the pixel of the output.
        let extents = [Float(width), Float(height)]
        let slope = Tensor(extents.map { (extent: Float) -> Float in (alignsCorners ? extent - 1 : extent) / 2 }, [2])
        let origin = Tensor([1, rows, columns, 2]) { buffer in
            for place in 0..<rows * columns {
                for axis in 0..<2 {
                    let centre = (extents[axis] - 1) / 2
                    buffer[2 * place + axis] = centre - Float(axis == 0 ? place % columns : place / columns)
                }
            }
        }
        func fitted(_ tensor: Tensor) -> Tensor {
            tensor.padded([(1, 0, size.height - tensor.shape[1]), (2, 0, size.width - tensor.shape[2])])
        }
        let map = fitted(x.memory(.channelsLast))
        let masks = Tensor(repeating: 1, [map.shape[0], size.height, size.width, 1])
        let samples = deformableConvolution(
            map, offsets: fitted(grid * slope + origin), masks: masks, groups: 1, kernel: (1, 1), padding: 0)
        return ImportedValue(
            samples.sliced(axis: 1, from: 0, to: rows).sliced(axis: 2, from: 0, to: columns), .channelsLast)
    }

    /// A map at another size.
    fileprivate func resized(scales: Int, sizes: Int?) throws -> ImportedValue {
        let value = try map(0)
        let extents = value.shape.dimensions
        let target: [Int]
        if let sizes, has(sizes) {
            let given = try integers(sizes)
            target = given.count == 2 ? Array(extents[..<2]) + given : given
        } else {
            let given = has(scales) ? try known(scales).scalars : try floats("scales")
            let factors = given.count == 2 ? [1, 1] + given : given
            try require(
                factors.count == 4 && factors.allSatisfy { $0 > 0 && $0 <= 0x1p14 }, "scales \(factors)",
                "four factors")
            target = zip(extents, factors).map { Int((Float($0) * $1).rounded(.down)) }
            // Places are counted by the ratio of the sizes.
            for (axis, factor) in factors.enumerated() {
                let isExact = abs(Float(extents[axis]) * factor - Float(target[axis])) < 1e-3
                try require(isExact, "scale \(factor) of \(extents[axis])", "one that gives a whole number")
            }
        }
        try require(
            target.count == 4 && Array(target[..<2]) == Array(extents[..<2]) && target[2] > 0 && target[3] > 0,
            "size \(target)", "another height and width of \(value.shape)")
        _ = try shape(target)
        try requireSides(target)
        let mode = try text("mode", "nearest")
        let coordinates = try text("coordinate_transformation_mode", version < 11 ? "asymmetric" : "half_pixel")
        let x = value.memory(.channelsLast)
        if mode == "nearest" {
            let rows = try nearest(extents[2], target[2], coordinates)
            let columns = try nearest(extents[3], target[3], coordinates)
            return ImportedValue(x.gathered(rows, axis: 1).gathered(columns, axis: 2), .channelsLast)
        }
        let isCubic = mode == "cubic"
        let isExact = isCubic ? try float("cubic_coeff_a", -0.75) == -0.75 : mode == "linear"
        try require(
            isExact && ["half_pixel", "pytorch_half_pixel", "align_corners"].contains(coordinates)
                && !(try flag("exclude_outside")) && !(try flag("antialias")), "mode \(mode), \(coordinates)",
            "linear or cubic as PyTorch has it")
        return ImportedValue(
            x.resized(
                height: target[2], width: target[3], interpolation: isCubic ? .bicubic : .bilinear,
                alignCorners: coordinates == "align_corners"), .channelsLast)
    }

    private func floats(_ name: String) throws -> [Float] {
        guard case .floats(let values)? = node.attributes[name] else { throw refuse("no \(name)", "a list of factors") }
        return values
    }

    /// The place in the source that is nearest to each of the result.
    private func nearest(_ from: Int, _ to: Int, _ coordinates: String) throws -> [Int32] {
        let mode = try text("nearest_mode", version < 11 ? "floor" : "round_prefer_floor")
        return try (0..<to).map { index in
            let place: Double
            switch coordinates {
            case "asymmetric": place = Double(index * from) / Double(to)
            case "half_pixel", "pytorch_half_pixel":
                place =
                    to == 1 && coordinates != "half_pixel" ? 0 : (Double(index) + 0.5) * Double(from) / Double(to) - 0.5
            case "align_corners": place = to == 1 ? 0 : Double(index * (from - 1)) / Double(to - 1)
            default: throw refuse("coordinates \(coordinates)", "asymmetric, half_pixel or align_corners")
            }
            let rounded: Double
            switch mode {
            case "floor": rounded = place.rounded(.down)
            case "ceil": rounded = place.rounded(.up)
            case "round_prefer_floor": rounded = (place - 0.5).rounded(.up)
            case "round_prefer_ceil": rounded = (place + 0.5).rounded(.down)
            default: throw refuse("nearest_mode \(mode)", "floor, ceil or round")
            }
            return Int32(min(max(rounded, 0), Double(from - 1)))
        }
    }
}
