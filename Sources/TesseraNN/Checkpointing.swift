import Tessera

/// A part of a model whose activations the backward pass computes a second time instead of keeping them.
private struct Checkpoint: Operation, @unchecked Sendable {
    static let name = "checkpoint"
    let parameters: [Parameter]
    let body: (Tensor) -> Tensor
    let precision = Precision.current
    let repetition = TrainingPass.current?.repetition

    func shape(_ inputs: [Shape]) -> Shape {
        TrainingPass.$current.withValue(nil) { Tape.pause { body(Tensor(abstract: inputs[0])).shape } }
    }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        if saved.isNeeded { saved.tensors = [inputs[0]] }
        return Tape.pause { body(inputs[0].detached) }
    }

    func backward(_ context: BackwardContext) -> [Tensor?] {
        let (tape, x) = (Tape(), Tape.leaf(context.saved[0]))
        let y = precision.use {
            TrainingPass.$current.withValue(repetition) { tape.record { body(x) } }
        }
        let gradients = tape.gradients(of: y, cotangent: context.gradient)
        return zip([x] + parameters.map(\.tensor), context.wanted).map { $1 ? gradients[$0] : nil }
    }
}

/// Runs `body`, which uses the parameters of `module` and no others. In a ``TrainingPass`` that asks for it, only `x` is
/// kept for the backward pass, which runs `body` again: memory for a third more time, and the same bits.
///
/// "Training Deep Nets with Sublinear Memory Cost" (2016), arXiv 1604.06174.
public func checkpointed(_ module: Module, _ x: Tensor, _ body: @escaping (Tensor) -> Tensor) -> Tensor {
    guard TrainingPass.current?.checkpointsActivations == true, !x.isAbstract else { return body(x) }
    let parameters = module.parameters.map(\.parameter).filter(\.isTrainable)
    return apply(Checkpoint(parameters: parameters, body: body), [x] + parameters.map(\.tensor))
}
