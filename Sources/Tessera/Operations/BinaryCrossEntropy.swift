import CKernels

/// Mean over all elements of −t log σ(x) − (1 − t) log(1 − σ(x)).
struct BinaryCrossEntropy: Operation {
    static let name = "binaryCrossEntropy"

    func shape(_ inputs: [Shape]) -> Shape {
        precondition(inputs[0] == inputs[1], "binaryCrossEntropy: logits \(inputs[0]), targets \(inputs[1])")
        return []
    }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let (logits, targets) = (inputs[0], inputs[1])
        let sum = withExtendedLifetime((logits, targets)) {
            tk_binary_cross_entropy(logits.pointer, targets.pointer, Int64(logits.count))
        }
        if saved.isNeeded { saved.tensors = inputs }
        return Tensor(Float(sum / Double(max(1, logits.count))))
    }

    func backward(_ context: BackwardContext) -> [Tensor?] {
        let (logits, targets) = (context.saved[0], context.saved[1])
        let gradient = Tensor(uninitialized: logits.shape)
        withExtendedLifetime((context, gradient)) {
            tk_binary_cross_entropy_backward(
                logits.pointer, targets.pointer, context.gradient.scalar / Float(max(1, logits.count)),
                gradient.mutablePointer, Int64(logits.count))
        }
        return [gradient, nil]
    }
}

/// Cross-entropy of independent yes-or-no labels: the mean over all elements of −t log σ(x) − (1 − t) log(1 − σ(x)).
///
/// - Parameters:
///   - logits: any shape
///   - targets: probabilities, of the same shape; no gradient flows into them
/// - Returns: a scalar
public func binaryCrossEntropy(_ logits: Tensor, _ targets: Tensor) -> Tensor {
    apply(BinaryCrossEntropy(), [logits, targets.detached])
}
