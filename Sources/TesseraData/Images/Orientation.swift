/// How a camera held the picture: the EXIF tag 0x0112, found in JPEG (APP1), PNG (`eXIf`) and WebP (`EXIF`) files.
///
/// The raw values are those of the Exif standard; the names say where the stored first row and first column belong.
enum Orientation: Int {
    case topLeft = 1
    case topRight, bottomRight, bottomLeft, leftTop, rightTop, rightBottom, leftBottom

    /// The orientation that an image file declares; `topLeft` when it declares none or says it wrongly, since a damaged
    /// note about a picture is no reason to refuse the picture.
    init(file: Bytes, format: ImageFormat) {
        let exif =
            switch format {
            case .jpeg: Self.jpegBlock(file)
            case .png: Self.pngBlock(file)
            case .webp: Self.webpBlock(file)
            }
        self = exif.flatMap(Self.tag) ?? .topLeft
    }

    /// The value of the tag in a TIFF structure.
    private static func tag(_ tiff: Bytes) -> Orientation? {
        let littleEndian: Bool
        switch (tiff.byte(at: 0), tiff.byte(at: 1)) {
        case (0x49, 0x49): littleEndian = true
        case (0x4D, 0x4D): littleEndian = false
        default: return nil
        }
        guard let directory = tiff.integer(at: 4, bytes: 4, littleEndian: littleEndian),
            let entries = tiff.integer(at: directory, bytes: 2, littleEndian: littleEndian)
        else { return nil }
        for entry in 0..<entries {
            let place = directory + 2 + 12 * entry
            guard let tag = tiff.integer(at: place, bytes: 2, littleEndian: littleEndian) else { return nil }
            if tag == 0x0112 {
                return tiff.integer(at: place + 8, bytes: 2, littleEndian: littleEndian).flatMap(Orientation.init)
            }
        }
        return nil
    }

    /// The TIFF structure of a JPEG file's first Exif segment.
    private static func jpegBlock(_ file: Bytes) -> Bytes? {
        var place = 2
        while file.byte(at: place) == 0xFF, let marker = file.byte(at: place + 1) {
            if marker == 0xFF {
                place += 1
                continue
            }
            if marker == 0xDA || marker == 0xD9 { return nil }
            guard let length = file.integer(at: place + 2, bytes: 2, littleEndian: false), length >= 2 else {
                return nil
            }
            if marker == 0xE1, let body = file.range(place + 4, count: length - 2), body.starts(with: exifPrefix) {
                return body.range(exifPrefix.count, count: body.count - exifPrefix.count)
            }
            place += 2 + length
        }
        return nil
    }

    /// The body of a PNG file's `eXIf` chunk.
    private static func pngBlock(_ file: Bytes) -> Bytes? {
        var place = 8
        while let length = file.integer(at: place, bytes: 4, littleEndian: false),
            let body = file.range(place + 8, count: length)
        {
            if file.range(place + 4, count: 4)?.starts(with: Array("eXIf".utf8)) == true { return body }
            place += 12 + length
        }
        return nil
    }

    /// The body of a WebP file's `EXIF` chunk; some writers put JPEG's prefix before the TIFF structure.
    private static func webpBlock(_ file: Bytes) -> Bytes? {
        var place = 12
        while let length = file.integer(at: place + 4, bytes: 4, littleEndian: true),
            let body = file.range(place + 8, count: length)
        {
            if file.range(place, count: 4)?.starts(with: Array("EXIF".utf8)) == true {
                let skip = body.starts(with: exifPrefix) ? exifPrefix.count : 0
                return body.range(skip, count: length - skip)
            }
            place += 8 + length + length % 2
        }
        return nil
    }

    private static let exifPrefix = Array("Exif\0\0".utf8)
}

extension Image {
    /// The image as it is meant to be seen.
    func oriented(_ orientation: Orientation) -> Image {
        let (bottom, right) = (height - 1, width - 1)
        return switch orientation {
        case .topLeft: self
        case .topRight: rearranged(height: height, width: width) { ($0, right - $1) }
        case .bottomRight: rearranged(height: height, width: width) { (bottom - $0, right - $1) }
        case .bottomLeft: rearranged(height: height, width: width) { (bottom - $0, $1) }
        case .leftTop: rearranged(height: width, width: height) { ($1, $0) }
        case .rightTop: rearranged(height: width, width: height) { (bottom - $1, $0) }
        case .rightBottom: rearranged(height: width, width: height) { (bottom - $1, right - $0) }
        case .leftBottom: rearranged(height: width, width: height) { ($1, right - $0) }
        }
    }
}
