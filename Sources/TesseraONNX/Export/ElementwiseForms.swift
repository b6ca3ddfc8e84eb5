import Tessera

extension ONNXBuilder {
    /// An activation of the memory called `x`, in whatever order.
    mutating func activated(_ x: String, _ activation: Activation) -> String {
        switch activation {
        case .identity: return x
        case .relu: return add("Relu", [x])
        case .sigmoid: return add("Sigmoid", [x])
        case .tanh: return add("Tanh", [x])
        case .hardSwish: return add("HardSwish", [x])
        case .hardSigmoid: return add("HardSigmoid", [x], ["alpha": .float(1.0 / 6), "beta": .float(0.5)])
        case .relu6: return add("Clip", [x, scalar(0), scalar(6)])
        case .silu: return add("Mul", [x, add("Sigmoid", [x])])
        case .quickGelu: return add("Mul", [x, add("Sigmoid", [add("Mul", [x, scalar(1.702)])])])
        case .gelu:
            // x / 2 · (1 + erf(x / √2)), in the order in which other exporters write it and runtimes know it.
            let erf = add("Erf", [add("Div", [x, scalar(Float(2).squareRoot())])])
            return add("Mul", [add("Mul", [x, add("Add", [erf, scalar(1)])]), scalar(0.5)])
        case .geluTanh:
            // x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))
            let cube = add("Mul", [add("Mul", [x, x]), x])
            let inner = add("Add", [x, add("Mul", [cube, scalar(0.044715)])])
            let tanh = add("Tanh", [add("Mul", [inner, scalar((2 / Float.pi).squareRoot())])])
            return add("Mul", [add("Mul", [x, add("Add", [tanh, scalar(1)])]), scalar(0.5)])
        }
    }
}

extension Activate: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let (names, order) = builder.aligned(inputs, output)
        return ExportedValue(builder.activated(names[0], activation), order, output)
    }
}

extension BinaryArithmetic: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let operation =
            switch kind {
            case .add: "Add"
            case .subtract: "Sub"
            case .multiply: "Mul"
            case .divide: "Div"
            case .maximum: "Max"
            case .minimum: "Min"
            }
        return builder.pointwise(operation, inputs, output)
    }
}

extension UnaryFunction: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let operation =
            switch kind {
            case .exp: "Exp"
            case .log: "Log"
            case .squareRoot: "Sqrt"
            case .sine: "Sin"
            case .cosine: "Cos"
            }
        return builder.pointwise(operation, inputs, output)
    }
}

extension Power: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let (names, order) = builder.aligned(inputs, output)
        return ExportedValue(builder.add("Pow", [names[0], builder.scalar(exponent)]), order, output)
    }
}

extension Softmax: ONNXExportable {
    func export(_ inputs: [ExportedValue], _ output: BatchShape, to builder: inout ONNXBuilder) -> ExportedValue {
        let (names, order) = builder.aligned(inputs, output)
        let axis = order.axes[output.rank - 1]
        let operation = isLogarithm ? "LogSoftmax" : "Softmax"
        return ExportedValue(builder.add(operation, names, ["axis": .integer(axis)]), order, output)
    }
}
