// Products of pairs of 16-bit values, which one instruction multiplies and adds: half as many steps of k as in float32.
//
// What the values are is said before this file is included: pair_row and pair_columns make them of floats, dot_pairs
// adds their products to pair_sums, as_floats is what those become. With HAS_SCALES, each row of the left operand and
// column of the right one has a float scale in each k block, with which results are multiplied. are_pairs tells what
// needs no copy, pack_rounded_panel copies what has pairs already.

enum {
    PAIR_ROWS = TK_WIDTH == 16 ? 8 : 4,     // of a tile; they divide a vector
    PAIR_STRIDE = LEFT_STRIDE / 2,          // pairs between copied rows
};

/// What a packed panel of the right operand has of each column, in floats: pairs, then the scale; in whole steps of 32
/// of k, so that k blocks add up.
TK_INLINE int64_t packed_depth(int64_t k) { return (k + 31) / 32 * PACKED_STEP; }

static int64_t TK_KERNEL(packed_pairs_size)(int64_t n, int64_t k) {
    return (n + TK_WIDTH - 1) / TK_WIDTH * TK_WIDTH * packed_depth(k);
}

static void TK_KERNEL(pack_right_pairs)(const tk_operand *b, int64_t n, int64_t first_k, int64_t ks,
                                        tk_precision precision, float *packed) {
    (void)precision;
    _Alignas(64) float panel[TK_K_BLOCK * PANEL];
    for (int64_t j = 0; j < n; j += PANEL) {
        const int64_t columns = n - j < PANEL ? n - j : PANEL, width = panel_width(n, j);
        float *out = packed + j * packed_depth(ks);
        if (b->is_rounded && pack_rounded_panel(b, j, columns, width, first_k, ks, out)) continue;
        const float *from = panel;
        int64_t row = width;
        if (b->patches) {
            tk_operand part = *b;
            part.first_column += j;
            pack_patches(&part, columns, first_k, ks, panel);
        } else if (b->column == 1 && !b->is_rounded) {
            from = tk_element(b, first_k, j);
            row = b->row;
        } else {
            pack_panel(b, j, columns, width, first_k, ks, panel);
        }
        pair_columns(from, row, columns, ks, 1, TK_WIDTH, width, (int32_t *)out, out + pair_count(ks) * width);
    }
}

/// Some rows of the left operand: pair (i, k) at first[i / PAIR_ROWS * group + i % PAIR_ROWS * row + k * step].
typedef struct {
    const int32_t *first;
    int64_t row, group, step;
} left_pairs;

/// At most TK_LEFT_ROWS rows of the left operand as pairs; scratch begins with room for their floats.
static left_pairs pairs_of(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks,
                           float *scratch, float *scales) {
    int32_t *pairs = (int32_t *)(scratch + TK_LEFT_ROWS * LEFT_STRIDE);
    if (are_pairs(a, first_k, ks))
        return (left_pairs){tk_element(a, first, first_k), a->row / 2, PAIR_ROWS * a->row / 2, 1};
    if (lies_by_columns(a)) {
        enum { parts = TK_WIDTH / PAIR_ROWS, part = PAIR_ROWS * PAIR_STRIDE };
        for (int64_t i = 0; i < rows; i += PANEL) {
            const int64_t columns = rows - i < PANEL ? rows - i : PANEL;
            const void *from = tk_element(a, first + i, first_k);
            int32_t *to = pairs + i * PAIR_STRIDE;
            if (!a->is_rounded) {
                pair_columns(from, a->column, columns, ks, parts, part, PAIR_ROWS, to, scales + i);
            } else if (!HAS_SCALES) {
                interleave_rows(from, a->column, columns, ks, parts, part, PAIR_ROWS, to);
            } else {
                for (int64_t k = 0; k < ks; k++)
                    widen(tk_element(a, first + i, first_k + k), scratch + k * PANEL, columns);
                pair_columns(scratch, PANEL, columns, ks, parts, part, PAIR_ROWS, to, scales + i);
            }
        }
        return (left_pairs){pairs, 1, PAIR_ROWS * PAIR_STRIDE, PAIR_ROWS};
    }
    const float *from = scratch;
    int64_t row = LEFT_STRIDE;
    if (!a->patches && !a->is_rounded && a->column == 1) {
        from = tk_element(a, first, first_k);
        row = a->row;
    } else {
        pack_rows(a, first, rows, first_k, ks, scratch);
    }
    enum { ahead = 4 };
    for (int64_t i = 0; i < rows; i++)
        scales[i] = pair_row(from + i * row, from + (i + ahead < rows ? i + ahead : i) * row, ks,
                             pairs + i * PAIR_STRIDE);
    return (left_pairs){pairs, PAIR_STRIDE, PAIR_ROWS * PAIR_STRIDE, 1};
}

/// Adds the products of one pair of k.
TK_INLINE void multiply_pair(const int rows, const int columns, const int step, pair_sums sums[PAIR_ROWS][COLUMNS],
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
    pair_sums sums[PAIR_ROWS][COLUMNS];
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
        const vfloat column_scale = HAS_SCALES ? load(b + (pairs * columns + j) * TK_WIDTH) : (vfloat)1.0f;
        const vfloat bias = t->bias ? load(t->bias + j * TK_WIDTH) : (vfloat)0.0f;
#pragma clang loop unroll(full)
        for (int i = 0; i < rows; i++) {
            const vfloat sum = as_floats(sums[i][j]);
            const vfloat v = HAS_SCALES ? sum * column_scale * (t->alpha * row_scales[i]) : t->alpha * sum;
            store_sums(t, i, j * TK_WIDTH, v, bias);
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
    _Alignas(64) float tile[PAIR_ROWS * PANEL] = {0};
    float scales[TK_LEFT_ROWS + PANEL] = {0};
    int64_t k0 = 0;
    do {                                            // also once for k = 0: the sums are zero
        const k_range range = range_at(t, k0, scratch);
        const int64_t ks = range.depth;
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
                    const bool is_direct = ends_in_registers(&range.block) && width % TK_WIDTH == 0 && is_whole;
                    const target to = is_direct ? target_at(&range, i0 + i, j) : target_of_sums(&range, tile, i0 + i, j);
                    multiply_any_pairs(rows, width, left.step, a, scales + i, right + j * packed_depth(ks), ks, &to);
                    if (!is_direct) store_tile(&range, tile, PANEL, i0 + i, rows, j, width);
                }
            }
        }
        k0 += ks;
    } while (k0 < t->k);
}
