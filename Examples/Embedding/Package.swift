// swift-tools-version: 6.1
import PackageDescription

let package = Package(
    name: "embedding",
    dependencies: [.package(name: "tessera", path: "../..")],
    targets: [
        .executableTarget(name: "Embedding", dependencies: [.product(name: "TesseraTraining", package: "tessera")])
    ]
)
