import Tessera
import TesseraIO
import TesseraNN
import TesseraRuntime

/// A value of the graph while it is written: its memory has a name, and its axes may lie there in another order.
struct ExportedValue {
    let name: String
    let order: AxisOrder
    let shape: BatchShape
    /// The values of what does not depend on the image; it gets its name where it is used.
    let constant: Tensor?

    init(_ name: String, _ order: AxisOrder, _ shape: BatchShape) {
        (self.name, self.order, self.shape, constant) = (name, order, shape, nil)
    }

    init(constant: Tensor, _ shape: BatchShape) {
        (name, order, self.shape, self.constant) = ("", .plain(shape.rank), shape, constant)
    }
}

/// Collects nodes and constants, and brings operands into the order in which an operation wants them.
struct ONNXBuilder {
    private(set) var nodes: [ONNXNode] = []
    private(set) var constants: [ONNXConstant] = []
    private let parameters: [ConstantKey: String]
    private var count = 0
    /// With the tensor, which keeps its memory from becoming another's.
    private var names: [ConstantKey: (name: String, tensor: Tensor)] = [:]
    private var integerNames: [[Int]: String] = [:]
    private var scalarNames: [UInt32: String] = [:]
    private var transposed: [TransposeKey: String] = [:]
    private var batchName: String?

    static let input = "input"

    private struct ConstantKey: Hashable {
        let storage: ObjectIdentifier
        let shape: Shape
        let order: AxisOrder
    }

    private struct TransposeKey: Hashable {
        let name: String
        let permutation: [Int]
    }

    /// - Parameter parameters: what keeps its name, if it is written in the layout of PyTorch's files
    init(parameters: [(key: String, parameter: Parameter)]) {
        var names: [ConstantKey: String] = [:]
        for (name, parameter) in parameters {
            let tensor = parameter.value
            guard let storage = tensor.storage, parameter.layout != .pointwise else { continue }
            let order = parameter.layout == .convolution ? .channelsFirst : AxisOrder.plain(tensor.rank)
            let key = ConstantKey(storage: ObjectIdentifier(storage), shape: tensor.shape, order: order)
            if names[key] == nil { names[key] = name }
        }
        self.parameters = names
    }

    /// Adds an operation with one result.
    /// - Returns: the result's name
    mutating func add(
        _ operation: String, _ inputs: [String], _ attributes: [String: ONNXAttribute] = [:], output: String? = nil
    ) -> String {
        count += 1
        let name = output ?? "\(operation)_\(count)"
        nodes.append(
            ONNXNode(operation: operation, name: name, inputs: inputs, outputs: [name], attributes: attributes))
        return name
    }

    /// A constant list of whole numbers.
    mutating func integers(_ values: [Int]) -> String {
        if let name = integerNames[values] { return name }
        let name = "integers_\(integerNames.count)"
        constants.append(ONNXConstant(name: name, tensor: .integers(values, [values.count])))
        integerNames[values] = name
        return name
    }

    mutating func scalar(_ value: Float) -> String {
        if let name = scalarNames[value.bitPattern] { return name }
        let name = "scalar_\(scalarNames.count)"
        constants.append(ONNXConstant(name: name, tensor: .floats(Tensor(value))))
        scalarNames[value.bitPattern] = name
        return name
    }

    /// A constant whose memory has the given order.
    mutating func constant(_ tensor: Tensor, _ order: AxisOrder? = nil) -> String {
        let order = order ?? .plain(tensor.rank)
        let key = ConstantKey(storage: ObjectIdentifier(tensor.storage!), shape: tensor.shape, order: order)
        if let known = names[key] { return known.name }
        // Two colons tell readers of weights that it is no parameter as it was.
        let name = parameters[key] ?? "onnx::constant_\(constants.count)"
        let memory = Tape.pause { tensor.transposed(order.inverse) }
        constants.append(ONNXConstant(name: name, tensor: .floats(memory)))
        names[key] = (name, tensor)
        return name
    }

    /// A constant weight whose memory has the given order; with `bits`, as codes with a scale for each row, which are
    /// read back as floats.
    mutating func weight(_ tensor: Tensor, _ order: AxisOrder, bits: Int?) -> String {
        guard let bits else { return constant(tensor, order) }
        let key = ConstantKey(storage: ObjectIdentifier(tensor.storage!), shape: tensor.shape, order: order)
        if let known = names[key] { return known.name }
        let weight = QuantizedWeight(tensor, bits: bits)
        let memory = Tape.pause { Tensor(weight.codes.map(Float.init), weight.shape).transposed(order.inverse) }
        let name = parameters[key] ?? "onnx::weight_\(constants.count)"
        let (codes, scales) = (name + "_codes", name + "_scale")
        constants.append(ONNXConstant(name: codes, tensor: .codes(memory.scalars.map { Int8($0) }, memory.shape)))
        constants.append(ONNXConstant(name: scales, tensor: .floats(Tensor(weight.scales, [weight.scales.count]))))
        let floats = add("DequantizeLinear", [codes, scales], ["axis": .integer(order.axes[0])])
        names[key] = (floats, tensor)
        return floats
    }

