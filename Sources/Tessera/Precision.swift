import CKernels

/// The arithmetic of matrix products. Everything else is always float32: sums, norms, softmax, residuals, weights.
public enum Precision: String, Codable, Sendable, CaseIterable {
    /// Errors of float32 operands and sums, in the fastest way to have them: by multiply-adds, or, on processors with
    /// tiles (AMX), as six products of bfloat16 parts of the operands.
    case float32
    /// Three products of bfloat16 parts: errors of about 1e-5 of the largest result. Float32 where there are no tiles.
    case float32x3
    /// Operands rounded to bfloat16, sums in float32. Fast on processors that multiply such numbers, on tiles (AMX) or on
    /// vectors (AVX-512 BF16); elsewhere the same numbers at float32 speed.
    case bfloat16
    /// Rows of the left operand and columns of the right one as integers of 12 bits or more, each times a scale of its own
    /// for every 512 inner values, multiplied exactly. Nearer to float32 than `bfloat16` unless a few values of a row are
    /// far above all others; with VNNI up to 1.7 times as fast as float32. After Das et al., "Mixed Precision Training of
    /// Convolutional Neural Networks using Integer Operations", 2018.
    case int16
    /// For training, after SwitchBack (Wortsman et al., "Stable and low-precision training for large-scale vision-language
    /// models", 2023): linear layers multiply 8-bit codes forward and for the gradients of their inputs; the gradients of
    /// their weights, which add up over all tokens, and all other products are in ``wide``. Each row of the left operand
    /// and each column of the right one has a scale of its own for every 512 inner values. With VNNI codes are multiplied
    /// twice as fast as ``wide``; without it, or with tiles, this is ``fastest``.
    case switchback

    /// What products use where nothing else is said.
    @TaskLocal public static var current: Precision = .float32

    /// Runs `body` with products in this precision, gradients included if they are taken inside.
    public func use<Result>(_ body: () throws -> Result) rethrows -> Result {
        try Precision.$current.withValue(self, operation: body)
    }

    /// bfloat16 where the processor multiplies it faster than float32, otherwise float32.
    public static var automatic: Precision { tk_has_bfloat16() ? .bfloat16 : .float32 }

    /// The fastest here whose errors are about those of `bfloat16` or smaller: `bfloat16` where the processor multiplies
    /// it, `int16` with VNNI, otherwise `float32`.
    public static var fastest: Precision { tk_has_bfloat16() ? .bfloat16 : tk_has_vnni() ? .int16 : .float32 }

    /// That of products other than a linear layer's forward and for the gradient of its input.
    package var wide: Precision { self == .switchback ? .fastest : self }

    /// Whether what only products read is held in bfloat16.
    package var holdsRounded: Bool { wide == .bfloat16 }

    package var kernel: tk_precision {
        switch self {
        case .float32: tk_float32_grade()
        case .float32x3: TK_SPLIT3
        case .bfloat16: TK_BFLOAT16
        case .int16: TK_INT16
        case .switchback: tk_has_fast_int8() ? TK_INT8 : wide.kernel
        }
    }
}

/// The processor, as far as this process uses it.
public enum Processor {
    /// The instruction set in use: `portable`, `avx2`, `avx512` or `amx`. `TESSERA_ISA` in the environment forces one.
    public static var instructionSet: String { String(cString: tk_level_name(tk_current_level())) }

    /// How many threads compute. Results do not depend on it.
    public static var threads: Int {
        get { Int(tk_thread_count()) }
        set { tk_set_thread_count(Int32(newValue)) }
    }
}
