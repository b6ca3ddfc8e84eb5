import Foundation

/// The filters of Pillow's `resize`, named as timm's configurations name them.
public enum Resampling: String, Codable, Sendable, CaseIterable {
    case nearest, box, bilinear, hamming, bicubic, lanczos

    /// Half the width of the filter, in input pixels at scale 1.
    var support: Double {
        switch self {
        case .nearest, .box: 0.5
        case .bilinear, .hamming: 1
        case .bicubic: 2
        case .lanczos: 3
        }
    }

    /// The filter's value at a distance from its centre.
    func weight(_ distance: Double) -> Double {
        let x = abs(distance)
        switch self {
        case .nearest, .box:
            return distance > -0.5 && distance <= 0.5 ? 1 : 0
        case .bilinear:
            return x < 1 ? 1 - x : 0
        case .hamming:
            if x == 0 { return 1 }
            return x < 1 ? sin(.pi * x) / (.pi * x) * (0.54 + 0.46 * cos(.pi * x)) : 0
        case .bicubic:  // Keys' cubic with a = -1/2
            if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
            return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
        case .lanczos:
            return x < 3 ? Self.sinc(distance) * Self.sinc(distance / 3) : 0
        }
    }

    private static func sinc(_ x: Double) -> Double { x == 0 ? 1 : sin(.pi * x) / (.pi * x) }
}

extension Image {
    /// The image at another size, equal bit for bit to Pillow 13's `Image.resize`: the filter grows with the scale when
    /// shrinking (antialiasing), each axis is a pass of its own, and the result of the first pass is rounded to 8 bits.
    public func resized(height newHeight: Int, width newWidth: Int, filter: Resampling) -> Image {
        precondition(newHeight > 0 && newWidth > 0, "resize to \(newHeight)x\(newWidth)")
        if newHeight == height && newWidth == width { return self }
        if filter == .nearest { return resizedNearest(height: newHeight, width: newWidth) }
        let verticalFirst = newHeight < height && height - newHeight > 2 * (width - newWidth)
        return verticalFirst
            ? resizedVertically(newHeight, filter).resizedHorizontally(newWidth, filter)
            : resizedHorizontally(newWidth, filter).resizedVertically(newHeight, filter)
    }

    /// The image with its shorter side at `side` and its shape kept, as torchvision's `Resize(side)`.
    public func resized(shorterSide side: Int, filter: Resampling) -> Image {
        height <= width
            ? resized(height: side, width: max(1, side * width / height), filter: filter)
            : resized(height: max(1, side * height / width), width: side, filter: filter)
    }

    private func resizedHorizontally(_ newWidth: Int, _ filter: Resampling) -> Image {
        if newWidth == width { return self }
        let taps = FilterTaps(from: width, to: newWidth, filter: filter)
        return Image(height: height, width: newWidth, channels: channels) { output in
            pixels.withUnsafeBufferPointer { input in
                var target = output
                for y in 0..<height {
                    let row = input.baseAddress! + y * rowBytes
                    taps.forEach { start, weights in
                        for c in 0..<channels {
                            var sum = FilterTaps.half
                            var pixel = row + start * channels + c
                            for weight in weights {
                                sum &+= Int32(pixel.pointee) &* weight
                                pixel += channels
                            }
                            target[c] = FilterTaps.round(sum)
                        }
                        target += channels
                    }
                }
            }
        }
    }

    private func resizedVertically(_ newHeight: Int, _ filter: Resampling) -> Image {
        if newHeight == height { return self }
        let taps = FilterTaps(from: height, to: newHeight, filter: filter)
        var sums = [Int32](repeating: 0, count: rowBytes)
        return Image(height: newHeight, width: width, channels: channels) { output in
            pixels.withUnsafeBufferPointer { input in
                sums.withUnsafeMutableBufferPointer { sums in
                    var target = output
                    taps.forEach { start, weights in
                        sums.update(repeating: FilterTaps.half)
                        for (k, weight) in weights.enumerated() {
                            let row = input.baseAddress! + (start + k) * rowBytes
                            for i in 0..<rowBytes { sums[i] &+= Int32(row[i]) &* weight }
                        }
                        for i in 0..<rowBytes { target[i] = FilterTaps.round(sums[i]) }
                        target += rowBytes
                    }
                }
            }
        }
    }

    private func resizedNearest(height newHeight: Int, width newWidth: Int) -> Image {
        // The coordinate is accumulated, not multiplied: the rounding of the sum is part of the result.
        func sources(_ old: Int, _ new: Int) -> [Int] {
            let step = Double(old) / Double(new)
            var place = step * 0.5
            return (0..<new).map { _ in
                defer { place += step }
                return min(old - 1, Int(place))
            }
        }
        let rows = sources(height, newHeight)
        let columns = sources(width, newWidth)
        return rearranged(height: newHeight, width: newWidth) { (rows[$0], columns[$1]) }
    }
}

/// For each output place of one axis: the first input place and the fixed-point weights from there on.
private struct FilterTaps {
    /// Fraction bits of the weights: 32 less 8 for the pixel and 2 for overshoot.
    static let precision: Int32 = 22
    static let half: Int32 = 1 << (precision - 1)

    static func round(_ sum: Int32) -> UInt8 { UInt8(max(0, min(255, sum >> precision))) }

    private var starts: [Int] = []
    private var counts: [Int] = []
    private var weights: [Int32] = []

    init(from old: Int, to new: Int, filter: Resampling) {
        let scale = Double(old) / Double(new)
        let filterScale = max(scale, 1)
        let support = filter.support * filterScale
        for i in 0..<new {
            let center = (Double(i) + 0.5) * scale
            let low = max(0, Int(center - support + 0.5))
            let high = min(old, Int(center + support + 0.5))
            let raw = (low..<high).map { filter.weight((Double($0) - center + 0.5) / filterScale) }
            let sum = raw.reduce(0, +)
            starts.append(low)
            counts.append(raw.count)
            for value in raw {
                let fixed = (sum == 0 ? value : value / sum) * Double(1 << Self.precision)
                weights.append(Int32(fixed + (fixed < 0 ? -0.5 : 0.5)))
            }
        }
    }

    @inline(__always)
    func forEach(_ body: (Int, UnsafeBufferPointer<Int32>) -> Void) {
        weights.withUnsafeBufferPointer { all in
            var place = 0
            for i in 0..<starts.count {
                body(starts[i], UnsafeBufferPointer(rebasing: all[place..<place + counts[i]]))
                place += counts[i]
            }
        }
    }
}
