import Tessera
import TesseraIO
import TesseraRuntime

extension Product: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) throws -> ExportedValue
    {
        let (weight, bias) = (operand(.weight, inputs)!, operand(.bias, inputs))
        let x = quantization.map { builder.rounded(operand(.x, inputs)!, $0.input) } ?? operand(.x, inputs)!
        let bits = quantization?.weightBits
        guard !has(.normWeight), !has(.normBias), bias?.constant != nil || bias == nil else {
            throw ONNXExportError(subject: Self.name, reason: "was fused for this runtime")
        }
        var result: ExportedValue
        if let convolution {
            result = try convolution.export(x, weight, bits, bias, output, to: &builder)
        } else if let kernel = weight.constant, x.order == .channelsFirst {
            // A linear layer on a map with its channels first is a convolution of single places.
            let (outputs, channels) = (kernel.shape[0], kernel.shape[1])
            let places = Tape.pause { kernel.reshaped([outputs, channels, 1, 1]) }
            let names = [x.name, builder.weight(places, .plain(4), bits: bits)]
            let y = builder.add("Conv", names + builder.bias(bias), ["kernel_shape": .integers([1, 1])])
            result = ExportedValue(y, x.order, output)
        } else {
            result = builder.linear(x, weight, bits, bias, output)
        }
        result = ExportedValue(builder.activated(result.name, activation), result.order, output)
        guard let residual = operand(.residual, inputs) else { return result }
        return builder.pointwise("Add", [residual, result], output)
    }
}

extension Convolution {
    fileprivate func export(
        _ x: ExportedValue, _ weight: ExportedValue, _ bits: Int?, _ bias: ExportedValue?, _ output: BatchShape,
        to builder: inout ONNXBuilder
    ) throws -> ExportedValue {
        guard let kernel = weight.constant else {
            throw ONNXExportError(subject: Self.name, reason: "has a weight that depends on the image")
        }
        let operands = [builder.memory(x, .channelsFirst), builder.weight(kernel, .channelsFirst, bits: bits)]
        let names = operands + builder.bias(bias)
        let attributes: [String: ONNXAttribute] = [
            "kernel_shape": .integers([kernel.shape[1], kernel.shape[2]]),
            "strides": .integers([stride.height, stride.width]),
            "pads": .integers([padding.top, padding.left, padding.bottom, padding.right]),
            "dilations": .integers([dilation.height, dilation.width]), "group": .integer(groups),
        ]
        return ExportedValue(builder.add("Conv", names, attributes), .channelsFirst, output)
    }
}

extension ONNXBuilder {
    fileprivate mutating func bias(_ bias: ExportedValue?) -> [String] {
        (bias?.constant).map { [constant($0)] } ?? []
    }

    fileprivate mutating func linear(
        _ x: ExportedValue, _ weight: ExportedValue, _ bits: Int?, _ bias: ExportedValue?, _ output: BatchShape
    ) -> ExportedValue {
        let order = AxisOrder.plain(output.rank)
        let rows = memory(x)
        func weights(_ order: AxisOrder) -> String {
            bits == nil ? memory(weight, order) : self.weight(weight.constant!, order, bits: bits)
        }
        if output.rank == 2 {
            let names = [rows, weights(.plain(2))] + self.bias(bias)
            return ExportedValue(add("Gemm", names, ["transB": .integer(1)]), order, output)
        }
        let product = add("MatMul", [rows, weights(AxisOrder([1, 0]))])
        guard let bias = self.bias(bias).first else { return ExportedValue(product, order, output) }
        return ExportedValue(add("Add", [bias, product]), order, output)
    }
}

extension MatrixProduct: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let names = zip(inputs, [transposesLeft, transposesRight]).map { input, isTransposed in
            var order = Array(0..<input.shape.rank)
            if isTransposed { order.swapAt(order.count - 2, order.count - 1) }
            return builder.memory(input, AxisOrder(order))
        }
        return ExportedValue(builder.add("MatMul", names), .plain(output.rank), output)
    }
}
