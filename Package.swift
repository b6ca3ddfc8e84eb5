// swift-tools-version: 6.1
import PackageDescription

/// C is always compiled with optimisation for exactness and speed in one: no flag changes floating-point semantics.
let kernelSettings: [CSetting] = [.define("_GNU_SOURCE")]

let package = Package(
    name: "tessera",
    products: [
        .library(name: "Tessera", targets: ["Tessera", "TesseraNN"]),
        .library(name: "TesseraModels", targets: ["TesseraModels"]),
        .library(name: "TesseraTraining", targets: ["TesseraTraining", "TesseraData", "TesseraIO"]),
        .library(name: "TesseraInterchange", targets: ["TesseraInterchange", "TesseraONNX"]),
        .executable(name: "tessera", targets: ["tessera-command"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // Loops over raw memory and decoders of image files; everything above is Swift.
        .target(name: "CKernels", cSettings: kernelSettings),
        .target(
            name: "CCodecs",
            linkerSettings: [
                .linkedLibrary("jpeg"), .linkedLibrary("png"), .linkedLibrary("webp"), .linkedLibrary("z"),
            ]),
        .target(name: "Tessera", dependencies: ["CKernels"]),
        .target(name: "TesseraNN", dependencies: ["Tessera"]),
        .target(name: "TesseraModels", dependencies: ["TesseraNN"]),
        .target(name: "TesseraRuntime", dependencies: ["TesseraNN", "CKernels"]),
        .target(name: "TesseraIO", dependencies: ["TesseraNN"]),
        .target(name: "TesseraInterchange", dependencies: ["TesseraModels", "TesseraIO"]),
        .target(name: "TesseraONNX", dependencies: ["TesseraModels", "TesseraRuntime", "TesseraIO"]),
        .target(name: "TesseraData", dependencies: ["Tessera", "CCodecs"]),
        .target(
            name: "TesseraTraining",
            dependencies: ["TesseraModels", "TesseraRuntime", "TesseraIO", "TesseraData", "TesseraONNX"]),
        .target(name: "TesseraQuantization", dependencies: ["TesseraTraining", "TesseraRuntime"]),
        .executableTarget(
            name: "tessera-command",
            dependencies: [
                "TesseraTraining", "TesseraRuntime", "TesseraQuantization", "TesseraInterchange", "TesseraONNX",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                "Yams",
            ],
            path: "Sources/Command"),
        // A package of its own as well; built here so that it never falls behind.
        .executableTarget(
            name: "embedding-example", dependencies: ["TesseraTraining"], path: "Examples/Embedding/Sources/Embedding"),
        .testTarget(name: "KernelTests", dependencies: ["CKernels"]),
        .testTarget(name: "TesseraTests", dependencies: ["Tessera", "CKernels"]),
        .testTarget(
            name: "ModelTests", dependencies: ["TesseraModels", "TesseraRuntime", "TesseraIO", "TesseraONNX"],
            resources: [.copy("Fixtures")]),
        .testTarget(
            name: "RuntimeTests", dependencies: ["TesseraModels", "TesseraRuntime", "CKernels"]),
        .testTarget(name: "ONNXTests", dependencies: ["TesseraONNX"], resources: [.copy("Fixtures")]),
        .testTarget(name: "DataTests", dependencies: ["TesseraData", "TesseraIO"], resources: [.copy("Fixtures")]),
        .testTarget(name: "IOTests", dependencies: ["TesseraIO"], resources: [.copy("Fixtures")]),
        .testTarget(
            name: "InterchangeTests", dependencies: ["TesseraInterchange"], resources: [.copy("Fixtures")]),
        .testTarget(name: "TrainingTests", dependencies: ["TesseraTraining"], resources: [.copy("Fixtures")]),
        .testTarget(
            name: "QuantizationTests", dependencies: ["TesseraQuantization", "CKernels"],
            resources: [.copy("Fixtures")]),
        .testTarget(name: "FuzzTests", dependencies: ["TesseraTraining", "TesseraInterchange", "tessera-command"]),
        .testTarget(
            name: "CommandTests", dependencies: ["TesseraIO", "TesseraModels", "tessera-command"],
            resources: [.copy("Snapshots")]),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .gnu11
)
