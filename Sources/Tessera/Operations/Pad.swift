extension Tensor {
    /// A constant before and after the elements along some axes.
    /// - Precondition: no amount is negative.
    public func padded(_ amounts: [(axis: Int, before: Int, after: Int)], value: Float = 0) -> Tensor {
        amounts.reduce(self) { x, amount in
            precondition(amount.before >= 0 && amount.after >= 0, "padded: a negative amount in \(amounts)")
            func border(_ extent: Int) -> [Tensor] {
                extent > 0 ? [Tensor(repeating: value, x.shape.replacing(amount.axis, with: extent))] : []
            }
            return concatenate(border(amount.before) + [x] + border(amount.after), axis: amount.axis)
        }
    }

    /// Shifts the elements along an axis towards higher positions; those that leave at the end enter at the start.
    public func rolled(by shift: Int, axis: Int) -> Tensor {
        let extent = shape[axis]
        guard extent > 0, shift % extent != 0 else { return self }
        let start = (extent - shift % extent) % extent
        return concatenate(
            [sliced(axis: axis, from: start, to: extent), sliced(axis: axis, from: 0, to: start)], axis: axis)
    }
}
