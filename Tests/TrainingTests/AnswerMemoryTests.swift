import Tessera
import Testing

@testable import TesseraTraining

/// What a teacher said is not asked again, and is the same as if it were.
@Suite struct AnswerMemoryTests {
    /// Counts the images that it is asked about.
    private final class Function {
        var asked: [Int] = []

        func callAsFunction(_ images: Tensor) -> [Tensor] {
            asked.append(images.shape[0])
            return [images * 2, images.sum(axes: [1])]
        }
    }

    /// Rows of `[count, 3]` that are known by their number.
    private func images(_ numbers: [Int]) -> Tensor {
        Tensor(numbers.flatMap { [Float($0), Float($0) + 0.5, -Float($0)] }, [numbers.count, 3])
    }

    @Test func asksForWhatItDoesNotKnow() {
        let (function, memory) = (Function(), AnswerMemory(bytes: 1 << 20))
        for numbers in [[0, 1, 2], [2, 1, 0], [3, 1, 4, 0], [4, 3]] {
            let found = memory.answers(for: images(numbers)) { function($0) }
            let expected = Function()(images(numbers))
            #expect(found.map(\.shape) == expected.map(\.shape))
            #expect(found.map(\.scalars) == expected.map(\.scalars))
        }
        #expect(function.asked == [3, 2])
        // Three numbers and their sum for each of five images.
        #expect(memory.size == 5 * 4 * 4)
    }

    /// When it is full it keeps what it has; the others are asked about every time.
    @Test func isBounded() {
        let (function, memory) = (Function(), AnswerMemory(bytes: 2 * 4 * 4))
        for _ in 0..<3 { _ = memory.answers(for: images([0, 1, 2, 3])) { function($0) } }
        #expect(function.asked == [4, 2, 2] && memory.size == 32)
    }

    /// Mirrored images come again, and so do cropped ones never; colours do not matter to who sees the plain images.
    @Test func isUsedWhereImagesComeAgain() {
        var options = TrainingOptions()
        #expect(!options.showsImagesAgain(seesPlainImages: true))
        options.cropPadding = 0
        #expect(options.showsImagesAgain(seesPlainImages: false))
        options.mixup = 0.8
        #expect(!options.showsImagesAgain(seesPlainImages: false) && options.showsImagesAgain(seesPlainImages: true))
        options.cropPadding = 2
        #expect(!options.showsImagesAgain(seesPlainImages: true))
    }
}
