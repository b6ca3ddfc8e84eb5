import Foundation
import Tessera

extension ONNXFunction {
    static let elementwiseOperators: [String: Operator] = [
        "Relu": activation(.relu), "Sigmoid": activation(.sigmoid), "Tanh": activation(.tanh),
        "HardSwish": activation(.hardSwish), "Exp": unary { $0.exp() }, "Log": unary { $0.log() },
        "Sqrt": unary { $0.squareRoot() }, "Sin": unary { $0.sine() }, "Cos": unary { $0.cosine() },
        "Neg": unary { -$0 }, "Abs": unary { $0.absolute() }, "Reciprocal": unary { 1 / $0 },
        "Identity": { [try $0[0]] }, "Dropout": { [try $0[0]] },
        "Add": arithmetic(.add), "Sub": arithmetic(.subtract), "Mul": arithmetic(.multiply), "Div": arithmetic(.divide),
        "Max": arithmetic(.maximum), "Min": arithmetic(.minimum), "Sum": arithmetic(.add),
        "Gelu": { operands in
            let approximation = try operands.text("approximate", "none")
            try operands.require(["none", "tanh"].contains(approximation), approximation, "none or tanh")
            return [try operands[0].mapped { $0.activated(approximation == "tanh" ? .geluTanh : .gelu) }]
        },
        "HardSigmoid": { operands in
            let (slope, shift) = (try operands.float("alpha", 0.2), try operands.float("beta", 0.5))
            if abs(slope - 1.0 / 6) < 1e-6, shift == 0.5 { return try activation(.hardSigmoid)(operands) }
            return [try operands[0].mapped { maximum(minimum($0 * slope + shift, Tensor(1)), Tensor(0)) }]
        },
        "LeakyRelu": { operands in
            let slope = try operands.float("alpha", 0.01)
            return [try operands[0].mapped { maximum($0, Tensor(0)) + minimum($0, Tensor(0)) * slope }]
        },
        "PRelu": { operands in
            let (tensors, order, _) = try operands.aligned([operands[0], operands[1]])
            return [ImportedValue(maximum(tensors[0], Tensor(0)) + minimum(tensors[0], Tensor(0)) * tensors[1], order)]
        },
        "Clip": { operands in
            func bound(_ index: Int, _ name: String, _ standard: Float) throws -> Float {
                operands.has(index) ? try operands.scalar(index) : try operands.float(name, standard)
            }
            let low = try bound(1, "min", -.greatestFiniteMagnitude)
            let high = try bound(2, "max", .greatestFiniteMagnitude)
            if low == 0, high == 6 { return try activation(.relu6)(operands) }
            return [try operands[0].mapped { minimum(maximum($0, Tensor(low)), Tensor(high)) }]
        },
        "Pow": { operands in
            let x = try operands[0]
            guard try operands[1].memory.count == 1 else {
                let (tensors, order, isWhole) = try operands.aligned([x, operands[1]])
                return [try operands.known(tensors, order, isWhole) { Float(pow(Double($0[0]), Double($0[1]))) }]
            }
            let exponent = try operands.scalar(1)
            return [
                x.mapped { x in
                    switch exponent {
                    case 1: x
                    case 2: x * x
                    case 0.5: x.squareRoot()
                    default: x.power(exponent)
                    }
                }
            ]
        },
    ]

    static func activation(_ activation: Activation) -> Operator { unary { $0.activated(activation) } }

    private static func unary(_ function: @escaping @Sendable (Tensor) -> Tensor) -> Operator {
        { [try $0[0].mapped(function)] }
    }

    /// Two operands, or several where the operator takes them.
    private static func arithmetic(_ kind: BinaryArithmetic.Kind) -> Operator {
        { operands in
            var result = try operands[0]
            for index in 1..<max(1, operands.values.count) {
                let (tensors, order, isWhole) = try operands.aligned([result, operands[index]])
                if isWhole {
                    // Division of whole numbers forgets the rest.
                    let body: (Float, Float) throws -> Float =
                        switch kind {
                        case .add: { $0 + $1 }
                        case .subtract: { $0 - $1 }
                        case .multiply: { $0 * $1 }
                        case .maximum: { max($0, $1) }
                        case .minimum: { min($0, $1) }
                        case .divide:
                            {
                                try operands.require($1 != 0, "a division by zero", "another divisor")
                                return ($0 / $1).rounded(.towardZero)
                            }
                        }
                    result = try operands.known(tensors, order, true) { try body($0[0], $0[1]) }
                } else {
                    result = ImportedValue(apply(BinaryArithmetic(kind: kind), tensors), order)
                }
            }
            return [result]
        }
    }

