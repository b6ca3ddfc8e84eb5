// Products of 16-bit codes: each row of the left operand and each column of the right one, in each k block, is a float
// scale times integers, whose products one instruction multiplies and adds by pairs. After Das et al., "Mixed Precision
// Training of Convolutional Neural Networks using Integer Operations" (2018), where a whole tensor shares one exponent.
//
// The sums of a k block are exact, so that every instruction set finds the same; codes are as large as that allows. A
// level gives the operation: dot_pairs(sums, a, b), which adds the products of both 16-bit halves.
#include "panels.h"

enum {
    PAIR_ROWS = TK_WIDTH == 16 ? 8 : 4,     // of a tile; they divide a vector
    PAIR_STRIDE = LEFT_STRIDE / 2,          // pairs between copied rows
};

typedef uint16_t ushorts __attribute__((ext_vector_type(TK_WIDTH)));

/// The greatest code c for which ks c^2 fits 32 bits: 2047 for the longest k block, 32767 for the shortest.
TK_INLINE float greatest_code(int64_t ks) {
    const float most = 32767, c = floorf(sqrtf(2147483647.0f / (float)(ks > 0 ? ks : 1)) * (1 - 0x1p-22f));
    return c < most ? c : most;
}

/// The absolute values of floats are ordered as integers, with those that are not numbers above infinity.
TK_INLINE vint magnitude(vfloat x) { return vbits(x) & 0x7FFFFFFF; }

/// What a float is multiplied by on its way to a code and back: for values up to `bits`, the greatest magnitude. Tiny
/// values are zero; with an infinity or a NaN among them, the way back is NaN.
typedef struct {
    vfloat inverse, scale;
} coding;

TK_INLINE coding coding_of(vint bits, float most) {
    enum { tiny = 27 << 23, infinity = 255 << 23 };         // 2^-100
    const vfloat greatest = vfrom_bits(bits), scale = greatest / most, none = 0;
    return (coding){
        vselect(bits >= tiny, most / greatest, none),
        vselect(bits >= infinity, vfrom_bits((vint)0x7FC00000), vselect(bits >= tiny, scale, none)),
    };
}

/// The nearest code, ties to even, in the lower 16 bits.
TK_INLINE vuint code(vfloat x, vfloat inverse) {
    const vfloat scaled = x * inverse;
    return (vuint)vbits(scaled + 0x1.8p23f);                // whose last bit is worth one
}

TK_INLINE vint pair_codes(vuint first, vuint second) { return (vint)((first & 0xFFFF) | second << 16); }

/// Codes of `ks` neighbouring floats, with zeros up to a whole vector. Returns their scale. `later` are to be fetched.
TK_INLINE float code_row(const float *from, const float *later, int64_t ks, float most, int32_t *pairs) {
    vint greatest = 0;
    int64_t k = 0;
    for (; k + TK_WIDTH <= ks; k += TK_WIDTH) {
        __builtin_prefetch(later + k);
        greatest = __builtin_elementwise_max(greatest, magnitude(load(from + k)));
    }
    if (k < ks) greatest = __builtin_elementwise_max(greatest, magnitude(load_first(from + k, ks - k)));
    const coding c = coding_of((vint)__builtin_reduce_max(greatest), most);
    uint16_t *to = (uint16_t *)pairs;
    for (k = 0; k + TK_WIDTH <= ks; k += TK_WIDTH) {
        const ushorts codes = __builtin_convertvector(code(load(from + k), c.inverse), ushorts);
        memcpy(to + k, &codes, sizeof codes);
    }
    if (k < ks) {
        const ushorts codes = __builtin_convertvector(code(load_first(from + k, ks - k), c.inverse), ushorts);
        memcpy(to + k, &codes, sizeof codes);
    }
    return c.scale[0];
}

