// Matrix products: c = a x b by blocks, after Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (2008).
//
// The right operand is packed into panels of PANEL columns, [k block][panel][k][PANEL]; the block stays in the second
// cache and is read linearly. ROWS rows of the left operand, copied beside each other, stay in the first cache while they
// meet all panels. The innermost loop keeps ROWS x COLUMNS vectors of sums in registers.

#if TK_WIDTH == 16 || defined(__aarch64__)
enum { ROWS = 12 };                     // 24 sums, 2 vectors of b and a broadcast: 27 of 32 registers
#else
enum { ROWS = 6 };                      // 12 sums: 15 of 16 registers
#endif
enum {
    COLUMNS = 2,
    PANEL = COLUMNS * TK_WIDTH,
    LEFT_STRIDE = TK_K_BLOCK + 16,      // between packed rows; a power of two would put them all into one cache set
    LEFT_ROWS = 4 * ROWS,               // rows packed at a time: whole cache lines of a transposed matrix
};

/// Whether the rows of an operand are its contiguous direction.
TK_INLINE bool lies_by_columns(const tk_operand *a) { return !a->patches && a->row == 1 && a->column != 1; }

#include "packing.h"

/// tile = `rows` rows of a times `columns` vectors of one panel of b. `rows`, `columns` and `by_columns` are constants at
/// each call.
TK_INLINE void multiply_tile(const int rows, const int columns, const bool by_columns, const float *a, const float *b,
                             int64_t ks, float *tile) {
    vfloat sums[ROWS][COLUMNS];
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) sums[i][j] = 0;
#pragma clang loop unroll_count(4)
    for (int64_t k = 0; k < ks; k++) {
        vfloat right[COLUMNS];
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) right[j] = load(b + k * PANEL + j * TK_WIDTH);
#pragma clang loop unroll(full)
        for (int i = 0; i < rows; i++) {
            const vfloat left = by_columns ? a[k * ROWS + i] : a[i * LEFT_STRIDE + k];
#pragma clang loop unroll(full)
            for (int j = 0; j < columns; j++) sums[i][j] = fma_(left, right[j], sums[i][j]);
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) store(tile + i * PANEL + j * TK_WIDTH, sums[i][j]);
}

/// A tile of up to ROWS rows: full, two thirds or one third of them, so that a last group of few rows costs less.
TK_INLINE void multiply_rows(int64_t rows, const int columns, const bool by_columns, const float *a, const float *b,
                             int64_t ks, float *tile) {
    if (rows > ROWS * 2 / 3) multiply_tile(ROWS, columns, by_columns, a, b, ks, tile);
    else if (rows > ROWS / 3) multiply_tile(ROWS * 2 / 3, columns, by_columns, a, b, ks, tile);
    else multiply_tile(ROWS / 3, columns, by_columns, a, b, ks, tile);
}

static void multiply_any(int64_t rows, int64_t width, bool by_columns, const float *a, const float *b, int64_t ks,
                         float *tile) {
    if (width > TK_WIDTH) {
        if (by_columns) multiply_rows(rows, 2, true, a, b, ks, tile);
        else multiply_rows(rows, 2, false, a, b, ks, tile);
    } else {
        if (by_columns) multiply_rows(rows, 1, true, a, b, ks, tile);
        else multiply_rows(rows, 1, false, a, b, ks, tile);
    }
}

/// Which steps follow the sums of this k block.
typedef struct {
    bool adds, finishes;                // to what c holds; with bias, activation and residual
} tile_end;

/// One vector of a result.
TK_INLINE vfloat finish(const tk_block *t, tile_end end, tk_activation activation, vfloat v, int64_t row, int64_t column,
                        int64_t lanes) {
    v *= t->alpha;
    if (end.adds) v += load_up_to(t->c + row * t->c_row + column, lanes);
    if (!end.finishes) return v;
    if (t->bias) v += load_up_to(t->bias + column, lanes);
    if (t->preactivation) store_up_to(t->preactivation + row * t->c_row + column, v, lanes);
    v = activate(activation, v);
    if (t->residual) v += load_up_to(t->residual + row * t->residual_row + column, lanes);
    return v;
}

TK_INLINE void store_tile(const tk_block *t, tile_end end, tk_activation activation, const float *tile, int64_t row,
                          int64_t rows, int64_t column, int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        int64_t j = 0;
        for (; j + TK_WIDTH <= width; j += TK_WIDTH)
            store(t->c + (row + i) * t->c_row + column + j,
                  finish(t, end, activation, load(tile + i * PANEL + j), row + i, column + j, TK_WIDTH));
        if (j < width)
            store_up_to(t->c + (row + i) * t->c_row + column + j,
                        finish(t, end, activation, load(tile + i * PANEL + j), row + i, column + j, width - j),
                        width - j);
    }
}

static void store_finished_tile(const tk_block *t, bool adds, const float *tile, int64_t row, int64_t rows,
                                int64_t column, int64_t width) {
    const tile_end end = {adds, true};
    TK_FOR_ACTIVATION(t->activation, store_tile(t, end, activation, tile, row, rows, column, width))
}

static void TK_KERNEL(product_block)(const tk_block *t, float *scratch) {
    float *left = scratch, *own_right = scratch + LEFT_ROWS * LEFT_STRIDE;
    const bool by_columns = lies_by_columns(&t->a);
    const bool has_epilogue = t->bias || t->activation != TK_IDENTITY || t->residual || t->preactivation;
    const int64_t k_block = tk_k_block(t->k);
    _Alignas(64) float tile[ROWS * PANEL] = {0};
    int64_t k0 = 0;
    do {                                            // also once for k = 0: the sums are zero
        const int64_t ks = t->k - k0 < k_block ? t->k - k0 : k_block;
        const tile_end end = {k0 > 0 || t->accumulate, has_epilogue && k0 + ks == t->k};
        const float *right = own_right;
        if (t->packed_b)
            right = t->packed_b + TK_KERNEL(packed_right_size)(t->packed_columns, k0) + t->packed_first * ks;
        else TK_KERNEL(pack_right)(&t->b, t->n, k0, ks, t->precision, own_right);
        for (int64_t i0 = 0; i0 < t->m; i0 += LEFT_ROWS) {
            const int64_t packed_rows = t->m - i0 < LEFT_ROWS ? t->m - i0 : LEFT_ROWS;
            pack_left(&t->a, i0, packed_rows, k0, ks, t->precision, left);
            for (int64_t i = 0; i < packed_rows; i += ROWS) {
                const int64_t rows = packed_rows - i < ROWS ? packed_rows - i : ROWS;
                for (int64_t j = 0; j < t->n; j += PANEL) {
                    const int64_t width = t->n - j < PANEL ? t->n - j : PANEL;
                    multiply_any(rows, width, by_columns, left + i * LEFT_STRIDE, right + j * ks, ks, tile);
                    if (end.finishes) store_finished_tile(t, end.adds, tile, i0 + i, rows, j, width);
                    else store_tile(t, end, TK_IDENTITY, tile, i0 + i, rows, j, width);
                }
            }
        }
        k0 += ks;
    } while (k0 < t->k);
}
