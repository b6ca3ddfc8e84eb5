// swift-tools-version: 6.1
import PackageDescription

// `make libfuzz` builds it with the flags that libFuzzer needs.
let package = Package(
    name: "fuzz",
    dependencies: [.package(name: "tessera", path: "..")],
    targets: [
        .systemLibrary(name: "CFuzzer"),
        .executableTarget(
            name: "Fuzz",
            dependencies: ["CFuzzer"]
                + ["Tessera", "TesseraTraining", "TesseraInterchange"].map { .product(name: $0, package: "tessera") }),
    ],
    swiftLanguageModes: [.v6]
)
