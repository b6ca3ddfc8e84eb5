import CCodecs
import Foundation

/// The image file formats that can be read, recognised by their first bytes.
public enum ImageFormat: String, Sendable, CaseIterable {
    case jpeg, png, webp

    /// The lower-case file-name extensions under which data sets keep these formats.
    public static let fileExtensions: Set<String> = ["jpg", "jpeg", "jpe", "jfif", "png", "webp"]

    init?(_ bytes: Bytes) {
        if bytes.starts(with: [0xFF, 0xD8, 0xFF]) {
            self = .jpeg
        } else if bytes.starts(with: [0x89, 0x50, 0x4E, 0x47]) {
            self = .png
        } else if bytes.starts(with: Array("RIFF".utf8)), let tag = bytes.range(8, count: 4),
            tag.starts(with: Array("WEBP".utf8))
        {
            self = .webp
        } else {
            return nil
        }
    }
}

extension Image {
    /// How many pixels a file may declare before it is refused unread.
    public static let defaultPixelLimit = 100_000_000

    /// Decodes a JPEG, PNG or still WebP file, turned upright by its EXIF orientation.
    ///
    /// Grey files give one channel, all others three. Alpha is dropped (the colours below transparent pixels show, as
    /// Pillow's `convert("RGB")` does), palettes are expanded, 16-bit samples keep their high byte, CMYK is converted by
    /// Pillow's formula.
    ///
    /// - Parameters:
    ///   - bytes: The whole file.
    ///   - name: What errors call the file.
    ///   - pixelLimit: Refuses larger images before any memory is allocated for them.
    /// - Throws: `DataError` for an empty, unknown, truncated, corrupt or too large file.
    public init(decoding bytes: [UInt8], name: String, pixelLimit: Int = defaultPixelLimit) throws {
        guard !bytes.isEmpty else { throw DataError(name, "the file is empty") }
        self = try bytes.withUnsafeBytes { raw in
            let file = Bytes(raw)
            guard let format = ImageFormat(file) else {
                throw DataError(name, "not an image: the file starts neither as JPEG nor as PNG nor as WebP")
            }
            let decode =
                switch format {
                case .jpeg: tc_decode_jpeg
                case .png: tc_decode_png
                case .webp: tc_decode_webp
                }
            var decoded = tc_image()
            let address = raw.baseAddress!.assumingMemoryBound(to: UInt8.self)
            let status = decode(address, raw.count, UInt64(max(0, pixelLimit)), &decoded)
            defer { tc_free(decoded.pixels) }
            guard status == TC_OK else { throw Self.failure(status, decoded, format, name, pixelLimit) }
            let (height, width, channels) = (Int(decoded.height), Int(decoded.width), Int(decoded.channels))
            let image = Image(height: height, width: width, channels: channels) {
                $0.update(from: decoded.pixels, count: height * width * channels)
            }
            return image.oriented(Orientation(file: file, format: format))
        }
    }

    /// Reads and decodes a file; see ``init(decoding:name:pixelLimit:)``.
    public init(contentsOf path: String, pixelLimit: Int = defaultPixelLimit) throws {
        try self.init(decoding: Files.read(path), name: path, pixelLimit: pixelLimit)
    }

    private static func failure(
        _ status: tc_status, _ decoded: tc_image, _ format: ImageFormat, _ name: String, _ limit: Int
    ) -> DataError {
        if status == TC_TOO_LARGE {
            return DataError(
                name, "the image has \(decoded.height)x\(decoded.width) pixels; the limit is \(limit) pixels")
        }
        let message = withUnsafeBytes(of: decoded.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let kind = format == .webp ? "WebP" : format.rawValue.uppercased()
        return DataError(name, "cannot decode the \(kind) image: \(message)")
    }

    /// The image as a PNG file.
    ///
    /// - Throws: `DataError` when libpng has no memory for it.
    public func pngData() throws -> Data {
        var bytes: UnsafeMutablePointer<UInt8>?
        var count = 0
        let status = tc_encode_png(pixels, Int64(height), Int64(width), Int32(channels), &bytes, &count)
        guard status == TC_OK, let bytes else { throw DataError("PNG", "cannot encode \(height)x\(width) pixels") }
        defer { tc_free(bytes) }
        return Data(bytes: bytes, count: count)
    }

    /// Writes the image as a PNG file.
    ///
    /// - Throws: `DataError` that names the path when the file cannot be written.
    public func writePNG(to path: String) throws {
        let data = try pngData()
        do {
            try data.write(to: URL(fileURLWithPath: path), options: .atomic)
        } catch {
            throw DataError(path, "cannot be written: \(Files.reason(error))")
        }
    }
}
