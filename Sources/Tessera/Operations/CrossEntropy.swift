import CKernels

/// Mean over the batch of −Σ targets · log softmax(logits).
struct CrossEntropy: Operation {
    static let name = "crossEntropy"

    func shape(_ inputs: [Shape]) -> Shape {
        precondition(
            inputs[0].rank == 2 && inputs[0] == inputs[1], "crossEntropy: logits \(inputs[0]), targets \(inputs[1])")
        return []
    }

    func forward(_ inputs: [Tensor], _ shape: Shape, _ saved: inout Saved) -> Tensor {
        let (logits, targets) = (inputs[0], inputs[1])
        let (rows, classes) = (logits.shape[0], logits.shape[1])
        let losses = Tensor(uninitialized: [rows])
        let probabilities = saved.isNeeded ? Tensor(uninitialized: logits.shape) : nil
        withExtendedLifetime((logits, targets, probabilities)) {
            tk_cross_entropy(
                logits.pointer, targets.pointer, losses.mutablePointer, probabilities?.mutablePointer, Int64(rows),
                Int64(classes))
        }
        if let probabilities { saved.tensors = [probabilities, targets] }
        let sum = losses.withUnsafeBuffer { $0.reduce(0.0) { $0 + Double($1) } }
        return Tensor(Float(sum / Double(max(1, rows))))
    }

    func backward(_ context: BackwardContext) -> [Tensor?] {
        precondition(!context.wanted[1], "crossEntropy: no gradient flows into the targets")
        let (probabilities, targets) = (context.saved[0], context.saved[1])
        let (rows, classes) = (probabilities.shape[0], probabilities.shape[1])
        let gradient = Tensor(uninitialized: probabilities.shape)
        withExtendedLifetime((context, gradient)) {
            tk_cross_entropy_backward(
                probabilities.pointer, targets.pointer, context.gradient.scalar / Float(max(1, rows)),
                gradient.mutablePointer, Int64(rows), Int64(classes))
        }
        return [gradient, nil]
    }
}

/// Cross-entropy against class probabilities (smoothed, mixed, or a teacher's): the mean over the batch of
/// −Σ targets · log softmax(logits).
///
/// - Parameters:
///   - logits: `[batch, classes]`
///   - targets: `[batch, classes]`; no gradient flows into them
/// - Returns: a scalar
public func crossEntropy(_ logits: Tensor, _ targets: Tensor) -> Tensor {
    apply(CrossEntropy(), [logits, targets.detached])
}

/// Cross-entropy against labels, with label smoothing s: (1 − s) · NLL + s · mean over classes of −log p.
///
/// "Rethinking the Inception Architecture" (2015), arXiv 1512.00567.
/// - Parameter labels: one class for each row of `logits` `[batch, classes]`
public func crossEntropy(_ logits: Tensor, labels: [Int32], smoothing: Float = 0) -> Tensor {
    crossEntropy(logits, smoothedTargets(labels, classes: logits.shape[1], smoothing: smoothing))
}

/// Class probabilities `[labels, classes]`: s / classes everywhere and 1 − s more at the label.
/// - Precondition: every label is a class.
public func smoothedTargets(_ labels: [Int32], classes: Int, smoothing: Float) -> Tensor {
    Tensor([labels.count, classes]) { buffer in
        buffer.update(repeating: smoothing / Float(classes))
        for (row, label) in labels.enumerated() {
            precondition(label >= 0 && Int(label) < classes, "label \(label) is not one of \(classes) classes")
            buffer[row * classes + Int(label)] += 1 - smoothing
        }
    }
}