    /// The zero that says that codes are signed.
    mutating func zeroCode() -> String {
        let name = "zero_code"
        if !constants.contains(where: { $0.name == name }) {
            constants.append(ONNXConstant(name: name, tensor: .codes([0], [])))
        }
        return name
    }

    /// The number of images times `factor`, a list of one.
    mutating func batch(times factor: Int) -> String {
        let name =
            batchName ?? add("Shape", [ONNXBuilder.input], ["start": .integer(0), "end": .integer(1)], output: "batch")
        batchName = name
        return factor == 1 ? name : add("Mul", [name, integers([factor])])
    }

    /// A list of whole numbers in which −1 stands for the number of images times `factor`.
    mutating func dynamicList(_ values: [Int], factor: Int = 1) -> String {
        guard let place = values.firstIndex(of: -1) else { return integers(values) }
        var parts = [batch(times: factor)]
        if place > 0 { parts.insert(integers(Array(values[..<place])), at: 0) }
        if place + 1 < values.count { parts.append(integers(Array(values[(place + 1)...]))) }
        return parts.count == 1 ? parts[0] : add("Concat", parts, ["axis": .integer(0)])
    }

    /// The name of a value whose memory has the given order.
    mutating func memory(_ value: ExportedValue, _ order: AxisOrder) -> String {
        if let constant = value.constant { return memory(constant, value.shape, order) }
        let permutation = value.order.permutation(to: order)
        if permutation == Array(permutation.indices) { return value.name }
        let key = TransposeKey(name: value.name, permutation: permutation)
        if let name = transposed[key] { return name }
        let name = add("Transpose", [value.name], ["perm": .integers(permutation)])
        transposed[key] = name
        return name
    }

    /// The same in the plain order.
    mutating func memory(_ value: ExportedValue) -> String { memory(value, .plain(value.shape.rank)) }

    /// A constant that was made for a number of images holds the same for each of them.
    private mutating func memory(_ tensor: Tensor, _ shape: BatchShape, _ order: AxisOrder) -> String {
        guard let axis = shape.axis else { return constant(tensor, order) }
        let image = ONNXBuilder.image(tensor, shape)
        let place = order.axes[axis]
        var repeats = [Int](repeating: 1, count: shape.rank)
        repeats[place] = -1
        return add("Tile", [constant(image, order), dynamicList(repeats)])
    }

    /// The part of a constant that belongs to one image.
    private static func image(_ tensor: Tensor, _ shape: BatchShape) -> Tensor {
        guard let axis = shape.axis else { return tensor }
        return Tape.pause { tensor.sliced(axis: axis, from: 0, to: shape.imageExtent) }
    }

    /// The operands of an elementwise operation, all in one order, under their names.
    mutating func aligned(_ inputs: [ExportedValue], _ output: BatchShape) -> (names: [String], order: AxisOrder) {
        let plain = AxisOrder.plain(output.rank)
        let variables = inputs.filter { $0.constant == nil }
        var order = variables.first { $0.shape.rank == output.rank && !$0.order.isPlain }?.order ?? plain
        if variables.contains(where: { $0.shape.rank != output.rank }) { order = plain }
        let names = inputs.map { input in
            guard let constant = input.constant else {
                return memory(input, AxisOrder.fitting(order, input.shape.rank))
            }
            // What is the same for every image broadcasts over them.
            guard input.shape.imageExtent == 1 else { return memory(input, order) }
            let image = ONNXBuilder.image(constant, input.shape)
            return order.isPlain || image.count == 1
                ? self.constant(image) : self.constant(image.padded(rank: order.rank), order)
        }
        return (names, order)
    }

    /// An elementwise operation.
    mutating func pointwise(
        _ operation: String, _ inputs: [ExportedValue], _ output: BatchShape,
        _ attributes: [String: ONNXAttribute] = [:]
    ) -> ExportedValue {
        let (names, order) = aligned(inputs, output)
        return ExportedValue(add(operation, names, attributes), order, output)
    }

    /// A value read under another shape, without moving data where that is possible.
    mutating func reshape(_ value: ExportedValue, _ output: BatchShape) -> ExportedValue {
        let order = value.order.reshaped(from: value.shape.shape, to: output.shape)
        let name = order == nil || value.constant != nil ? memory(value) : value.name
        let result = value.constant == nil ? order ?? .plain(output.rank) : .plain(output.rank)
        return ExportedValue(add("Reshape", [name, integers(result.inMemory(output.extents))]), result, output)
    }
}

extension AxisOrder {
    /// `order` for values of its rank, the plain order for others.
    fileprivate static func fitting(_ order: AxisOrder, _ rank: Int) -> AxisOrder {
        order.rank == rank ? order : .plain(rank)
    }
}

extension Tensor {
    /// With leading axes of extent 1, as broadcasting reads it.
    fileprivate func padded(rank: Int) -> Tensor {
        reshaped(Shape([Int](repeating: 1, count: Swift.max(0, rank - self.rank)) + shape.dimensions))
    }
}
