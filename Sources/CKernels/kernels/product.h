// Matrix products: c = a x b by blocks, after Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (2008).
//
// The right operand is packed into panels of PANEL columns, [k block][panel][k][PANEL]; the block stays in the second
// cache and is read linearly. ROWS rows of the left operand stay in the first cache while they meet all panels; they
// are read where they lie if each is contiguous. The innermost loop keeps ROWS x COLUMNS vectors of sums in registers.

#include "panels.h"

enum {
    // 24 sums, 3 vectors of b and a broadcast: 28 of 32 registers; or 12 sums: 15 of 16.
    ROWS = COLUMNS == 3 ? 8 : 6,
    LEFT_ROWS = TK_LEFT_ROWS / ROWS * ROWS,
};

static int64_t TK_KERNEL(packed_right_size)(int64_t n, int64_t k) {
    return (n + TK_WIDTH - 1) / TK_WIDTH * TK_WIDTH * k;
}

static void TK_KERNEL(pack_right)(const tk_operand *b, int64_t n, int64_t first_k, int64_t ks, tk_precision precision,
                                  float *packed) {
    const int64_t whole = b->patches ? 0 : n / PANEL * PANEL;
    if (b->patches) {
        pack_patches(b, n, first_k, ks, packed);
    } else if (b->column == 1 && !b->is_rounded) {
        // Along the rows as they lie in memory, so that the processor sees what to fetch next.
        for (int64_t k = 0; k < ks; k++)
            for (int64_t j = 0; j < whole; j += PANEL)
                memcpy(packed + j * ks + k * PANEL, b->data + (first_k + k) * b->row + j, sizeof(float[PANEL]));
        if (whole < n) pack_panel(b, whole, n - whole, panel_width(n, whole), first_k, ks, packed + whole * ks);
    } else {
        for (int64_t j = 0; j < n; j += PANEL)
            pack_panel(b, j, n - j < PANEL ? n - j : PANEL, panel_width(n, j), first_k, ks, packed + j * ks);
    }
    if (precision == TK_BFLOAT16) round_in_place(packed, TK_KERNEL(packed_right_size)(n, ks));
}

/// Some rows of the left operand: element (i, k) at first[i / ROWS * group + i % ROWS * row + k * step].
typedef struct {
    const float *first;
    int64_t row, group, step;
} left_rows;

/// Rows of an operand that lies by columns, as groups of [k][ROWS], zeros beyond the last row.
TK_INLINE void pack_columns(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks, float *out) {
    enum { ahead = 12 };                            // the next rows of k lie too far apart for the processor to guess
    const int64_t whole = rows / ROWS * ROWS;
    for (int64_t k = 0; k < ks; k++) {
        float widened_line[TK_LEFT_ROWS];
        const float *line = tk_element(a, first, first_k + k);
        if (a->is_rounded) {
            widen((const uint16_t *)(const void *)line, widened_line, rows);
            line = widened_line;
        } else if (k + ahead < ks) {
            for (int64_t i = 0; i < rows; i += 16) __builtin_prefetch(line + ahead * a->column + i);
        }
        for (int64_t i = 0; i < whole; i += ROWS)
            memcpy(out + i * LEFT_STRIDE + k * ROWS, line + i, sizeof(float[ROWS]));
        if (whole == rows) continue;
        float *last = out + whole * LEFT_STRIDE + k * ROWS;
        for (int64_t r = 0; r < ROWS; r++) last[r] = r < rows - whole ? line[whole + r] : 0;
    }
}

/// At most LEFT_ROWS rows of the left operand, in place or copied.
static left_rows rows_of(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks,
                         tk_precision precision, float *copy) {
    if (!a->patches && a->column == 1 && !a->is_rounded && precision != TK_BFLOAT16)
        return (left_rows){a->data + first * a->row + first_k, a->row, ROWS * a->row, 1};
    left_rows left = {copy, LEFT_STRIDE, ROWS * LEFT_STRIDE, 1};
    if (lies_by_columns(a)) {
        pack_columns(a, first, rows, first_k, ks, copy);
        left.row = 1;
        left.step = ROWS;
    } else {
        pack_rows(a, first, rows, first_k, ks, copy);
    }
    if (precision == TK_BFLOAT16) round_in_place(copy, (rows + ROWS - 1) / ROWS * ROWS * LEFT_STRIDE);
    return left;
}

/// Adds the products of one step of k.
TK_INLINE void multiply_step(const int rows, const int columns, const int step, vfloat sums[ROWS][COLUMNS],
                             const float *const a[ROWS], const float *b, int64_t k) {
    vfloat right[COLUMNS];
#pragma clang loop unroll(full)
    for (int j = 0; j < columns; j++) right[j] = load(b + (k * columns + j) * TK_WIDTH);
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++) {
        const vfloat left = step == 1 ? a[i][k] : a[0][k * step + i];
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) sums[i][j] = fma_(left, right[j], sums[i][j]);
    }
}

