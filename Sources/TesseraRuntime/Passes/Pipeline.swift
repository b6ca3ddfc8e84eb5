extension Graph {
    /// All rewrites, in the order in which they prepare each other's ground.
    static let passes: [(name: String, run: @Sendable (inout Graph) -> Void)] = [
        ("dead values", { $0.removeDeadValues() }),
        ("products", { $0.recogniseProducts() }),
        ("affine folding", { $0.foldAffineMaps() }),
        ("activations", { $0.fuseActivations() }),
        ("positions", { $0.splitAddedConstants() }),
        ("residuals", { $0.fuseResiduals() }),
        ("row slicing", { $0.sliceEarly() }),
        ("shared inputs", { $0.fuseSharedInputs() }),
        ("norms", { $0.fuseNorms() }),
        ("elementwise chains", { $0.chainElementwise() }),
    ]

    /// The graph with BatchNorm and layer scale in the weights before them: what leaves for other runtimes. It is a graph
    /// of any number of images if it was traced with as many.
    package func folded() -> Graph {
        var graph = self
        graph.removeDeadValues()
        graph.recogniseProducts()
        graph.foldAffineMaps()
        return graph
    }

    /// The graph after all passes.
    public func optimized() -> Graph { Graph.passes.reduce(into: self) { graph, pass in pass.run(&graph) } }
}
