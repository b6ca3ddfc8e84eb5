import Tessera
import TesseraNN

/// Residual networks: "Deep Residual Learning for Image Recognition" (2015), arXiv 1512.03385.
///
/// Convolutions whose blocks add to what they were given. The ImageNet form starts with a 7×7 convolution and a pooling
/// and has four stages; the CIFAR form starts with one 3×3 convolution and has three. Where a block changes width or
/// resolution, its shortcut is a 1×1 convolution, and a bottleneck strides in its 3×3 convolution.
///
/// The references are timm's `ResNet` (huggingface/pytorch-image-models, Apache-2.0), whose checkpoint keys are those of
/// torchvision, and the one of pycls (lkhl/tiny-transformers, Apache-2.0).
public final class ResNet: Module, FeaturePyramid {
    public struct Configuration: ClassifierConfiguration, Hashable {
        public enum Block: String, Codable, Sendable, CaseIterable {
            case basic = "BasicBlock"
            case bottleneck = "Bottleneck"

            /// How much wider than its convolutions the block's result is.
            var expansion: Int { self == .basic ? 1 : 4 }
        }

        public enum Stem: String, Codable, Sendable {
            /// 7×7 with stride 2, then the maximum of 3×3 with stride 2.
            case imageNet
            /// 3×3.
            case cifar
        }

        /// Whose checkpoint keys.
        public enum Naming: String, Codable, Sendable { case timm, pycls }

        public var imageSize = Size(224)
        public var channels = 3
        public var classes = 1000
        public var block = Block.basic
        public var stem = Stem.imageNet
        public var naming = Naming.timm
        /// Blocks of each stage.
        public var depths = [2, 2, 2, 2]
        /// Channels of the convolutions of each stage, before a bottleneck's expansion.
        public var widths = [64, 128, 256, 512]
        public var dropout: Float = 0
        public var dropPath: Float = 0
        /// The last norm of each block starts at zero, so that a new network is shallow.
        public var zeroesLastNorm = true

        var stemWidth: Int { stem == .imageNet ? 64 : widths[0] }
    }

    let conv1: Convolution2D
    let bn1: BatchNorm
    let layer: [[Block]]
    let fc: Linear
    let configuration: Configuration

    public override var keys: [String: String] {
        configuration.naming == .timm
            ? ["layer": "layer#"] : ["conv1": "stem.conv", "bn1": "stem.bn", "layer": "s#.b#", "fc": "head.fc"]
    }

    /// - Precondition: the configuration is valid.
    public init(_ configuration: Configuration) {
        let c = configuration
        self.configuration = c
        let isLarge = c.stem == .imageNet
        conv1 = convolution(
            c.channels, c.stemWidth, kernel: isLarge ? 7 : 3, stride: isLarge ? 2 : 1, padding: isLarge ? 3 : 1)
        bn1 = BatchNorm(c.stemWidth)
        var inputs = c.stemWidth
        var rates = DropPath.linear(to: c.dropPath, depth: c.depths.reduce(0, +))[...]
        layer = zip(c.depths, c.widths).enumerated().map { stage, shape in
            (0..<shape.0).map { index in
                defer { inputs = shape.1 * c.block.expansion }
                return Block(
                    c, inputs, shape.1, stride: index == 0 && stage > 0 ? 2 : 1, dropPath: rates.removeFirst())
            }
        }
        fc = Linear(inputs, c.classes, initializer: c.naming == .pycls ? .normal(0.01) : nil)
    }

    /// Two 3×3 convolutions, or 1×1, 3×3 and 1×1; each normalised, the last one added to the shortcut before its ReLU.
    final class Block: Module {
        let conv1: Convolution2D
        let bn1: BatchNorm
        let conv2: Convolution2D
        let bn2: BatchNorm
        let conv3: Convolution2D?
        let bn3: BatchNorm?
        let shortcut: Convolution2D?
        let shortcutNorm: BatchNorm?
        private let naming: Configuration.Naming
        private let dropPath: DropPath

        override var keys: [String: String] {
            naming == .timm
                ? ["shortcut": "downsample.0", "shortcutNorm": "downsample.1"]
                : [
                    "conv1": "f.a", "bn1": "f.a_bn", "conv2": "f.b", "bn2": "f.b_bn", "conv3": "f.c", "bn3": "f.c_bn",
                    "shortcut": "proj", "shortcutNorm": "bn",
                ]
        }

        init(_ c: Configuration, _ inputs: Int, _ width: Int, stride: Int, dropPath: Float) {
            naming = c.naming
            self.dropPath = DropPath(dropPath)
            let outputs = width * c.block.expansion
            let last = c.zeroesLastNorm ? Initializer.zeros : .ones
            if c.block == .basic {
                conv1 = convolution(inputs, width, kernel: 3, stride: stride, padding: 1)
                conv2 = convolution(width, width, kernel: 3, padding: 1)
                bn2 = BatchNorm(width, initializer: last)
                (conv3, bn3) = (nil, nil)
            } else {
                conv1 = convolution(inputs, width, kernel: 1)
                conv2 = convolution(width, width, kernel: 3, stride: stride, padding: 1)
                bn2 = BatchNorm(width)
                conv3 = convolution(width, outputs, kernel: 1)
                bn3 = BatchNorm(outputs, initializer: last)
            }
            bn1 = BatchNorm(width)
            let isChanged = stride != 1 || inputs != outputs
            shortcut = isChanged ? convolution(inputs, outputs, kernel: 1, stride: stride) : nil
            shortcutNorm = isChanged ? BatchNorm(outputs) : nil
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            var y = bn2(conv2(bn1(conv1(x)).relu()))
            if let conv3, let bn3 { y = bn3(conv3(y.relu())) }
            let same = shortcut.flatMap { conv in shortcutNorm.map { norm in norm(conv(x)) } } ?? x
            return (dropPath(y) + same).relu()
        }
    }

