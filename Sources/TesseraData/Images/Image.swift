/// An 8-bit image: `height` rows of `width` pixels of `channels` interleaved bytes, rows from the top, no padding.
public struct Image: Sendable, Equatable {
    public let height: Int
    public let width: Int
    /// 1 (grey) or 3 (red, green, blue).
    public let channels: Int
    /// `height * width * channels` bytes.
    public var pixels: [UInt8]

    public init(height: Int, width: Int, channels: Int, pixels: [UInt8]) {
        precondition(height > 0 && width > 0, "an image of \(height)x\(width) pixels")
        precondition(channels == 1 || channels == 3, "an image of \(channels) channels; 1 or 3 are supported")
        precondition(
            pixels.count == height * width * channels,
            "\(pixels.count) bytes for an image of \(height)x\(width)x\(channels)")
        self.height = height
        self.width = width
        self.channels = channels
        self.pixels = pixels
    }

    /// An image of one colour; `colour` has one entry for each channel.
    public init(height: Int, width: Int, colour: [UInt8]) {
        var pixels = [UInt8](repeating: colour[0], count: height * width * colour.count)
        for c in 1..<max(1, colour.count) {
            for i in stride(from: c, to: pixels.count, by: colour.count) { pixels[i] = colour[c] }
        }
        self.init(height: height, width: width, channels: colour.count, pixels: pixels)
    }

    /// An image whose bytes `fill` writes, every one of them.
    init(
        height: Int, width: Int, channels: Int, fill: (UnsafeMutablePointer<UInt8>) throws -> Void
    ) rethrows {
        let count = height * width * channels
        let pixels = try [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            try fill(buffer.baseAddress!)
            initialized = count
        }
        self.init(height: height, width: width, channels: channels, pixels: pixels)
    }

    /// The bytes of one row.
    var rowBytes: Int { width * channels }

    /// The byte at a place; for tests and small tools.
    public subscript(row: Int, column: Int, channel: Int) -> UInt8 {
        get { pixels[(row * width + column) * channels + channel] }
        set { pixels[(row * width + column) * channels + channel] = newValue }
    }
}

extension Image {
    /// ITU-R 601-2 luma in 16-bit fixed point, as Pillow computes mode `L`.
    static func luma(_ red: UInt8, _ green: UInt8, _ blue: UInt8) -> UInt8 {
        let weighted: UInt32 = 19595 * UInt32(red) + 38470 * UInt32(green)
        return UInt8((weighted + 7471 * UInt32(blue) + 32768) >> 16)
    }

    /// The image with one channel (luma) or three (grey repeated).
    public func converted(toChannels target: Int) -> Image {
        if target == channels { return self }
        return Image(height: height, width: width, channels: target) { output in
            pixels.withUnsafeBufferPointer { input in
                for i in 0..<height * width {
                    if target == 1 {
                        output[i] = Self.luma(input[3 * i], input[3 * i + 1], input[3 * i + 2])
                    } else {
                        for c in 0..<3 { output[3 * i + c] = input[i] }
                    }
                }
            }
        }
    }

    /// A rectangle of the image, which must lie inside it.
    public func cropped(top: Int, left: Int, height: Int, width: Int) -> Image {
        precondition(
            top >= 0 && left >= 0 && top + height <= self.height && left + width <= self.width,
            "crop \(height)x\(width) at (\(top), \(left)) of an image of \(self.height)x\(self.width)")
        if height == self.height && width == self.width { return self }
        return Image(height: height, width: width, channels: channels) { output in
            pixels.withUnsafeBufferPointer { input in
                let bytes = width * channels
                for y in 0..<height {
                    let row = input.baseAddress! + (top + y) * rowBytes + left * channels
                    (output + y * bytes).update(from: row, count: bytes)
                }
            }
        }
    }

    /// The middle of the image. The offset is half the difference, rounded half to even as torchvision does; a side
    /// that is too short is first padded with zeros.
    public func centerCropped(height: Int, width: Int) -> Image {
        if height > self.height || width > self.width {
            let missing = (max(0, height - self.height), max(0, width - self.width))
            return padded(
                top: missing.0 / 2, left: missing.1 / 2, bottom: (missing.0 + 1) / 2, right: (missing.1 + 1) / 2
            ).centerCropped(height: height, width: width)
        }
        let top = (Double(self.height - height) / 2).rounded(.toNearestOrEven)
        let left = (Double(self.width - width) / 2).rounded(.toNearestOrEven)
        return cropped(top: Int(top), left: Int(left), height: height, width: width)
    }

    /// The image with a border of one grey value.
    public func padded(top: Int, left: Int, bottom: Int, right: Int, value: UInt8 = 0) -> Image {
        let newWidth = width + left + right
        return Image(height: height + top + bottom, width: newWidth, channels: channels) { output in
            output.initialize(repeating: value, count: (height + top + bottom) * newWidth * channels)
            pixels.withUnsafeBufferPointer { input in
                for y in 0..<height {
                    let target = output + ((top + y) * newWidth + left) * channels
                    target.update(from: input.baseAddress! + y * rowBytes, count: rowBytes)
                }
            }
        }
    }

    /// Mirrored, left to right.
    public func flippedHorizontally() -> Image {
        rearranged(height: height, width: width) { y, x in (y, width - 1 - x) }
    }

    /// The image whose pixel (row, column) is this image's pixel `source(row, column)`.
    func rearranged(height: Int, width: Int, source: (Int, Int) -> (row: Int, column: Int)) -> Image {
        Image(height: height, width: width, channels: channels) { output in
            pixels.withUnsafeBufferPointer { input in
                var target = output
                for y in 0..<height {
                    for x in 0..<width {
                        let (row, column) = source(y, x)
                        let pixel = input.baseAddress! + (row * self.width + column) * channels
                        for c in 0..<channels { target[c] = pixel[c] }
                        target += channels
                    }
                }
            }
        }
    }
}