/// Codes of at most PANEL columns of `ks` rows that lie `row` apart: pairs of rows as lines of whole vectors, zeros
/// beyond the last column and row. Each vector goes to `parts` places, which lie `part` apart: its neighbours follow.
TK_INLINE void code_columns(const float *from, int64_t row, int64_t columns, int64_t ks, float most, const int parts,
                            int64_t part, int64_t line, int32_t *to, float *scales) {
    enum { ahead = 12, cache_line = 16 };               // rows lie too far apart for the processor to guess the next
    const int64_t vectors = (columns + TK_WIDTH - 1) / TK_WIDTH;
    vint greatest[COLUMNS];
    vfloat inverse[COLUMNS];
    for (int v = 0; v < COLUMNS; v++) greatest[v] = 0;
    for (int64_t k = 0; k < ks; k++) {
        const float *values = from + k * row;
        if (k + ahead < ks)
            for (int64_t j = 0; j < columns; j += cache_line) __builtin_prefetch(values + ahead * row + j);
#pragma clang loop unroll(full)
        for (int v = 0; v < COLUMNS; v++)
            if (v < vectors)
                greatest[v] = __builtin_elementwise_max(
                    greatest[v], magnitude(load_up_to(values + v * TK_WIDTH, columns - v * TK_WIDTH)));
    }
    for (int64_t v = 0; v < vectors; v++) {
        const coding c = coding_of(greatest[v], most);
        inverse[v] = c.inverse;
        store(scales + v * TK_WIDTH, c.scale);
    }
    for (int64_t k = 0; k < ks; k += 2, from += 2 * row) {
#pragma clang loop unroll(full)
        for (int v = 0; v < COLUMNS; v++) {
            if (v >= vectors) break;
            const int64_t j = v * TK_WIDTH;
            const vfloat first = load_up_to(from + j, columns - j);
            const vfloat second = k + 1 < ks ? load_up_to(from + row + j, columns - j) : (vfloat)0.0f;
            const vint pairs = pair_codes(code(first, inverse[v]), code(second, inverse[v]));
            for (int p = 0; p < parts; p++)
                memcpy(to + (v * parts + p) * part + k / 2 * line, (const int32_t *)&pairs + p * (TK_WIDTH / parts),
                       sizeof pairs / (size_t)parts);
        }
    }
}

/// What a packed panel of the right operand has of each column: pairs, then the scale, in the place of 17 floats for
/// every 32 of k, so that k blocks add up.
TK_INLINE int64_t packed_depth(int64_t k) { return (k + 31) / 32 * 17; }

TK_INLINE int64_t pair_count(int64_t ks) { return (ks + 1) / 2; }

static int64_t TK_KERNEL(packed_pairs_size)(int64_t n, int64_t k) {
    return (n + TK_WIDTH - 1) / TK_WIDTH * TK_WIDTH * packed_depth(k);
}

static void TK_KERNEL(pack_right_pairs)(const tk_operand *b, int64_t n, int64_t first_k, int64_t ks,
                                        tk_precision precision, float *packed) {
    (void)precision;
    _Alignas(64) float panel[TK_K_BLOCK * PANEL];
    for (int64_t j = 0; j < n; j += PANEL) {
        const int64_t columns = n - j < PANEL ? n - j : PANEL, width = panel_width(n, j);
        const float *from = panel;
        int64_t row = width;
        if (b->patches) {
            tk_operand part = *b;
            part.first_column += j;
            pack_patches(&part, columns, first_k, ks, panel);
        } else if (b->column == 1) {
            from = b->data + first_k * b->row + j;
            row = b->row;
        } else {
            pack_panel(b, j, columns, width, first_k, ks, panel);
        }
        float *out = packed + j * packed_depth(ks);
        code_columns(from, row, columns, ks, greatest_code(ks), 1, TK_WIDTH, width, (int32_t *)out,
                     out + pair_count(ks) * width);
    }
}

/// Some rows of the left operand: pair (i, k) at first[i / PAIR_ROWS * group + i % PAIR_ROWS * row + k * step].
typedef struct {
    const int32_t *first;
    int64_t row, group, step;
} left_pairs;

