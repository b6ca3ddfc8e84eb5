// Matrix products: c = a x b by blocks, after Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (2008).
//
// The right operand is packed into panels of PANEL columns, [k block][panel][k][PANEL]; the block stays in the second
// cache and is read linearly. ROWS rows of the left operand, copied beside each other, stay in the first cache while
// they meet all panels. The innermost loop keeps ROWS x COLUMNS vectors of sums in registers.

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
#include "epilogue.h"

static int64_t TK_KERNEL(packed_right_size)(int64_t n, int64_t k) { return (n + PANEL - 1) / PANEL * PANEL * k; }

static void TK_KERNEL(pack_right)(const tk_operand *b, int64_t n, int64_t first_k, int64_t ks, tk_precision precision,
                                  float *packed) {
    const int64_t whole = b->patches ? 0 : n / PANEL * PANEL;
    if (b->patches) {
        pack_patches(b, n, first_k, ks, packed);
    } else if (b->column == 1) {
        // Along the rows as they lie in memory, so that the processor sees what to fetch next.
        for (int64_t k = 0; k < ks; k++)
            for (int64_t j = 0; j < whole; j += PANEL)
                memcpy(packed + j * ks + k * PANEL, b->data + (first_k + k) * b->row + j, sizeof(float[PANEL]));
        if (whole < n) pack_panel(b, whole, n - whole, first_k, ks, packed + whole * ks);
    } else {
        for (int64_t j = 0; j < n; j += PANEL)
            pack_panel(b, j, n - j < PANEL ? n - j : PANEL, first_k, ks, packed + j * ks);
    }
    if (precision == TK_BFLOAT16) round_in_place(packed, TK_KERNEL(packed_right_size)(n, ks));
}

/// Rows of an operand that lies by columns, as groups of [k][ROWS], zeros beyond the last row.
TK_INLINE void pack_columns(const float *source, int64_t column, int64_t rows, int64_t ks, float *out) {
    enum { ahead = 12 };                            // the next rows of k lie too far apart for the processor to guess
    const int64_t whole = rows / ROWS * ROWS;
    for (int64_t k = 0; k < ks; k++) {
        const float *line = source + k * column;
        if (k + ahead < ks)
            for (int64_t i = 0; i < rows; i += 16) __builtin_prefetch(line + ahead * column + i);
        for (int64_t i = 0; i < whole; i += ROWS)
            memcpy(out + i * LEFT_STRIDE + k * ROWS, line + i, sizeof(float[ROWS]));
        if (whole == rows) continue;
        float *last = out + whole * LEFT_STRIDE + k * ROWS;
        for (int64_t r = 0; r < ROWS; r++) last[r] = r < rows - whole ? line[whole + r] : 0;
    }
}

/// Some rows of the left operand in groups of ROWS, zeros beyond the last: row by row, LEFT_STRIDE apart, or [k][ROWS]
/// if the operand lies by columns.
static void pack_left(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks,
                      tk_precision precision, float *packed) {
    const int64_t padded = (rows + ROWS - 1) / ROWS * ROWS;
    if (lies_by_columns(a)) {
        pack_columns(a->data + first + first_k * a->column, a->column, rows, ks, packed);
    } else {
        pack_rows(a, first, rows, first_k, ks, packed);
        for (int64_t i = rows; i < padded; i++) fill_zero(packed + i * LEFT_STRIDE, ks);
    }
    if (precision == TK_BFLOAT16) round_in_place(packed, padded * LEFT_STRIDE);
}

/// Where sums go: to = alpha * sums, or to += alpha * sums.
typedef struct {
    float *to;
    int64_t row;
    float alpha;
    bool adds;
} target;

/// `rows` rows of a times `columns` vectors of one panel of b. `rows`, `columns` and `by_columns` are constants at each
/// call.
TK_INLINE void multiply_tile(const int rows, const int columns, const bool by_columns, const float *a, const float *b,
                             int64_t ks, const target *t) {
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
        for (int j = 0; j < columns; j++) {
            float *to = t->to + i * t->row + j * TK_WIDTH;
            const vfloat v = t->alpha * sums[i][j];
            store(to, t->adds ? v + load(to) : v);
        }
}

