import Tessera

/// A stack of levels that computes its maps b from the maps a of the column before it:
///
/// b₀ = α₀ a₀ + L₀(x, a₁…), then bₗ = αₗ aₗ + Lₗ(bₗ₋₁, aₗ₊₁…)
///
/// As bₗ₋₁ and aₗ₊₁ are known by then, a can be computed back from b, from the last level to the first.
public protocol ReversibleColumn: Module {
    /// αₗ for each level, broadcast over the places of a map; nil in a first column, where a is zero.
    var scales: [Parameter]? { get }

    /// Lₗ of `below` = bₗ₋₁ (x for the first level) and `above` = aₗ₊₁, aₗ₊₂… (empty in a first column).
    func level(_ index: Int, _ below: Tensor, above: [Tensor]) -> Tensor

    var levelCount: Int { get }
}

extension ReversibleColumn {
    /// The maps of this column, given those of the one before: none for a first column.
    public func callAsFunction(_ x: Tensor, _ previous: [Tensor]) -> [Tensor] {
        var (below, maps) = (x, [Tensor]())
        for index in 0..<levelCount {
            below = step(index, below, previous)
            maps.append(below)
        }
        return maps
    }

    fileprivate func step(_ index: Int, _ below: Tensor, _ previous: [Tensor]) -> Tensor {
        let y = level(index, below, above: Array(previous.dropFirst(index + 1)))
        return scales.map { y + previous[index] * $0[index].tensor } ?? y
    }
}

/// The maps of the last of some columns on the input `x`.
///
/// In a ``TrainingPass`` only `x` and the result are kept for the backward pass, which computes the maps of each column
/// from those of the next one, level by level: the memory of one column, however many there are, for one more forward
/// pass and some rounding, which grows with 1/|α|.
///
/// "Reversible Column Networks" (2022), arXiv 2212.11696.
/// - Parameters:
///   - previous: the maps of the column before the first of `columns`; empty if that is a first column
///   - savesMemory: false to keep everything, as any other module does
public func reversible(
    _ columns: [any ReversibleColumn], _ x: Tensor, _ previous: [Tensor], savesMemory: Bool = true
) -> [Tensor] {
    guard savesMemory, Tape.isRecording, TrainingPass.current != nil, !x.isAbstract, !columns.isEmpty else {
        return columns.reduce(previous) { $1(x, $0) }
    }
    let shapes = TrainingPass.$current.withValue(nil) {
        Tape.pause { columns[0](Tensor(abstract: x.shape), previous.map { Tensor(abstract: $0.shape) }).map(\.shape) }
    }
    let parameters = columns.flatMap { $0.parameters.map(\.parameter).filter(\.isTrainable) }
    let operation = ReversibleOperation(columns: columns, parameters: parameters, shapes: shapes)
    return unpacked(apply(operation, [x] + previous + parameters.map(\.tensor)), shapes)
}

private final class PassLog: @unchecked Sendable {
    /// For each column and level, a pass that draws once more what its forward pass drew.
    var repetitions: [[TrainingPass?]] = []
}

private struct ReversibleOperation: Operation, @unchecked Sendable {
    static let name = "reversibleColumns"
    let columns: [any ReversibleColumn]
    let parameters: [Parameter]
    /// Of the maps of every column.
    let shapes: [Shape]
    let log = PassLog()
    let precision = Precision.current

    func shape(_ inputs: [Shape]) -> Shape { [shapes[0][0], shapes.reduce(0) { $0 + $1.count / $1[0] }] }

    private func previous<Element>(_ inputs: [Element]) -> [Element] {
        Array(inputs.dropFirst().dropLast(parameters.count))
    }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let x = inputs[0].detached
        let result = Tape.pause {
            columns.reduce(previous(inputs).map(\.detached)) { previous, column in
                var (below, maps, passes) = (x, [Tensor](), [TrainingPass?]())
                for index in shapes.indices {
                    passes.append(TrainingPass.current?.repetition)
                    below = column.step(index, below, previous)
                    maps.append(below)
                }
                log.repetitions.append(passes)
                return maps
            }
        }
        let output = Tape.pause { packed(result) }
        if saved.isNeeded { saved.tensors = [x, output] }
        return output
    }

    func backward(_ context: BackwardContext) -> [Tensor?] {
        let x = context.saved[0]
        var maps = unpacked(context.saved[1], shapes)
        var gradients = unpacked(context.gradient, shapes)
        var ofInput: Tensor?
        var ofParameters: [ObjectIdentifier: Tensor] = [:]
        for (column, passes) in zip(columns, log.repetitions).reversed() {
            var previous = [Tensor?](repeating: nil, count: shapes.count)
            var ofPrevious = [Tensor?](repeating: nil, count: shapes.count)
            for index in shapes.indices.reversed() {
                let below = Tape.leaf(index == 0 ? x : maps[index - 1])
                let above = column.scales == nil ? [] : previous[(index + 1)...].map { Tape.leaf($0!) }
                let tape = Tape()
                let y = precision.use {
                    TrainingPass.$current.withValue(passes[index]) {
                        tape.record { column.level(index, below, above: above) }
                    }
                }
                let gradient = gradients[index]
                let found = tape.gradients(of: y, cotangent: gradient)
                for (_, parameter) in column.parameters {
                    guard let value = found[parameter.tensor] else { continue }
                    ofParameters[ObjectIdentifier(parameter)] = value
                }
                if let value = found[below] {
                    if index == 0 {
                        ofInput = sum(ofInput, value)
                    } else {
                        gradients[index - 1] = gradients[index - 1] + value
                    }
                }
                guard let scale = column.scales?[index] else { continue }
                // The order of the sum in the forward pass: the result first.
                let map = (maps[index] - y.detached) / scale.value
                previous[index] = map
                ofParameters[ObjectIdentifier(scale)] = (map * gradient).sum(axes: [0, 1, 2], keepingAxes: true)
                for (leaf, place) in zip(above, (index + 1)...) {
                    if let value = found[leaf] { ofPrevious[place] = sum(ofPrevious[place], value) }
                }
                ofPrevious[index] = sum(ofPrevious[index], gradient * scale.value)
            }
            maps = previous.compactMap { $0 }
            gradients = ofPrevious.compactMap { $0 }
        }
        let results = [ofInput] + gradients + parameters.map { ofParameters[ObjectIdentifier($0)] }
        return zip(results, context.wanted).map { $1 ? $0 : nil }
    }

    private func sum(_ a: Tensor?, _ b: Tensor) -> Tensor { a.map { $0 + b } ?? b }
}
