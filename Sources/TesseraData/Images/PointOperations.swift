/// Changes of colour, each equal bit for bit to Pillow's (`ImageOps`, `ImageEnhance`).
extension Image {
    /// Every byte looked up in a table of 256.
    func mapped(_ table: [UInt8]) -> Image {
        var result = self
        for i in result.pixels.indices { result.pixels[i] = table[Int(result.pixels[i])] }
        return result
    }

    func mapped(_ function: (Int) -> Int) -> Image { mapped((0..<256).map { UInt8(max(0, min(255, function($0)))) }) }

    /// Every byte looked up in a table that is made from the histogram of its channel.
    private func mappedByChannel(_ table: ([Int]) -> [UInt8]) -> Image {
        var result = self
        for c in 0..<channels {
            var histogram = [Int](repeating: 0, count: 256)
            for i in stride(from: c, to: pixels.count, by: channels) { histogram[Int(pixels[i])] += 1 }
            let table = table(histogram)
            for i in stride(from: c, to: pixels.count, by: channels) { result.pixels[i] = table[Int(pixels[i])] }
        }
        return result
    }

    func inverted() -> Image { mapped { 255 - $0 } }

    /// Keeps the top bits; 0 bits leave black.
    func posterized(bits: Int) -> Image { mapped { $0 & (0xFF << (8 - max(0, min(8, bits)))) & 0xFF } }

    /// Inverts what is not below the threshold.
    func solarized(threshold: Int) -> Image { mapped { $0 < threshold ? $0 : 255 - $0 } }

    /// Brightens the dark half.
    func solarizedByAdding(_ value: Int) -> Image { mapped { $0 < 128 ? min(255, $0 + value) : $0 } }

    /// Stretches each channel to 0 ... 255.
    func autoContrasted() -> Image {
        mappedByChannel { histogram in
            let (low, high) = (histogram.firstIndex { $0 > 0 }!, histogram.lastIndex { $0 > 0 }!)
            guard high > low else { return (0...255).map { UInt8($0) } }
            let scale = 255 / Double(high - low)
            let offset = -Double(low) * scale
            return (0...255).map { UInt8(max(0, min(255, Int(Double($0) * scale + offset)))) }
        }
    }

    /// Makes the histogram of each channel flat.
    func equalized() -> Image {
        mappedByChannel { histogram in
            let step = (histogram.reduce(0, +) - histogram.last { $0 > 0 }!) / 255
            guard step > 0 else { return (0...255).map { UInt8($0) } }
            var sum = step / 2
            return histogram.map { count in
                defer { sum += count }
                return UInt8(min(255, sum / step))
            }
        }
    }

    /// `base + factor * (self - base)` in single precision, cut to 0 ... 255, fraction dropped.
    private func blended(factor: Float, base: (Int) -> UInt8) -> Image {
        var result = self
        for i in pixels.indices {
            let base = Float(base(i))
            result.pixels[i] = UInt8(max(0, min(255, base + factor * (Float(pixels[i]) - base))))
        }
        return result
    }

    func brightened(_ factor: Float) -> Image { blended(factor: factor) { _ in 0 } }

    /// Saturation; a grey image has none.
    func saturated(_ factor: Float) -> Image {
        if channels == 1 { return self }
        let luma = converted(toChannels: 1).pixels
        return blended(factor: factor) { luma[$0 / 3] }
    }

    func contrasted(_ factor: Float) -> Image {
        let luma = converted(toChannels: 1).pixels
        let mean = Double(luma.reduce(0) { $0 + Int($1) }) / Double(luma.count)
        let grey = UInt8(mean + 0.5)
        return blended(factor: factor) { _ in grey }
    }

    func sharpened(_ factor: Float) -> Image {
        let smooth = smoothed().pixels
        return blended(factor: factor) { smooth[$0] }
    }

    /// Weighted mean over 3x3 pixels, the middle counting five times; the border stays.
    private func smoothed() -> Image {
        var result = self
        guard height > 2 && width > 2 else { return result }
        for y in 1..<height - 1 {
            for i in y * rowBytes + channels..<(y + 1) * rowBytes - channels {
                var sum = 4 * Int(pixels[i])
                for row in [i - rowBytes, i, i + rowBytes] {
                    sum += Int(pixels[row - channels]) + Int(pixels[row]) + Int(pixels[row + channels])
                }
                result.pixels[i] = UInt8((2 * sum + 13) / 26)
            }
        }
        return result
    }

    /// Turns the hue by `shift` (1 is the whole circle) through Pillow's 8-bit HSV; a grey image has none.
    func hueShifted(_ shift: Double) -> Image {
        if channels == 1 { return self }
        let offset = UInt8(truncatingIfNeeded: Int(shift * 255))
        var result = self
        for i in stride(from: 0, to: pixels.count, by: 3) {
            let (h, s, v) = Self.hsv(pixels[i], pixels[i + 1], pixels[i + 2])
            let (r, g, b) = Self.rgb(h &+ offset, s, v)
            (result.pixels[i], result.pixels[i + 1], result.pixels[i + 2]) = (r, g, b)
        }
        return result
    }

    private static func hsv(_ r: UInt8, _ g: UInt8, _ b: UInt8) -> (UInt8, UInt8, UInt8) {
        let (high, low) = (max(r, g, b), min(r, g, b))
        if high == low { return (0, 0, high) }
        let range = Float(high - low)
        // Single precision in storage and double in between, as Pillow's C rounds.
        func share(_ value: UInt8) -> Double { Double(Float(high - value) / range) }
        let sector =
            r == high ? share(b) - share(g) : g == high ? 2 + share(r) - share(b) : 4 + share(g) - share(r)
        let turn = Float((Double(Float(sector)) / 6 + 1).truncatingRemainder(dividingBy: 1))
        return (UInt8(Double(turn) * 255), UInt8(Double(range / Float(high)) * 255), high)
    }

    private static func rgb(_ h: UInt8, _ s: UInt8, _ v: UInt8) -> (UInt8, UInt8, UInt8) {
        if s == 0 { return (v, v, v) }
        let turn = Double(h) * 6 / 255
        let (fraction, strength) = (Double(Float(turn - turn.rounded(.down))), Double(Float(Double(s) / 255)))
        func part(_ loss: Double) -> UInt8 { UInt8(max(0, min(255, (Double(v) * (1 - loss)).rounded()))) }
        let (p, q, t) = (part(strength), part(strength * fraction), part(strength * (1 - fraction)))
        return switch Int(turn) % 6 {
        case 0: (v, t, p)
        case 1: (q, v, p)
        case 2: (p, v, t)
        case 3: (p, q, v)
        case 4: (t, p, v)
        default: (v, p, q)
        }
    }
}