/// `rows` rows of a times `columns` vectors of one panel of b. `rows`, `columns` and `step` are constants at each call.
/// Asks now and then for one of the lines of the result, which are then there when the sums are.
TK_INLINE void multiply_tile(const int rows, const int columns, const int step, const float *const a[ROWS],
                             const float *b, int64_t ks, const target *t) {
    enum { unrolled = 4, longest = 192 };       // sums of more than that are added up in parts: their errors are smaller
    const int64_t parts = (ks + longest - 1) / longest, part = parts > 1 ? (ks + parts - 1) / parts : ks;
    _Alignas(64) float before[ROWS * PANEL];    // the parts so far
    vfloat sums[ROWS][COLUMNS];
    int64_t k = 0;
    do {                                        // also once for ks = 0
        const int64_t first = k, end = ks - k < part ? ks : k + part;
#pragma clang loop unroll(full)
        for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
            for (int j = 0; j < columns; j++) sums[i][j] = 0;
        for (; k + unrolled <= end; k += unrolled) {
            prefetch_result(rows, columns, t, k / unrolled);
#pragma clang loop unroll(full)
            for (int u = 0; u < unrolled; u++) multiply_step(rows, columns, step, sums, a, b, k + u);
        }
        for (; k < end; k++) multiply_step(rows, columns, step, sums, a, b, k);
        if (first > 0) {
#pragma clang loop unroll(full)
            for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
                for (int j = 0; j < columns; j++) sums[i][j] += load(before + i * PANEL + j * TK_WIDTH);
        }
        if (k < ks) {
#pragma clang loop unroll(full)
            for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
                for (int j = 0; j < columns; j++) store(before + i * PANEL + j * TK_WIDTH, sums[i][j]);
        }
    } while (k < ks);
#pragma clang loop unroll(full)
    for (int j = 0; j < columns; j++) {
        const vfloat bias = t->bias ? load(t->bias + j * TK_WIDTH) : (vfloat)0.0f;
#pragma clang loop unroll(full)
        for (int i = 0; i < rows; i++) store_sums(t, i, j * TK_WIDTH, t->alpha * sums[i][j], bias);
    }
}

/// A last group of few rows takes half of the work of a full one.
TK_INLINE int64_t computed_rows(int64_t rows) { return rows > ROWS / 2 ? ROWS : ROWS / 2; }

TK_INLINE void multiply_rows(int64_t rows, const int columns, const int step, const float *const a[ROWS],
                             const float *b, int64_t ks, const target *t) {
    if (rows > ROWS / 2) multiply_tile(ROWS, columns, step, a, b, ks, t);
    else multiply_tile(ROWS / 2, columns, step, a, b, ks, t);
}

TK_INLINE void multiply_columns(int64_t rows, int64_t width, const int step, const float *const a[ROWS],
                                const float *b, int64_t ks, const target *t) {
    if (COLUMNS > 2 && width > 2 * TK_WIDTH) multiply_rows(rows, COLUMNS, step, a, b, ks, t);
    else if (width > TK_WIDTH) multiply_rows(rows, 2, step, a, b, ks, t);
    else multiply_rows(rows, 1, step, a, b, ks, t);
}

static void multiply_any(int64_t rows, int64_t width, int64_t step, const float *const a[ROWS], const float *b,
                         int64_t ks, const target *t) {
    if (step == 1) multiply_columns(rows, width, 1, a, b, ks, t);
    else multiply_columns(rows, width, ROWS, a, b, ks, t);
}

static void TK_KERNEL(product_block)(const tk_block *t, float *scratch) {
    float *copy = scratch, *own_right = scratch + TK_LEFT_SCRATCH;
    _Alignas(64) float tile[ROWS * PANEL] = {0};
    int64_t k0 = 0;
    do {                                            // also once for k = 0: the sums are zero
        const k_range range = range_at(t, k0, scratch);
        const int64_t ks = range.depth;
        const float *right = own_right;
        if (t->packed_b)
            right = t->packed_b + TK_KERNEL(packed_right_size)(t->packed_columns, k0)
                  + TK_KERNEL(packed_right_size)(t->packed_first, ks);
        else TK_KERNEL(pack_right)(&t->b, t->n, k0, ks, t->precision, own_right);
        for (int64_t i0 = 0; i0 < t->m; i0 += LEFT_ROWS) {
            const int64_t block_rows = t->m - i0 < LEFT_ROWS ? t->m - i0 : LEFT_ROWS;
            const left_rows left = rows_of(&t->a, i0, block_rows, k0, ks, t->precision, copy);
            if (t->row_sums) add_row_sums(&t->a, i0, block_rows, k0, ks, t->row_sums + i0);
            for (int64_t i = 0; i < block_rows; i += ROWS) {
                const int64_t rows = block_rows - i < ROWS ? block_rows - i : ROWS;
                const float *a[ROWS];               // beyond the last row: the last, whose copies are not stored
                for (int64_t r = 0; r < ROWS; r++)
                    a[r] = left.first + i / ROWS * left.group + (r < rows ? r : rows - 1) * left.row;
                for (int64_t j = 0; j < t->n; j += PANEL) {
                    const int64_t width = t->n - j < PANEL ? t->n - j : PANEL;
                    const bool is_direct = ends_in_registers(&range.block) && width % TK_WIDTH == 0
                                        && computed_rows(rows) == rows;
                    const target to = is_direct ? target_at(&range, i0 + i, j) : target_of_sums(&range, tile, i0 + i, j);
                    multiply_any(rows, width, left.step, a, right + j * ks, ks, &to);
                    if (!is_direct) store_tile(&range, tile, PANEL, i0 + i, rows, j, width);
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
