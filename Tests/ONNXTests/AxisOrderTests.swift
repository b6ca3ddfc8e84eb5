import Tessera
import Testing

@testable import TesseraONNX

/// Transpositions that are noted, against the same ones carried out.
@Suite struct AxisOrderTests {
    /// Memory in an order, as the tensor that it means.
    private func meant(_ memory: Tensor, _ order: AxisOrder) -> Tensor { memory.transposed(order.axes) }

    private let memory = Tensor((0..<120).map(Float.init), [2, 3, 4, 5])

    @Test func transpositionsCompose() {
        let order = AxisOrder([2, 0, 3, 1])
        let tensor = meant(memory, order)
        let next = [3, 1, 0, 2]
        #expect(meant(memory, order.transposed(next)).scalars == tensor.transposed(next).scalars)
        let wanted = AxisOrder([1, 3, 2, 0])
        let moved = memory.transposed(order.permutation(to: wanted))
        #expect(moved.shape == wanted.inMemory(tensor.shape))
        #expect(meant(moved, wanted).scalars == tensor.scalars)
    }

    private static let followed: [(AxisOrder, Shape)] = [
        (.channelsFirst, [2, 20, 3]), (.channelsFirst, [2, 2, 2, 5, 3]), (.channelsLast, [2, 5, 12]),
        (.channelsLast, [2, 5, 3, 2, 2]), (.channelsLast, [2, 5, 1, 12]), (.channelsLast, [2, 1, 5, 12, 1]),
    ]

    @Test(arguments: followed) func reshapeThatMemoryFollows(_ example: (order: AxisOrder, target: Shape)) throws {
        let (order, target) = example
        let tensor = meant(memory, order)
        let after = try #require(order.reshaped(from: tensor.shape, to: target))
        let moved = memory.reshaped(after.inMemory(target))
        #expect(meant(moved, after).scalars == tensor.reshaped(target).scalars)
        #expect(meant(moved, after).shape == target)
    }

    @Test(arguments: [[2, 60] as Shape, [120], [40, 3], [8, 15]])
    func reshapeThatMovesData(target: Shape) {
        let order = AxisOrder.channelsLast
        #expect(order.reshaped(from: meant(memory, order).shape, to: target) == nil)
    }
}
