import Tessera
import TesseraIO

/// A value of an imported graph: memory, and the order of its axes there.
///
/// Whole numbers and truth values are floats too, exact up to 2²⁴; they are known while the graph is traced, as shapes
/// and indices are.
struct ImportedValue {
    let memory: Tensor
    let order: AxisOrder
    let isWhole: Bool

    init(_ memory: Tensor, _ order: AxisOrder? = nil, isWhole: Bool = false) {
        (self.memory, self.order, self.isWhole) = (memory, order ?? .plain(memory.rank), isWhole)
    }

    /// A list of whole numbers.
    init(_ values: [Int], _ shape: Shape? = nil) {
        self.init(Tensor(values.map(Float.init), shape ?? [values.count]), isWhole: true)
    }

    init(_ tensor: ONNXTensor) {
        switch tensor {
        case .floats(let tensor): self.init(tensor)
        case .integers(let values, let shape): self.init(values, shape)
        case .codes(let values, let shape): self.init(values.map { Int($0) }, shape)
        }
    }

    var shape: Shape { Shape(order.axes.map { memory.shape[$0] }) }
    var rank: Int { memory.rank }
    var isKnown: Bool { !memory.isAbstract }

    /// The memory after it was brought into another order.
    func memory(_ wanted: AxisOrder) -> Tensor { memory.transposed(order.permutation(to: wanted)) }

    /// The memory in the plain order.
    var tensor: Tensor { memory(.plain(rank)) }

    /// The memory in an order of more axes: leading ones of extent 1 are added.
    func memory(broadcasting wanted: AxisOrder) -> Tensor {
        if rank == wanted.rank { return memory(wanted) }
        if memory.count == 1 { return memory.reshaped([]) }
        let missing = [Int](repeating: 1, count: wanted.rank - rank)
        return ImportedValue(tensor.reshaped(Shape(missing + shape.dimensions))).memory(wanted)
    }

    /// The same numbers after a function of each.
    func mapped(_ body: (Tensor) -> Tensor) -> ImportedValue { ImportedValue(body(memory), order, isWhole: isWhole) }

    /// The same under another shape.
    func reshaped(_ target: Shape) -> ImportedValue {
        guard let after = order.reshaped(from: shape, to: target) else {
            return ImportedValue(tensor.reshaped(target), isWhole: isWhole)
        }
        return ImportedValue(memory.reshaped(after.inMemory(target)), after, isWhole: isWhole)
    }
}
