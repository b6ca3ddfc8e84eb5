import CKernels
import Tessera

/// Where each value of a graph lies: in a buffer of the arena, in the memory of a constant, of the image or of an output,
/// or inside another value.
///
/// Reshapes and slices of whole rows are views, and slices of channels that attentions or transpositions read. A
/// concatenation along the first axis is computed in place: its parts are written where they belong. An output is written
/// straight into the memory that the caller gets.
struct Placement {
    enum Home: Equatable {
        case buffer(Int)
        case constant(Graph.ValueID)
        case input
        case output(Int)
    }

    /// A value inside a home, in floats from where the home begins.
    struct Place: Equatable {
        var home: Home
        var offset = 0
    }

    private let graph: Graph
    private let producers: [Int?]
    private(set) var places: [Graph.ValueID: Place] = [:]
    /// The floats of each buffer.
    private(set) var buffers: [Int] = []
    /// Values that are held in codes, and what makes them: those that one quantized product leaves to the next.
    let codes: [Graph.ValueID: Quantizer]
    /// Values that are held in bfloat16.
    let rounded: Set<Graph.ValueID>
    /// The floats from token to token of slices of channels, which stay where they are, as only attentions and transpositions
    /// read them.
    let rows: [Graph.ValueID: Int]
    /// Outputs that are copied at the end, as they lie elsewhere.
    private(set) var copiedOutputs: [Int] = []

    init(_ graph: Graph) {
        self.graph = graph
        producers = graph.producers
        codes = graph.codedValues
        rounded = graph.roundedValues
        rows = Placement.rowsOfSlices(graph)
        places[graph.input] = Place(home: .input)
        for (index, id) in graph.outputs.enumerated() {
            let root = wholeRoot(of: id, producers)
            if places[root] == nil, producers[root] != nil, !isView(graph.nodes[producers[root]!]) {
                places[root] = Place(home: .output(index))
            } else {
                copiedOutputs.append(index)
            }
        }
        // From the end, so that a concatenation inside another has its place first.
        for node in graph.nodes.reversed() where !isView(node) {
            if places[node.output] == nil { places[node.output] = newBuffer(floats(of: node.output)) }
            guard isContiguous(node) else { continue }
            var start = 0
            for part in node.inputs {
                let root = wholeRoot(of: part, producers)
                if places[root] == nil, let producer = producers[root], !isView(graph.nodes[producer]) {
                    places[root] = places[node.output]!
                    places[root]!.offset += start
                }
                start += graph.shape(part).count
            }
        }
        for node in graph.nodes where isView(node) {
            var place = self.place(node.inputs[0])
            if let slice = node.operation as? Slice {
                place.offset += slice.range.lowerBound * graph.shape(node.inputs[0]).stride(slice.axis)
            }
            places[node.output] = place
        }
    }

    func place(_ id: Graph.ValueID) -> Place {
        graph.constant(id) == nil ? places[id]! : Place(home: .constant(id))
    }

    /// The floats from one image's value to the next one's.
    func stride(_ home: Home) -> Int {
        switch home {
        case .buffer(let index): buffers[index]
        case .constant: 0
        case .input: graph.shape(graph.input).count
        case .output(let index): graph.shape(graph.outputs[index]).count
        }
    }

    private static func rowsOfSlices(_ graph: Graph) -> [Graph.ValueID: Int] {
        var rows: [Graph.ValueID: Int] = [:]
        for node in graph.nodes {
            guard let slice = node.operation as? Slice, slice.axis == 2, graph.shape(node.output).rank == 3 else {
                continue
            }
            let (output, width) = (node.output, graph.shape(node.output)[2])
            guard graph.isReadByAttentionsOnly(output) || graph.isReadByTranspositionsOnly(output, row: width) else {
                continue
            }
            rows[node.output] = graph.shape(node.inputs[0])[2]
        }
        return rows
    }

    /// The floats from element to element along an axis of a value.
    func step(_ id: Graph.ValueID, along axis: Int) -> Int {
        let (step, root) = (graph.shape(id).stride(axis), wholeRoot(of: id, producers))
        guard let row = rows[root] else { return step }
        let width = graph.shape(root)[2]
        return step < width ? step : step / width * row
    }

    /// Whether a node's result is a part of its input, as it lies.
    func isView(_ node: Graph.Node) -> Bool {
        if let slice = node.operation as? Slice {
            return rows[node.output] != nil || isOuter(slice.axis, graph.shape(node.inputs[0]))
        }
        return graph.isReshape(node)
    }

    /// Whether a node is a concatenation whose parts lie one after the other.
    func isContiguous(_ node: Graph.Node) -> Bool {
        guard let concatenation = node.operation as? Concatenate else { return false }
        return isOuter(concatenation.axis, graph.shape(node.output))
    }

    private func isOuter(_ axis: Int, _ shape: Shape) -> Bool { shape.dimensions[..<axis].allSatisfy { $0 == 1 } }

    /// Whether a value, perhaps under another shape, is held in codes.
    func isCoded(_ id: Graph.ValueID) -> Bool { codes[wholeRoot(of: id, producers)] != nil }

    /// Whether a value, perhaps under another shape, is held in bfloat16.
    func isRounded(_ id: Graph.ValueID) -> Bool { rounded.contains(wholeRoot(of: id, producers)) }

    /// The floats that a row of codes takes.
    func row(_ id: Graph.ValueID) -> Int {
        Int(tk_int8_row(Int64(graph.shape(id)[-1]))) / MemoryLayout<Float>.size
    }

    private func floats(of id: Graph.ValueID) -> Int {
        let shape = graph.shape(id)
        if rounded.contains(id) { return shape.count / 2 }
        return codes[id] == nil ? shape.count : shape.count / shape[-1] * row(id)
    }

    private mutating func newBuffer(_ count: Int) -> Place {
        buffers.append(count)
        return Place(home: .buffer(buffers.count - 1))
    }

    /// The value that `id` is under another shape.
    private func wholeRoot(of id: Graph.ValueID, _ producers: [Int?]) -> Graph.ValueID {
        var root = id
        while let producer = producers[root], graph.isReshape(graph.nodes[producer]) {
            root = graph.nodes[producer].inputs[0]
        }
        return root
    }
}

extension Graph {
    /// Whether all that a value is for are transpositions, also of its heads: reshapes that divide its rows.
    fileprivate func isReadByTranspositionsOnly(_ id: ValueID, row: Int) -> Bool {
        let extents = shape(id).dimensions
        guard !outputs.contains(id), extents.indices.contains(where: { extents[$0...].reduce(1, *) == row }) else {
            return false
        }
        let readers = nodes.filter { $0.inputs.contains(id) }
        return !readers.isEmpty
            && readers.allSatisfy { node in
                isReshape(node) ? isReadByTranspositionsOnly(node.output, row: row) : node.operation is Transpose
            }
    }
}