/// Codes of at most TK_LEFT_ROWS rows of the left operand; scratch begins with room for their floats.
static left_pairs pairs_of(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks,
                           float *scratch, float *scales) {
    int32_t *pairs = (int32_t *)(scratch + TK_LEFT_ROWS * LEFT_STRIDE);
    const float most = greatest_code(ks);
    if (lies_by_columns(a)) {
        for (int64_t i = 0; i < rows; i += PANEL)
            code_columns(a->data + first + i + first_k * a->column, a->column, rows - i < PANEL ? rows - i : PANEL, ks,
                         most, TK_WIDTH / PAIR_ROWS, PAIR_ROWS * PAIR_STRIDE, PAIR_ROWS, pairs + i * PAIR_STRIDE,
                         scales + i);
        return (left_pairs){pairs, 1, PAIR_ROWS * PAIR_STRIDE, PAIR_ROWS};
    }
    const float *from = scratch;
    int64_t row = LEFT_STRIDE;
    if (!a->patches && a->column == 1) {
        from = a->data + first * a->row + first_k;
        row = a->row;
    } else {
        pack_rows(a, first, rows, first_k, ks, scratch);
    }
    enum { ahead = 4 };
    for (int64_t i = 0; i < rows; i++)
        scales[i] = code_row(from + i * row, from + (i + ahead < rows ? i + ahead : i) * row, ks, most,
                             pairs + i * PAIR_STRIDE);
    return (left_pairs){pairs, PAIR_STRIDE, PAIR_ROWS * PAIR_STRIDE, 1};
}

/// Adds the products of one pair of k.
TK_INLINE void multiply_pair(const int rows, const int columns, const int step, vint sums[PAIR_ROWS][COLUMNS],
                             const int32_t *const a[PAIR_ROWS], const float *b, int64_t p) {
    vint right[COLUMNS];
#pragma clang loop unroll(full)
    for (int j = 0; j < columns; j++) memcpy(&right[j], b + (p * columns + j) * TK_WIDTH, sizeof right[j]);
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++) {
        const vint left = step == 1 ? a[i][p] : a[0][p * step + i];
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) sums[i][j] = dot_pairs(sums[i][j], left, right[j]);
    }
}

/// `rows` rows of a times `columns` vectors of one panel of b.
TK_INLINE void multiply_pairs(const int rows, const int columns, const int step, const int32_t *const a[PAIR_ROWS],
                              const float *row_scales, const float *b, int64_t ks, const target *t) {
    enum { unrolled = 4 };
    const int64_t pairs = pair_count(ks);
    vint sums[PAIR_ROWS][COLUMNS];
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) sums[i][j] = 0;
    int64_t p = 0;
    for (; p + unrolled <= pairs; p += unrolled) {
        prefetch_result(rows, columns, t, p / unrolled);
#pragma clang loop unroll(full)
        for (int u = 0; u < unrolled; u++) multiply_pair(rows, columns, step, sums, a, b, p + u);
    }
    for (; p < pairs; p++) multiply_pair(rows, columns, step, sums, a, b, p);
#pragma clang loop unroll(full)
    for (int j = 0; j < columns; j++) {
        const vfloat column_scale = load(b + (pairs * columns + j) * TK_WIDTH);
#pragma clang loop unroll(full)
        for (int i = 0; i < rows; i++) {
            float *to = t->to + i * t->row + j * TK_WIDTH;
            const vfloat sum = __builtin_convertvector(sums[i][j], vfloat) * column_scale;
            const vfloat v = sum * (t->alpha * row_scales[i]);
            store(to, t->adds ? v + load(to) : v);
        }
    }
}

TK_INLINE void multiply_pair_rows(int64_t rows, const int columns, const int step, const int32_t *const a[PAIR_ROWS],
                                  const float *row_scales, const float *b, int64_t ks, const target *t) {
    if (rows > PAIR_ROWS / 2) multiply_pairs(PAIR_ROWS, columns, step, a, row_scales, b, ks, t);
    else multiply_pairs(PAIR_ROWS / 2, columns, step, a, row_scales, b, ks, t);
}