    /// Operators whose results are known while the graph is traced.
    static let comparisonOperators: [String: Operator] = [
        "Equal": comparison { $0[0] == $0[1] ? 1 : 0 }, "Less": comparison { $0[0] < $0[1] ? 1 : 0 },
        "Greater": comparison { $0[0] > $0[1] ? 1 : 0 }, "LessOrEqual": comparison { $0[0] <= $0[1] ? 1 : 0 },
        "GreaterOrEqual": comparison { $0[0] >= $0[1] ? 1 : 0 }, "Not": comparison { $0[0] == 0 ? 1 : 0 },
        "And": comparison { $0[0] != 0 && $0[1] != 0 ? 1 : 0 }, "Or": comparison { $0[0] != 0 || $0[1] != 0 ? 1 : 0 },
        "Floor": rounding(.down), "Ceil": rounding(.up), "Round": rounding(.toNearestOrEven),
        "Mod": { operands in
            let (tensors, order, isWhole) = try operands.aligned([operands[0], operands[1]])
            let truncates = try operands.flag("fmod")
            return [
                try operands.known(tensors, order, isWhole) { numbers in
                    try operands.require(numbers[1] != 0, "a division by zero", "another divisor")
                    let quotient = (numbers[0] / numbers[1]).rounded(truncates ? .towardZero : .down)
                    return numbers[0] - quotient * numbers[1]
                }
            ]
        },
        "Cast": { operands in
            let value = try operands[0]
            let type = try operands.integer("to", 1)
            if [1, 10, 11, 16].contains(type) { return [ImportedValue(value.memory, value.order)] }
            try operands.require(
                [2, 3, 5, 6, 7, 9].contains(type), "type \(type)", "floats, whole numbers or truth values")
            let whole = try operands.known([value.memory], value.order, true) { numbers in
                type == 9 ? (numbers[0] == 0 ? 0 : 1) : numbers[0].rounded(.towardZero)
            }
            return [whole]
        },
        "Where": { operands in
            let (tensors, order, _) = try operands.aligned([operands[0], operands[1], operands[2]])
            let isWhole = try operands[1].isWhole && operands[2].isWhole
            if tensors.allSatisfy({ !$0.isAbstract }) {
                return [try operands.known(tensors, order, isWhole) { $0[0] != 0 ? $0[1] : $0[2] }]
            }
            // One side is known, perhaps −∞: what is not chosen of it is zero before it is added.
            let mask = try operands.known([tensors[0]], order, true) { $0[0] != 0 ? 1 : 0 }.memory
            func chosen(_ side: Tensor, _ mask: Tensor) throws -> Tensor {
                if side.isAbstract { return side * mask }
                let shape = try operands.broadcast([side.shape, mask.shape])
                return try operands.known([mask, side], .plain(shape.rank), false) { $0[0] != 0 ? $0[1] : 0 }.memory
            }
            return [ImportedValue(try chosen(tensors[1], mask) + chosen(tensors[2], 1 - mask), order)]
        },
    ]

    private static func comparison(_ body: @escaping @Sendable ([Float]) -> Float) -> Operator {
        { operands in
            let (tensors, order, _) = try operands.aligned(operands.values.indices.map { try operands[$0] })
            return [try operands.known(tensors, order, true, body)]
        }
    }

    private static func rounding(_ rule: FloatingPointRoundingRule) -> Operator {
        { operands in
            let value = try operands[0]
            return [try operands.known([value.memory], value.order, value.isWhole) { $0[0].rounded(rule) }]
        }
    }
}

extension ONNXOperands {
    /// A function of the elements of known tensors that broadcast to each other; of one, or of all at a place.
    func known(
        _ tensors: [Tensor], _ order: AxisOrder, _ isWhole: Bool, _ body: ([Float]) throws -> Float
    ) throws -> ImportedValue {
        try require(tensors.allSatisfy { !$0.isAbstract }, "an operand that depends on the image", "constants")
        let shape = try broadcast(tensors.map(\.shape))
        let numbers = Tape.pause { tensors.map { $0.broadcast(to: shape).scalars } }
        let result = try (0..<shape.count).map { place in try body(numbers.map { $0[place] }) }
        return ImportedValue(Tensor(result, shape), shape.rank == order.rank ? order : nil, isWhole: isWhole)
    }
}
