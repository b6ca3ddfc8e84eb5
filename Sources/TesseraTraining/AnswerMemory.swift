import Tessera

/// What a function said of images, to a limit of memory.
///
/// An image is known by its pixels: one that was augmented in another way is another image, and nobody has to say which
/// view of which image it is. Once the memory is full it keeps what it has: every epoch asks for each image equally often,
/// so forgetting one for another gains nothing.
final class AnswerMemory {
    /// Two hashes with keys of their own, 128 bits: no two images have the same ones.
    private struct Key: Hashable {
        let first: Int
        let second: Int

        init(_ pixels: UnsafeBufferPointer<Float>) {
            func hash(_ salt: UInt8) -> Int {
                var hasher = Hasher()
                hasher.combine(salt)
                hasher.combine(bytes: UnsafeRawBufferPointer(pixels))
                return hasher.finalize()
            }
            (first, second) = (hash(1), hash(2))
        }
    }

    private let limit: Int
    private var remembered: [Key: [[Float]]] = [:]
    /// Of the answers for one image.
    private var shapes: [Shape] = []
    /// Bytes of what is remembered.
    private(set) var size = 0

    init(bytes: Int) { limit = bytes }

    /// What `function` says of a batch. It is asked for all images at once that are not remembered.
    ///
    /// - Parameter function: from images to tensors whose first axis counts images; what it says of an image must not
    ///   depend on the others
    func answers(for images: Tensor, from function: (Tensor) -> [Tensor]) -> [Tensor] {
        let batch = images.shape[0]
        let keys = images.mapSlices { Key($0) }
        var answers = keys.map { remembered[$0] }
        let missing = answers.indices.filter { answers[$0] == nil }
        if !missing.isEmpty {
            let asked = missing.count == batch ? images : images.gathered(missing.map(Int32.init), axis: 0)
            let found = Tape.pause { function(asked) }
            shapes = found.map { $0.shape.replacing(0, with: 1) }
            let parts = found.map { $0.mapSlices { Array($0) } }
            for (place, image) in missing.enumerated() {
                let answer = parts.map { $0[place] }
                answers[image] = answer
                remember(answer, keys[image])
            }
        }
        return shapes.enumerated().map { output, shape in
            Tensor(shape.replacing(0, with: batch)) { buffer in
                for (image, answer) in answers.enumerated() {
                    _ = UnsafeMutableBufferPointer(rebasing: buffer[(image * shape.count)...])
                        .update(fromContentsOf: answer![output])
                }
            }
        }
    }

    private func remember(_ answer: [[Float]], _ key: Key) {
        let bytes = answer.reduce(0) { $0 + $1.count } * MemoryLayout<Float>.stride
        guard size + bytes <= limit, remembered.updateValue(answer, forKey: key) == nil else { return }
        size += bytes
    }
}

extension Tensor {
    /// What becomes of each element of the first axis.
    fileprivate func mapSlices<Result>(_ body: (UnsafeBufferPointer<Float>) -> Result) -> [Result] {
        let (slices, size) = (shape[0], count / Swift.max(1, shape[0]))
        return withUnsafeBuffer { values in
            (0..<slices).map { body(UnsafeBufferPointer(rebasing: values[$0 * size..<($0 + 1) * size])) }
        }
    }
}