TK_INLINE void multiply_pair_columns(int64_t rows, int64_t width, const int step, const int32_t *const a[PAIR_ROWS],
                                     const float *row_scales, const float *b, int64_t ks, const target *t) {
    if (COLUMNS > 2 && width > 2 * TK_WIDTH) multiply_pair_rows(rows, COLUMNS, step, a, row_scales, b, ks, t);
    else if (width > TK_WIDTH) multiply_pair_rows(rows, 2, step, a, row_scales, b, ks, t);
    else multiply_pair_rows(rows, 1, step, a, row_scales, b, ks, t);
}

static void multiply_any_pairs(int64_t rows, int64_t width, int64_t step, const int32_t *const a[PAIR_ROWS],
                               const float *row_scales, const float *b, int64_t ks, const target *t) {
    if (step == 1) multiply_pair_columns(rows, width, 1, a, row_scales, b, ks, t);
    else multiply_pair_columns(rows, width, PAIR_ROWS, a, row_scales, b, ks, t);
}

static void TK_KERNEL(product_block_pairs)(const tk_block *t, float *scratch) {
    float *own_right = scratch + TK_LEFT_SCRATCH;
    const int64_t k_block = tk_k_block(t->k);
    _Alignas(64) float tile[PAIR_ROWS * PANEL] = {0};
    float scales[TK_LEFT_ROWS + PANEL] = {0};
    int64_t k0 = 0;
    do {                                            // also once for k = 0: the sums are zero
        const int64_t ks = t->k - k0 < k_block ? t->k - k0 : k_block;
        const tile_end end = {k0 > 0 || t->accumulate, tk_has_epilogue(t) && k0 + ks == t->k};
        const float *right = own_right;
        if (t->packed_b)
            right = t->packed_b + TK_KERNEL(packed_pairs_size)(t->packed_columns, k0)
                  + TK_KERNEL(packed_pairs_size)(t->packed_first, ks);
        else TK_KERNEL(pack_right_pairs)(&t->b, t->n, k0, ks, t->precision, own_right);
        for (int64_t i0 = 0; i0 < t->m; i0 += TK_LEFT_ROWS) {
            const int64_t block_rows = t->m - i0 < TK_LEFT_ROWS ? t->m - i0 : TK_LEFT_ROWS;
            const left_pairs left = pairs_of(&t->a, i0, block_rows, k0, ks, scratch, scales);
            if (t->row_sums) add_row_sums(&t->a, i0, block_rows, k0, ks, t->row_sums + i0);
            for (int64_t i = 0; i < block_rows; i += PAIR_ROWS) {
                const int64_t rows = block_rows - i < PAIR_ROWS ? block_rows - i : PAIR_ROWS;
                const bool is_whole = rows == PAIR_ROWS || rows == PAIR_ROWS / 2;
                const int32_t *a[PAIR_ROWS];        // beyond the last row: the last, whose copies are not stored
                for (int64_t r = 0; r < PAIR_ROWS; r++)
                    a[r] = left.first + i / PAIR_ROWS * left.group + (r < rows ? r : rows - 1) * left.row;
                for (int64_t j = 0; j < t->n; j += PANEL) {
                    const int64_t width = t->n - j < PANEL ? t->n - j : PANEL;
                    float *c = t->c + (i0 + i) * t->c_row + j;
                    const bool is_direct = !end.finishes && width % TK_WIDTH == 0 && is_whole;
                    const target to = {is_direct ? c : tile, is_direct ? t->c_row : PANEL, t->alpha,
                                       is_direct && end.adds, c, t->c_row};
                    multiply_any_pairs(rows, width, left.step, a, scales + i, right + j * packed_depth(ks), ks, &to);
                    if (!is_direct) store_tile(t, end, tile, PANEL, i0 + i, rows, j, width);
                }
            }
        }
        k0 += ks;
    } while (k0 < t->k);
}

const struct tk_products TK_KERNEL(tk_products_int16) = {
    TK_KERNEL(product_block_pairs), TK_KERNEL(pack_right_pairs), TK_KERNEL(packed_pairs_size),
};
