import Tessera

/// A part of a model whose activations the backward pass computes a second time instead of keeping them.
private struct Checkpoint: Operation, @unchecked Sendable {
    static let name = "checkpoint"
    let parameters: [Parameter]
    let body: ([Tensor]) -> Tensor
    let output: Shape
    let precision = Precision.current
    let repetition = TrainingPass.current?.repetition

    func shape(_ inputs: [Shape]) -> Shape { output }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let tensors = inputs.dropLast(parameters.count)
        if saved.isNeeded { saved.tensors = Array(tensors) }
        return Tape.pause { body(tensors.map(\.detached)) }
    }

    func backward(_ context: BackwardContext) -> [Tensor?] {
        let (tape, leaves) = (Tape(), context.saved.map(Tape.leaf))
        let y = precision.use {
            TrainingPass.$current.withValue(repetition) { tape.record { body(leaves) } }
        }
        let gradients = tape.gradients(of: y, cotangent: context.gradient)
        return zip(leaves + parameters.map(\.tensor), context.wanted).map { $1 ? gradients[$0] : nil }
    }
}

/// Runs `body`, which uses the parameters of `module` and no others. In a ``TrainingPass`` that asks for it, only `inputs`
/// are kept for the backward pass, which runs `body` again: memory for a third more time, and the same bits.
///
/// "Training Deep Nets with Sublinear Memory Cost" (2016), arXiv 1604.06174.
///
/// - Parameter inputs: what is given to `body`
/// - Returns: what `body` returns; of several tensors the first axis is the batch.
public func checkpointed(
    _ module: Module, _ inputs: [Tensor], _ body: @escaping ([Tensor]) -> [Tensor]
) -> [Tensor] {
    guard TrainingPass.current?.checkpointsActivations == true, !inputs[0].isAbstract else { return body(inputs) }
    let (output, shapes) = TrainingPass.$current.withValue(nil) {
        Tape.pause {
            let outputs = body(inputs.map { Tensor(abstract: $0.shape) })
            return (packed(outputs).shape, outputs.map(\.shape))
        }
    }
    let parameters = module.parameters.map(\.parameter).filter(\.isTrainable)
    let operation = Checkpoint(parameters: parameters, body: { packed(body($0)) }, output: output)
    return unpacked(apply(operation, inputs + parameters.map(\.tensor)), shapes)
}

/// The same with one tensor.
public func checkpointed(_ module: Module, _ x: Tensor, _ body: @escaping (Tensor) -> Tensor) -> Tensor {
    checkpointed(module, [x]) { [body($0[0])] }[0]
}

/// Tensors side by side, `[batch, values]`, as an operation has one result. A single one stays as it is.
func packed(_ tensors: [Tensor]) -> Tensor {
    if tensors.count == 1 { return tensors[0] }
    return concatenate(tensors.map { $0.reshaped([$0.shape[0], $0.count / $0.shape[0]]) }, axis: 1)
}

func unpacked(_ tensor: Tensor, _ shapes: [Shape]) -> [Tensor] {
    if shapes.count == 1 { return [tensor] }
    return zip(tensor.split(axis: 1, sizes: shapes.map { $0.count / $0[0] }), shapes).map { $0.reshaped($1) }
}
