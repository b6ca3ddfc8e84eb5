// What all kernels of 8-bit integers share: packing, and what becomes of sums of codes. The loops that multiply are those
// of int8_vectors.h and of tiles.h.

typedef uint8_t vbytes __attribute__((ext_vector_type(TK_WIDTH)));

/// What a quantizer multiplies by: the same in plans and where they are simulated.
typedef struct {
    float inverse_fine, inverse_coarse, greatest;
    int shift;
} code_factors;

TK_INLINE code_factors factors_of(const tk_quantizer *q) {
    return (code_factors){1 / q->scale, 1 / (q->scale * (float)(1 << q->shift)), (float)q->greatest, q->shift};
}

/// To the nearest, ties to even; numbers must be small. Each step is a statement of its own, so that no instruction set
/// fuses two of them.
TK_INLINE vint rounded(vfloat x) {
    const float rounding = 0x1.8p23f;
    const vfloat shifted = x + rounding;
    return vbits(shifted) - 0x4B400000;             // the bits of `rounding`
}

TK_INLINE vint codes_of(tk_code_kind kind, code_factors f, vfloat x) {
    const vfloat fine = x * f.inverse_fine;
    if (kind == TK_UNIFORM) return rounded(clamp(fine, -f.greatest, f.greatest));
    const vfloat coarse = x * f.inverse_coarse;
    const vint large = rounded(clamp(coarse, 0, f.greatest)) << f.shift;
    if (kind == TK_SPLIT_SIGNS) return x < 0.0f ? rounded(clamp(fine, -f.greatest, 0)) : large;
    const vint small = rounded(clamp(fine, 0, f.greatest + 1));
    return small <= (int32_t)f.greatest ? small : large;
}

/// Runs the statement with `kind` a constant.
#define TK_FOR_KIND(value, statement)                                                                                  \
    switch (value) {                                                                                                   \
    case TK_UNIFORM: { const tk_code_kind kind = TK_UNIFORM; statement; break; }                                       \
    case TK_SPLIT_SIGNS: { const tk_code_kind kind = TK_SPLIT_SIGNS; statement; break; }                               \
    case TK_SPLIT_SIZES: { const tk_code_kind kind = TK_SPLIT_SIZES; statement; break; }                               \
    }

/// Bytes code + 128, of as many lanes as there are, at most a vector.
TK_INLINE void store_codes(vint codes, uint8_t *bytes, int64_t lanes) {
    const vbytes all = __builtin_convertvector(codes + TK_INT8_OFFSET, vbytes);
    if (lanes >= TK_WIDTH) memcpy(bytes, &all, sizeof all);
    else memcpy(bytes, &all, (size_t)lanes);
}

TK_INLINE void quantize_kind(tk_code_kind kind, code_factors f, const float *x, int64_t count, uint8_t *codes) {
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) store_codes(codes_of(kind, f, load(x + i)), codes + i, TK_WIDTH);
    if (i < count) store_codes(codes_of(kind, f, load_first(x + i, count - i)), codes + i, count - i);
}

static void TK_KERNEL(quantize_range)(const float *x, int64_t count, const tk_quantizer *q, uint8_t *codes) {
    const code_factors f = factors_of(q);
    TK_FOR_KIND(q->kind, quantize_kind(kind, f, x, count, codes))
}

TK_INLINE double round_kind(tk_code_kind kind, code_factors f, float scale, const float *x, float *y, int64_t count) {
    enum { piece = 1 << 12 };                       // summed in single precision
    double error = 0;
    for (int64_t first = 0; first < count; first += piece) {
        const int64_t end = count - first < piece ? count : first + piece;
        vfloat squares = 0;
        for (int64_t i = first; i < end; i += TK_WIDTH) {
            const vfloat v = load_up_to(x + i, end - i);
            const vfloat rounded = __builtin_convertvector(codes_of(kind, f, v), vfloat) * scale;
            const vfloat difference = rounded - v;
            squares += difference * difference;
            if (y) store_up_to(y + i, rounded, end - i);
        }
        error += vsum(squares);
    }
    return error;
}