    public func pyramid(_ image: Tensor) -> [Tensor] {
        var x = bn1(conv1(image)).relu()
        if configuration.stem == .imageNet { x = x.maxPool(kernel: 3, stride: 2, padding: 1) }
        return layer.map { blocks in
            for block in blocks { x = checkpointed(block, x) { block($0) } }
            return x
        }
    }

    public func features(_ image: Tensor) -> Features {
        let last = pyramid(image).last!
        let pooled = last.globalAveragePool()
        return Features(logits: fc(Dropout(configuration.dropout)(pooled)), pooled: pooled, tokens: last)
    }

    public var pyramidStrides: [Int] {
        layer.indices.map { (configuration.stem == .imageNet ? 4 : 1) << $0 }
    }
    public var pyramidChannels: [Int] { configuration.widths.map { $0 * configuration.block.expansion } }
    public var headPrefixes: [String] { [configuration.naming == .timm ? "fc." : "head.fc."] }
}

/// A convolution without bias, with He's initial values over the outputs.
private func convolution(
    _ inputs: Int, _ outputs: Int, kernel: Int, stride: Int = 1, padding: Int = 0
) -> Convolution2D {
    Convolution2D(
        inputs, outputs, kernel: kernel, stride: stride, padding: padding, bias: false,
        initializer: .kaimingNormal(fan: outputs * kernel * kernel))
}

extension ResNet.Configuration {
    public mutating func update(_ arguments: Arguments) throws {
        channels = try arguments.int("in_chans", default: channels, in: Limits.channels)
        classes = try arguments.int("num_classes", default: classes, in: Limits.classes)
        // The reference takes any image size; here it says at which size the model is trained and measured.
        let image = try arguments.pair("img_size", default: (imageSize.height, imageSize.width), in: Limits.side)
        imageSize = Size(image.0, image.1)
        dropPath = Float(try arguments.double("drop_path_rate", default: Double(dropPath), in: Limits.rate))
        guard naming == .timm else {
            _ = try arguments.optionalString("published")
            widths = try arguments.ints("widths", default: widths, in: Limits.width)
            if stem == .cifar {
                let blocks = depths.reduce(0, +)
                let depth = try arguments.int("depth", default: 2 + 2 * blocks, in: Limits.depth)
                try require("depth", depth - 2, divisibleBy: 6, "6, plus 2")
                depths = [Int](repeating: (depth - 2) / 6, count: 3)
            }
            return
        }
        block = try arguments.choice("block", default: block)
        depths = try arguments.ints("layers", default: depths, in: Limits.depth)
        widths = try arguments.ints("channels", default: widths, in: Limits.width)
        dropout = Float(try arguments.double("drop_rate", default: Double(dropout), in: Limits.rate))
        zeroesLastNorm = try arguments.bool("zero_init_last", default: zeroesLastNorm)
    }

    public func validate() throws {
        guard depths.count == widths.count, !depths.isEmpty, depths.count <= 8 else {
            throw ArgumentError(
                field: "layers", found: "\(depths.count) stages with \(widths.count) widths", expected: "one width each"
            )
        }
    }

    public func makeModel() -> any ImageClassifier { ResNet(self) }

    init(_ block: Block, _ depths: [Int]) { (self.block, self.depths) = (block, depths) }

    /// The form for 32×32 images, with 6n + 2 layers.
    static func cifar(depth: Int, classes: Int) -> Self {
        var c = Self(.basic, [Int](repeating: (depth - 2) / 6, count: 3))
        (c.stem, c.naming, c.widths, c.zeroesLastNorm) = (.cifar, .pycls, [16, 32, 64], false)
        (c.imageSize, c.classes) = (Size(32), classes)
        return c
    }

    public static let resnet18 = Self(.basic, [2, 2, 2, 2])
    public static let resnet34 = Self(.basic, [3, 4, 6, 3])
    public static let resnet50 = Self(.bottleneck, [3, 4, 6, 3])
    /// The teacher of studies on CIFAR-100.
    public static let cifarResnet56 = cifar(depth: 56, classes: 100)

    fileprivate static var pyclsResnet18: Self {
        var c = resnet18
        (c.naming, c.classes, c.zeroesLastNorm) = (.pycls, 100, false)
        return c
    }
}

extension ResNet {
    static let system = ModelSystem(
        id: "resnet", group: "baselines", title: "Deep Residual Learning for Image Recognition", year: 2015,
        arxiv: "1512.03385",
        variants: [
            ("resnet18", .resnet18), ("resnet34", .resnet34), ("resnet50", .resnet50),
            ("cifar_resnet56_c100", .cifarResnet56), ("cifar_resnet56_c10", .cifar(depth: 56, classes: 10)),
            ("pycls_resnet18_c100", .pyclsResnet18),
        ] as [(String, Configuration)],
        reference: { reference in
            if reference.contains("timm/models/resnet") { return Configuration() }
            return reference.contains("pycls/models/cnns/resnet") ? Configuration.cifarResnet56 : nil
        })
}
