import Foundation

/// Output pixel (x, y) is taken from (a·(x+½) + b·(y+½) + c, d·(x+½) + e·(y+½) + f).
struct AffineMap {
    var a = 1.0
    var b = 0.0
    var c = 0.0
    var d = 0.0
    var e = 1.0
    var f = 0.0

    func callAsFunction(_ x: Double, _ y: Double) -> (x: Double, y: Double) {
        (a * x + b * y + c, d * x + e * y + f)
    }

    /// Counter-clockwise about the centre, the entries rounded to 15 decimals as Pillow does.
    static func rotation(degrees: Double, height: Int, width: Int) -> AffineMap {
        func rounded(_ value: Double) -> Double { (value * 1e15).rounded(.toNearestOrEven) / 1e15 }
        let angle = -degrees * .pi / 180
        let (cosine, sine) = (rounded(cos(angle)), rounded(sin(angle)))
        let center = (x: Double(width) / 2, y: Double(height) / 2)
        var map = AffineMap(a: cosine, b: sine, d: -sine, e: cosine)
        let moved = map(-center.x, -center.y)
        map.c = moved.x + center.x
        map.f = moved.y + center.y
        return map
    }
}

extension Image {
    /// The image seen through an affine map, equal bit for bit to Pillow's `transform`. What lies outside gets the fill
    /// colour, one value for each channel. Other filters than nearest and bicubic count as bilinear.
    func transformed(_ map: AffineMap, filter: Resampling, fill: [UInt8]) -> Image {
        precondition(fill.count == channels, "\(fill.count) fill values for \(channels) channels")
        if filter == .nearest { return transformedNearest(map, fill: fill) }
        return Image(height: height, width: width, channels: channels) { output in
            pixels.withUnsafeBufferPointer { input in
                var target = output
                for y in 0..<height {
                    for x in 0..<width {
                        let place = map(Double(x) + 0.5, Double(y) + 0.5)
                        let inside =
                            place.x >= 0 && place.x < Double(width) && place.y >= 0 && place.y < Double(height)
                        for c in 0..<channels {
                            guard inside else {
                                target[c] = fill[c]
                                continue
                            }
                            let value =
                                filter == .bicubic
                                ? bicubic(input, place.x - 0.5, place.y - 0.5, c)
                                : bilinear(input, place.x - 0.5, place.y - 0.5, c)
                            target[c] = UInt8(max(0, min(255, value)))
                        }
                        target += channels
                    }
                }
            }
        }
    }

    @inline(__always)
    private func value(_ input: UnsafeBufferPointer<UInt8>, _ y: Int, _ x: Int, _ c: Int) -> Double {
        Double(input[(y * width + max(0, min(width - 1, x))) * channels + c])
    }

    private func bilinear(_ input: UnsafeBufferPointer<UInt8>, _ x: Double, _ y: Double, _ c: Int) -> Double {
        let (column, row) = (Int(x.rounded(.down)), Int(y.rounded(.down)))
        func line(_ row: Int) -> Double {
            let left = value(input, row, column, c)
            return left + (value(input, row, column + 1, c) - left) * (x - Double(column))
        }
        let above = line(max(0, row))
        let below = row + 1 < height ? line(row + 1) : above
        return above + (below - above) * (y - Double(row))
    }

    private func bicubic(_ input: UnsafeBufferPointer<UInt8>, _ x: Double, _ y: Double, _ c: Int) -> Double {
        let (column, row) = (Int(x.rounded(.down)), Int(y.rounded(.down)))
        func line(_ row: Int) -> Double {
            Self.cubic(
                value(input, row, column - 1, c), value(input, row, column, c), value(input, row, column + 1, c),
                value(input, row, column + 2, c), x - Double(column))
        }
        // A row outside the image repeats the one before it, and the first is clamped.
        let first = line(max(0, min(height - 1, row - 1)))
        let second = row >= 0 && row < height ? line(row) : first
        let third = row + 1 < height ? line(row + 1) : second
        let fourth = row + 2 < height ? line(row + 2) : third
        return Self.cubic(first, second, third, fourth, y - Double(row))
    }

    /// Keys' cubic with a = -1 through four neighbours.
    @inline(__always)
    private static func cubic(_ v1: Double, _ v2: Double, _ v3: Double, _ v4: Double, _ t: Double) -> Double {
        let p2 = v3 - v1
        let p3 = 2 * (v1 - v2) + v3 - v4
        let p4 = v2 - v1 - v3 + v4
        return v2 + t * (p2 + t * (p3 + t * p4))
    }

    /// In 16.16 fixed point, as Pillow steps through the image.
    private func transformedNearest(_ map: AffineMap, fill: [UInt8]) -> Image {
        func fixed(_ value: Double) -> Int { Int((value * 65536 + 0.5).rounded(.down)) }
        let (a, b, d, e) = (fixed(map.a), fixed(map.b), fixed(map.d), fixed(map.e))
        let x0 = fixed(map.a * 0.5 + map.b * 0.5 + map.c)
        let y0 = fixed(map.d * 0.5 + map.e * 0.5 + map.f)
        var result = Image(height: height, width: width, colour: fill)
        for y in 0..<height {
            for x in 0..<width {
                let (column, row) = ((x0 + a * x + b * y) >> 16, (y0 + d * x + e * y) >> 16)
                guard row >= 0 && row < height && column >= 0 && column < width else { continue }
                for c in 0..<channels { result[y, x, c] = self[row, column, c] }
            }
        }
        return result
    }
}