static double TK_KERNEL(round_range)(const float *x, float *y, int64_t count, const tk_quantizer *q) {
    const code_factors f = factors_of(q);
    double error = 0;
    TK_FOR_KIND(q->kind, error = round_kind(kind, f, q->scale, x, y, count))
    return error;
}

/// Four values of each of TK_WIDTH columns, one after the other, as the dwords of a panel.
TK_INLINE vint quads_of_rows(vint a, vint b, vint c, vint d) {
    return (a & 255) | (b & 255) << 8 | (c & 255) << 16 | d << 24;
}

TK_INLINE vint sums_of_quads(vint quads) {
    return (quads << 24 >> 24) + (quads << 16 >> 24) + (quads << 8 >> 24) + (quads >> 24);
}

static void TK_KERNEL(pack_values)(const float *x, int64_t row, bool is_transposed, int64_t count, int64_t k,
                                   const tk_quantizer *q, int8_t *panel, int32_t *sums) {
    enum { width = TK_INT8_PANEL };
    const code_factors f = factors_of(q);
    const int64_t depth = tk_int8_depth(k);
    if (is_transposed) {                            // k rows: four of them at a time become quads
        for (int64_t j = 0; j < width; j += TK_WIDTH) {
            vint sum = 0;
            for (int64_t p = 0; p < depth; p += 4) {
                vint values[4];
                for (int64_t i = 0; i < 4; i++) {
                    values[i] = 0;
                    if (p + i < k && j < count)
                        values[i] = codes_of(TK_UNIFORM, f, load_up_to(x + (p + i) * row + j, count - j));
                }
                const vint quads = quads_of_rows(values[0], values[1], values[2], values[3]);
                memcpy(panel + p * width + 4 * j, &quads, sizeof quads);
                sum += sums_of_quads(quads);
            }
            sum *= TK_INT8_OFFSET;
            memcpy(sums + j, &sum, sizeof sum);
        }
        return;
    }
    uint8_t bytes[1 << 8];
    memset(sums, 0, sizeof(int32_t[TK_INT8_PANEL]));
    for (int64_t first = 0; first < depth; first += (int64_t)sizeof bytes) {
        const int64_t end = depth - first < (int64_t)sizeof bytes ? depth : first + (int64_t)sizeof bytes;
        for (int64_t j = 0; j < width; j++) {
            const int64_t values = j < count && first < k ? (k < end ? k : end) - first : 0;
            if (values > 0) TK_KERNEL(quantize_range)(x + j * row + first, values, q, bytes);
            memset(bytes + values, TK_INT8_OFFSET, (size_t)(end - first - values));
            int32_t sum = 0;
            for (int64_t p = 0; p < values; p++) sum += bytes[p] - TK_INT8_OFFSET;
            sums[j] += sum * TK_INT8_OFFSET;
            for (int64_t p = 0; p < end - first; p += 4) {
                int32_t four;
                memcpy(&four, bytes + p, sizeof four);
                four ^= (int32_t)0x80808080;
                memcpy(panel + (first + p) * width + 4 * j, &four, sizeof four);
            }
        }
    }
}

/// Two rows of a tile by TOGETHER_COLUMNS vectors: as many as functions are computed of together.
enum { TOGETHER_COLUMNS = TK_TOGETHER / 2 };

/// The part of such a block that stands at `i`. What is beyond the last row or column is the first one once more.
#define TK_BLOCK_ROW(i, rows) ((i) / TOGETHER_COLUMNS < (rows) ? (i) / TOGETHER_COLUMNS : 0)
#define TK_BLOCK_COLUMN(i, vectors) ((i) % TOGETHER_COLUMNS < (vectors) ? (i) % TOGETHER_COLUMNS * TK_WIDTH : 0)

/// What the results are: floats, or codes of a tk_code_kind.
enum { FLOAT_RESULTS = -1 };

