// swift-tools-version:5.9
import PackageDescription

// The binary target is made by xcframework.sh, beside this file.
let package = Package(
    name: "Truing",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "Truing", targets: ["Truing"])],
    targets: [
        .binaryTarget(name: "CTruing", path: "CTruing.xcframework"),
        .target(
            name: "Truing", dependencies: ["CTruing"],
            linkerSettings: [.linkedLibrary("c++"), .linkedFramework("Accelerate"), .linkedFramework("Foundation")]),
        .executableTarget(name: "chat", dependencies: ["Truing"]),
    ]
)