/// A last group of few rows takes two thirds or one third of the work of a full one.
TK_INLINE int64_t computed_rows(int64_t rows) { return (rows + ROWS / 3 - 1) / (ROWS / 3) * (ROWS / 3); }

TK_INLINE void multiply_rows(int64_t rows, const int columns, const bool by_columns, const float *a, const float *b,
                             int64_t ks, const target *t) {
    if (rows > ROWS * 2 / 3) multiply_tile(ROWS, columns, by_columns, a, b, ks, t);
    else if (rows > ROWS / 3) multiply_tile(ROWS * 2 / 3, columns, by_columns, a, b, ks, t);
    else multiply_tile(ROWS / 3, columns, by_columns, a, b, ks, t);
}

static void multiply_any(int64_t rows, int64_t width, bool by_columns, const float *a, const float *b, int64_t ks,
                         const target *t) {
    if (width > TK_WIDTH) {
        if (by_columns) multiply_rows(rows, 2, true, a, b, ks, t);
        else multiply_rows(rows, 2, false, a, b, ks, t);
    } else {
        if (by_columns) multiply_rows(rows, 1, true, a, b, ks, t);
        else multiply_rows(rows, 1, false, a, b, ks, t);
    }
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
            right = t->packed_b + TK_KERNEL(packed_right_size)(t->packed_columns, k0)
                  + TK_KERNEL(packed_right_size)(t->packed_first, ks);
        else TK_KERNEL(pack_right)(&t->b, t->n, k0, ks, t->precision, own_right);
        for (int64_t i0 = 0; i0 < t->m; i0 += LEFT_ROWS) {
            const int64_t packed_rows = t->m - i0 < LEFT_ROWS ? t->m - i0 : LEFT_ROWS;
            pack_left(&t->a, i0, packed_rows, k0, ks, t->precision, left);
            for (int64_t i = 0; i < packed_rows; i += ROWS) {
                const int64_t rows = packed_rows - i < ROWS ? packed_rows - i : ROWS;
                for (int64_t j = 0; j < t->n; j += PANEL) {
                    const int64_t width = t->n - j < PANEL ? t->n - j : PANEL;
                    const float *a = left + i * LEFT_STRIDE, *b = right + j * ks;
                    target to = {tile, PANEL, t->alpha, false};
                    if (!end.finishes && width % TK_WIDTH == 0 && computed_rows(rows) == rows) {
                        to = (target){t->c + (i0 + i) * t->c_row + j, t->c_row, t->alpha, end.adds};
                        multiply_any(rows, width, by_columns, a, b, ks, &to);
                        continue;
                    }
                    multiply_any(rows, width, by_columns, a, b, ks, &to);
                    if (end.finishes) store_finished_tile(t, end.adds, tile, i0 + i, rows, j, width);
                    else store_tile(t, end, TK_IDENTITY, tile, i0 + i, rows, j, width);
                }
            }
        }
        k0 += ks;
    } while (k0 < t->k);
}

/// The transpose of gathering: adds `count` rows of patches, `columns` floats each, to the image.
static void TK_KERNEL(add_patches)(const tk_patches *p, int64_t first, int64_t count, int64_t columns,
                                   const float *rows, float *image) {
    const tk_convolution *c = p->c;
    const int64_t channels = p->group_channels;
    patch_place place = patch_place_at(p, first);
    for (int64_t i = 0; i < count; i++, rows += columns, advance(p, &place)) {
        const float *from = rows;
        float *lines = image + place.image * p->image_height * p->image_width * p->image_channels;
        for (int64_t ky = 0; ky < c->kernel_height; ky++) {
            const int64_t y = image_coordinate(false, place.y, ky * c->dilation_height, c->pad_top, c->stride_height,
                                               p->image_height);
            for (int64_t kx = 0; kx < c->kernel_width; kx++, from += channels) {
                const int64_t x = image_coordinate(false, place.x, kx * c->dilation_width, c->pad_left, c->stride_width,
                                                   p->image_width);
                if (y < 0 || x < 0) continue;
                float *to = lines + (y * p->image_width + x) * p->image_channels;
                int64_t j = 0;
                for (; j + TK_WIDTH <= channels; j += TK_WIDTH) store(to + j, load(to + j) + load(from + j));
                for (; j < channels; j++) to[j] += from[j];
            }
        }
    }
}