/// `rows` rows by `vectors` vectors of a block, of which `lanes` lanes count, from sums of codes to results.
TK_INLINE void finish_int8_block(const tk_int8_block *t, code_factors f, tk_activation activation, int kind,
                                 const int32_t *sums, int64_t row, int64_t rows, int64_t column, int64_t vectors,
                                 int64_t lanes) {
    vparts v;
#pragma clang loop unroll(full)
    for (int i = 0; i < TK_TOGETHER; i++) {
        const int64_t r = TK_BLOCK_ROW(i, rows), j = TK_BLOCK_COLUMN(i, vectors);
        vint sum, too_much;
        memcpy(&sum, sums + r * TK_INT8_PANEL + j, sizeof sum);
        memcpy(&too_much, t->b_sums + column + j, sizeof too_much);
        v.part[i] = __builtin_convertvector(sum - too_much, vfloat) * load_up_to(t->scales + column + j, lanes);
        if (t->end.bias) v.part[i] = v.part[i] + load_up_to(t->end.bias + column + j, lanes);
    }
    v = vparts_of(activate(activation, vjoined(v)));
#pragma clang loop unroll(full)
    for (int i = 0; i < TK_TOGETHER; i++) {
        const int64_t r = row + TK_BLOCK_ROW(i, rows), j = column + TK_BLOCK_COLUMN(i, vectors);
        if (t->end.residual) v.part[i] += load_up_to(t->end.residual + r * t->end.residual_row + j, lanes);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < TK_TOGETHER; i++) {
        const int64_t r = row + TK_BLOCK_ROW(i, rows), j = column + TK_BLOCK_COLUMN(i, vectors);
        if (kind == FLOAT_RESULTS) store_up_to(t->end.c + r * t->end.c_row + j, v.part[i], lanes);
        else store_codes(codes_of((tk_code_kind)kind, f, v.part[i]), t->codes + r * t->codes_row + j, lanes);
    }
}

/// Fewer columns than a vector: not worth a loop for each activation and kind.
static __attribute__((noinline)) void finish_int8_rest(const tk_int8_block *t, code_factors f, const int32_t *sums,
                                                       int64_t row, int64_t rows, int64_t column, int64_t lanes) {
    const int kind = t->codes ? (int)t->quantizer->kind : FLOAT_RESULTS;
    for (int64_t i = 0; i < rows; i += 2)
        finish_int8_block(t, f, t->end.activation, kind, sums + i * TK_INT8_PANEL, row + i, rows - i, column, 1, lanes);
}

static void finish_int8(const tk_int8_block *t, code_factors f, const int32_t *sums, int64_t row, int64_t rows,
                        int64_t column) {
    const int64_t columns = t->end.n - column < TK_INT8_PANEL ? t->end.n - column : TK_INT8_PANEL;
    const int64_t whole = columns / TK_WIDTH;
#define FINISH(kind)                                                                                                   \
    for (int64_t i = 0; i < rows; i += 2)                                                                              \
        for (int64_t j = 0; j < whole; j += TOGETHER_COLUMNS)                                                          \
            finish_int8_block(t, f, activation, kind, sums + i * TK_INT8_PANEL + j * TK_WIDTH, row + i, rows - i,      \
                              column + j * TK_WIDTH, whole - j, TK_WIDTH);
    TK_FOR_ACTIVATION(t->end.activation, {
        if (t->codes) TK_FOR_KIND(t->quantizer->kind, FINISH(kind))
        else FINISH(FLOAT_RESULTS)
    })
#undef FINISH
    const int64_t rest = whole * TK_WIDTH;
    if (rest < columns) finish_int8_rest(t, f, sums + rest, row, rows, column + rest, columns - rest);
}

static void TK_KERNEL(multiply_int8)(const tk_int8_block *t);

const struct tk_int8_kernels TK_KERNEL(tk_int8_kernels) = {
#define X(result, name, arguments) .name = TK_KERNEL(name),
#include "int8.def"
#undef X
};
