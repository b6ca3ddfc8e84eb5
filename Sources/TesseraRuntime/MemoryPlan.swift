/// Where buffers with known lifetimes lie in one arena.
///
/// Buffers that live at the same time never overlap. The largest are placed first, each at the lowest free offset: a
/// simple rule that comes close to the best ("Efficient Memory Management for Deep Neural Net Inference", 2020, arXiv
/// 2001.03288).
struct MemoryPlan {
    struct Buffer {
        /// Floats.
        let count: Int
        /// The first and the last step that uses it.
        var lifetime: ClosedRange<Int>
    }

    /// Floats between the places where buffers may begin: a cache line.
    static let alignment = 16

    private(set) var offsets: [Int]
    /// Floats of the whole arena.
    private(set) var size = 0

    init(_ buffers: [Buffer]) {
        offsets = [Int](repeating: 0, count: buffers.count)
        var placed: [Int] = []
        for index in buffers.indices.sorted(by: { (buffers[$1].count, $0) < (buffers[$0].count, $1) }) {
            let neighbours = placed.filter { buffers[$0].lifetime.overlaps(buffers[index].lifetime) }
                .sorted { offsets[$0] < offsets[$1] }
            var offset = 0
            for other in neighbours {
                if offset + buffers[index].count <= offsets[other] { break }
                offset = max(offset, offsets[other] + MemoryPlan.aligned(buffers[other].count))
            }
            offsets[index] = offset
            placed.append(index)
            size = max(size, offset + MemoryPlan.aligned(buffers[index].count))
        }
    }

    static func aligned(_ count: Int) -> Int { (count + alignment - 1) / alignment * alignment }
}
