import Tessera
import Testing

extension Operations {
    @Suite struct Layout {
        @Test(arguments: [
            ([3, 7], [1, 0]), ([2, 3, 5], [0, 2, 1]), ([2, 5, 3, 4], [0, 2, 1, 3]), ([2, 3, 4, 5], [3, 1, 0, 2]),
            ([2, 3, 4], [0, 1, 2]), ([1, 17, 1, 19], [3, 0, 1, 2]), ([33, 40], [1, 0]),
        ])
        func transposed(_ shape: [Int], _ order: [Int]) {
            OperationCase("transposed \(shape) \(order)", [random(Shape(shape))]) {
                $0[0].transposed(order)
            } expected: { x in
                Slow(order.map { shape[$0] }) { index in
                    var source = index
                    for (position, axis) in order.enumerated() { source[axis] = index[position] }
                    return x[0][source]
                }
            }.verify()
        }

        @Test(arguments: [0, 1, 2, -1]) func concatenated(_ axis: Int) {
            let positive = axis < 0 ? axis + 3 : axis
            let shapes = [3, 1, 2].map { Shape([2, 3, 5]).replacing(axis, with: $0) }
            let inputs = shapes.enumerated().map { random($1, seed: UInt64($0)) }
            OperationCase("concatenate \(axis)", inputs) {
                concatenate($0, axis: axis)
            } expected: { x in
                Slow(Shape([2, 3, 5]).replacing(axis, with: 6).dimensions) { index in
                    var (source, part) = (index, 0)
                    while source[positive] >= x[part].shape[positive] {
                        source[positive] -= x[part].shape[positive]
                        part += 1
                    }
                    return x[part][source]
                }
            }.verify()
        }

        @Test(arguments: [false, true]) func shifted(_ clamps: Bool) {
            let shifts = [
                ChannelShift(0..<2, rows: -1), ChannelShift(2..<3, rows: 2, columns: 1),
                ChannelShift(3..<6, columns: -3), ChannelShift(6..<7),
            ]
            OperationCase("shifted, clamps: \(clamps)", [random([2, 4, 5, 7])]) {
                $0[0].shifted(shifts, clamps: clamps)
            } expected: { x in
                Slow([2, 4, 5, 7]) { index in
                    let shift = shifts.first { $0.channels.contains(index[3]) }!
                    let (row, column) = (index[1] + shift.rows, index[2] + shift.columns)
                    let (near, beside) = (min(max(row, 0), 3), min(max(column, 0), 4))
                    guard clamps || (near == row && beside == column) else { return 0 }
                    return x[0][index[0], near, beside, index[3]]
                }
            }.verify()
        }

        @Test func pixelShuffled() {
            OperationCase("pixelShuffled", [random([2, 3, 2, 12])]) {
                $0[0].pixelShuffled(2)
            } expected: { x in
                Slow([2, 6, 4, 3]) { i in
                    x[0][i[0], i[1] / 2, i[2] / 2, i[3] * 4 + i[1] % 2 * 2 + i[2] % 2]
                }
            }.verify()
        }

        @Test(arguments: [0, 1, 2]) func sliced(_ axis: Int) {
            OperationCase("sliced \(axis)", [random([4, 5, 6])]) {
                $0[0].sliced(axis: axis, from: 1, to: 3)
            } expected: { x in
                Slow(Shape([4, 5, 6]).replacing(axis, with: 2).dimensions) { index in
                    var source = index
                    source[axis] += 1
                    return x[0][source]
                }
            }.verify()
        }

        @Test func split() {
            OperationCase("split", [random([2, 7, 3])]) { x in
                let parts = x[0].split(axis: 1, sizes: [4, 1, 2])
                return parts[2] * 2 + parts[1]
            } expected: { x in
                Slow([2, 2, 3]) { 2 * x[0][$0[0], $0[1] + 5, $0[2]] + x[0][$0[0], 4, $0[2]] }
            }.verify()
        }

        @Test(arguments: [0, 1, 2]) func gathered(_ axis: Int) {
            let indices: [Int32] = [2, 0, 2, 1, 2]
            OperationCase("gathered \(axis)", [random([3, 4, 5])]) {
                $0[0].gathered(indices, axis: axis)
            } expected: { x in
                Slow(Shape([3, 4, 5]).replacing(axis, with: 5).dimensions) { index in
                    var source = index
                    source[axis] = Int(indices[index[axis]])
                    return x[0][source]
                }
            }.verify()
        }

        @Test(arguments: [[0, 1, 2, 3, 4], [1, 4], [2], []] as [[Int32]]) func branchesOfSamples(_ samples: [Int32]) {
            OperationCase("adding to \(samples)", [random([5, 3, 4]), random([samples.count, 3, 4], seed: 2)]) {
                $0[0].adding($0[1], times: 1.5, toSamples: samples)
            } expected: { x in
                Slow([5, 3, 4]) { index in
                    guard let place = samples.firstIndex(of: Int32(index[0])) else { return x[0][index] }
                    return x[0][index] + 1.5 * x[1][place, index[1], index[2]]
                }
            }.verify()
        }

        @Test(arguments: [1, -2, 7, 0, -5]) func rolled(_ shift: Int) {
            OperationCase("rolled \(shift)", [random([2, 5, 3])]) {
                $0[0].rolled(by: shift, axis: 1)
            } expected: { x in
                Slow([2, 5, 3]) { x[0][$0[0], (($0[1] - shift) % 5 + 5) % 5, $0[2]] }
            }.verify()
        }

        @Test func padded() {
            OperationCase("padded", [random([2, 3, 4])]) {
                $0[0].padded([(1, 2, 1), (-1, 0, 3)], value: 7)
            } expected: { x in
                Slow([2, 6, 7]) { $0[1] >= 2 && $0[1] < 5 && $0[2] < 4 ? x[0][$0[0], $0[1] - 2, $0[2]] : 7 }
            }.verify()
        }

        @Test(arguments: [([1, 3], [4, 3]), ([3, 1], [2, 3, 5]), ([], [2, 2]), ([2, 1, 4], [2, 3, 4])])
        func broadcast(_ from: [Int], _ to: [Int]) {
            OperationCase("broadcast \(from) to \(to)", [random(Shape(from))]) {
                $0[0].broadcast(to: Shape(to))
            } expected: { x in
                Slow(to) { x[0].broadcast($0) }
            }.verify()
        }

        @Test func manyTasks() {
            let x = random([9, 64, 160])
            let indices = (0..<300).map { Int32($0 * 7 % 64) }
            expectSameBits("large") {
                let leaf = Tape.leaf(x)
                let tape = Tape()
                let output = tape.record { leaf.transposed([2, 0, 1]).gathered(indices, axis: 2) }
                return [output, tape.gradients(of: output, cotangent: random(output.shape))[leaf]!]
            }
        }
    }
}
