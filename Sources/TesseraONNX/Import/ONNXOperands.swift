import Tessera
import TesseraIO

/// What an operator is given: a node with its operands, checked as they are asked for.
struct ONNXOperands {
    let file: String
    let node: ONNXNode
    let version: Int
    let values: [ImportedValue?]
    /// Results may not be larger.
    let mostElements: Int

    /// Of a value that depends on the image: 4 GiB.
    static let mostElements = 1 << 30

    func refuse(_ found: String, _ expected: String) -> FormatError {
        FormatError(
            file: file, subject: "node \(node.name.isEmpty ? node.outputs.first ?? "" : node.name) (\(node.operation))",
            found: found, expected: expected)
    }

    func require(_ condition: Bool, _ found: @autoclosure () -> String, _ expected: @autoclosure () -> String) throws {
        if !condition { throw refuse(found(), expected()) }
    }

    func has(_ index: Int) -> Bool { index < values.count && values[index] != nil }

    subscript(index: Int) -> ImportedValue {
        get throws {
            guard index < values.count, let value = values[index] else {
                throw refuse("\(values.count) operands", "an operand \(index)")
            }
            return value
        }
    }

    /// An operand of a rank.
    func value(_ index: Int, rank: ClosedRange<Int>) throws -> ImportedValue {
        let value = try self[index]
        try require(rank.contains(value.rank), "an operand of shape \(value.shape)", "a rank from \(rank.lowerBound)")
        return value
    }

    /// A map `[batch, channels, height, width]`. Some operators prepare something for each row and column.
    func map(_ index: Int) throws -> ImportedValue {
        let value = try value(index, rank: 4...4)
        try requireSides(value.shape.dimensions)
        return value
    }

    func requireSides(_ map: [Int]) throws {
        try require(map.suffix(2).allSatisfy { $0 <= 1 << 14 }, "a map of shape \(map)", "sides of at most \(1 << 14)")
    }

    /// An operand that does not depend on the image.
    func known(_ index: Int) throws -> Tensor {
        let value = try self[index]
        try require(value.isKnown, "operand \(index) that depends on the image", "a constant")
        return value.tensor
    }

    /// Whole numbers; what 32 bits cannot hold means as far as possible.
    func integers(_ index: Int) throws -> [Int] {
        try known(index).scalars.map { (value: Float) -> Int in
            let isExact = value == value.rounded() && abs(value) <= 0x1p24
            try require(isExact || abs(value) >= 0x1p31, "operand \(index) with \(value)", "whole numbers up to 2²⁴")
            return isExact ? Int(value) : value < 0 ? Int(Int32.min) : Int(Int32.max)
        }
    }

    /// A list that newer versions take as an operand and older ones as an attribute.
    func integers(_ index: Int, or attribute: String) throws -> [Int]? {
        has(index) ? try integers(index) : try integers(attribute)
    }

    func scalar(_ index: Int) throws -> Float {
        let tensor = try known(index)
        try require(tensor.count == 1, "operand \(index) of shape \(tensor.shape)", "one number")
        return tensor.scalars[0]
    }

    func integer(_ name: String, _ standard: Int) throws -> Int {
        guard let attribute = node.attributes[name] else { return standard }
        guard case .integer(let value) = attribute, abs(value) <= Int32.max else {
            throw refuse("attribute \(name)", "a whole number")
        }
        return value
    }

    func flag(_ name: String, _ standard: Bool = false) throws -> Bool { try integer(name, standard ? 1 : 0) != 0 }

    func float(_ name: String, _ standard: Float) throws -> Float {
        guard let attribute = node.attributes[name] else { return standard }
        guard case .float(let value) = attribute else { throw refuse("attribute \(name)", "a number") }
        return value
    }

    func text(_ name: String, _ standard: String) throws -> String {
        guard let attribute = node.attributes[name] else { return standard }
        guard case .text(let value) = attribute else { throw refuse("attribute \(name)", "a text") }
        return value
    }

    func integers(_ name: String) throws -> [Int]? {
        guard let attribute = node.attributes[name] else { return nil }
        guard case .integers(let values) = attribute, values.allSatisfy({ abs($0) <= Int32.max }) else {
            throw refuse("attribute \(name)", "whole numbers")
        }
        return values
    }

    /// An axis that may count from the end.
    func axis(_ axis: Int, rank: Int) throws -> Int {
        let positive = axis < 0 ? axis + rank : axis
        try require(positive >= 0 && positive < rank, "axis \(axis)", "an axis of \(rank)")
        return positive
    }

    /// Different axes, in order.
    func axes(_ axes: [Int], rank: Int) throws -> [Int] {
        let positive = try axes.map { try axis($0, rank: rank) }
        try require(Set(positive).count == axes.count, "axes \(axes)", "different ones")
        return positive.sorted()
    }

    /// A shape whose elements can be counted.
    func shape(_ extents: [Int]) throws -> Shape {
        let count = extents.reduce(Optional(1)) { count, extent in
            guard let count, extent >= 0, extent <= mostElements else { return nil }
            let product = count * max(1, extent)
            return product > mostElements ? nil : product
        }
        try require(count != nil && extents.count <= 8, "shape \(extents)", "up to \(mostElements) elements in 8 axes")
        return Shape(extents)
    }

    /// The shape to which shapes broadcast.
    func broadcast(_ shapes: [Shape]) throws -> Shape {
        let rank = shapes.map(\.rank).max() ?? 0
        return try shape(
            (0..<rank).map { axis in
                let extents = Set(shapes.compactMap { $0.rank >= rank - axis ? $0[axis - rank + $0.rank] : nil })
                let others = extents.subtracting([1])
                try require(others.count <= 1, "shapes \(shapes)", "shapes that broadcast")
                return others.first ?? 1
            })
    }

    /// Operands of an elementwise operation, their memory in one order.
    func aligned(_ values: [ImportedValue]) throws -> (tensors: [Tensor], order: AxisOrder, isWhole: Bool) {
        let shape = try broadcast(values.map(\.shape))
        let whole = values.filter { $0.rank == shape.rank }
        let order = (whole.filter { !$0.isKnown } + whole).lazy.map(\.order).first { !$0.isPlain } ?? .plain(shape.rank)
        return (values.map { $0.memory(broadcasting: order) }, order, values.allSatisfy(\.isWhole))
    }
}
