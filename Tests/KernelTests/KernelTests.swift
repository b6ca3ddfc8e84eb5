import CKernels
import Foundation
import Testing

/// Kernels against naive loops in double precision. The level and the number of threads are global, so everything here
/// runs one after the other.
@Suite(.serialized) struct KernelTests {}

/// A small generator of test data, independent of the product's.
struct TestRandom {
    private var state: UInt64

    init(seed: UInt64) { state = seed &+ 0x9E37_79B9_7F4A_7C15 }

    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }

    mutating func integer(below bound: Int) -> Int { Int(next() >> 33) % bound }
    mutating func element<T>(of array: [T]) -> T { array[integer(below: array.count)] }
    mutating func flag() -> Bool { integer(below: 2) == 1 }
    mutating func floats(_ count: Int) -> [Float] {
        (0..<count).map { _ in Float(Int(next() >> 40) - (1 << 23)) / Float(1 << 22) }
    }
}

/// Runs `body` at every level that this processor has and with emulated tiles, then goes back to the best level.
func forEachLevel(_ body: (_ name: String) throws -> Void) rethrows {
    let before = tk_current_level()
    defer { _ = tk_select_level(before) }
    for level in [TK_PORTABLE, TK_AVX2, TK_AVX512, TK_AMX] where tk_select_level(level) {
        try body(String(cString: tk_level_name(level)))
    }
    if tk_select_level(TK_AVX512), tk_has_vnni() || tk_has_bfloat16() {
        tk_avoid_extensions(true)
        defer { tk_avoid_extensions(false) }
        try body("avx512 without extensions")
    }
    tk_emulate_tiles(true)
    defer { tk_emulate_tiles(false) }
    try body("emulated tiles")
}

/// What `body` returns, after checking that 1, 2 and 5 threads return the same bits.
func sameForAnyThreadCount(_ body: () -> [Float], sourceLocation: SourceLocation = #_sourceLocation) -> [Float] {
    let before = tk_thread_count()
    defer { tk_set_thread_count(before) }
    var first: [Float]?
    for threads in [1, 2, 5] as [Int32] {
        tk_set_thread_count(threads)
        let result = body()
        if let first {
            #expect(first.map(\.bitPattern) == result.map(\.bitPattern), sourceLocation: sourceLocation)
        } else {
            first = result
        }
    }
    return first!
}

/// Expects |actual - expected| to be at most `tolerance` of the largest expected magnitude, or of `floor`.
func expectClose(
    _ actual: [Float], _ expected: [Double], tolerance: Double = 2e-6, floor: Double = 1e-3, _ what: String,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(actual.count == expected.count, "\(what)", sourceLocation: sourceLocation)
    let scale = max(expected.reduce(0) { max($0, abs($1)) }, floor)
    var worst = 0.0
    var place = 0
    for i in expected.indices {
        let error = abs(Double(actual[i]) - expected[i])
        if !(error <= worst) { (worst, place) = (error, i) }
    }
    #expect(
        worst <= tolerance * scale,
        "\(what): element \(place) is off by \(worst / scale) of the largest", sourceLocation: sourceLocation)
}

/// Numbers of bfloat16 as floats.
func widened(_ halves: some Sequence<UInt16>) -> [Float] { halves.map { Float(bitPattern: UInt32($0) << 16) } }

/// To the nearest bfloat16, ties to even, from the definition: 8 bits of significand.
func roundedToBFloat16(_ x: Float) -> Float {
    guard x != 0, x.isFinite else { return x }
    let unit = Double(x.ulp) * 65536
    return Float((Double(x) / unit).rounded(.toNearestOrEven) * unit)
}
