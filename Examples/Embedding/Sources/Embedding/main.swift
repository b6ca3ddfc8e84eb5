import Foundation
import TesseraData
import TesseraTraining

// Names what is in a picture: embedding RUN IMAGE
//
// RUN is what `tessera train` or `tessera import` wrote; `swift build -c release`, as the kernels are vector code.

let arguments = CommandLine.arguments
guard arguments.count == 3 else {
    print("usage: embedding RUN IMAGE")
    exit(64)
}
do {
    let model = try TrainedModel(arguments[1])
    let image = try Image(contentsOf: arguments[2])
    for guess in model.classify(image, top: 3) { print(guess.label, guess.probability) }
} catch {
    print(error)
    exit(1)
}
