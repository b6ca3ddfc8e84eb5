import Tessera

extension Tensor {
    /// A map `[batch, height, width, channels]` with each 2×2 neighbours as one place of four times the channels:
    /// `[batch, ⌈height / 2⌉, ⌈width / 2⌉, 4 · channels]`. Odd sides are filled up with zeros.
    ///
    /// The order of the four is down the left column, then down the right one, as in "Swin Transformer" (2021), arXiv
    /// 2103.14030.
    public func neighboursMerged() -> Tensor {
        let odd = [1, 2].filter { shape[$0] % 2 == 1 }.map { (axis: $0, before: 0, after: 1) }
        let x = padded(odd)
        let (batch, rows, columns, channels) = (x.shape[0], x.shape[1] / 2, x.shape[2] / 2, x.shape[3])
        return x.reshaped([batch, rows, 2, columns, 2, channels]).transposed([0, 1, 3, 4, 2, 5])
            .reshaped([batch, rows, columns, 4 * channels])
    }
}
