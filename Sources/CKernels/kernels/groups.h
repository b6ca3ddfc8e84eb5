// Products of groups of short values, which one instruction multiplies and adds: pairs of 16 bits or quadruples of 8.
//
// What the values are is said before this file is included: GROUP of them fill 32 bits; group_row and group_columns make
// them of floats; dot_groups adds their products to group_sums; as_floats is what those become. With HAS_SCALES, each row
// of the left operand and column of the right one has a float scale in each k block, with which results are multiplied;
// without, values are bfloat16, and operands that hold such pairs are read where they lie. With HAS_OFFSETS each column
// has a sum to begin with, and values of the left operand differ from those of the right one.

enum {
    GROUP_ROWS = TK_WIDTH == 16 ? 8 : 4,    // of a tile; they divide a vector
    GROUP_STRIDE = LEFT_STRIDE / GROUP,     // groups between copied rows
    // Floats that a packed panel of the right operand has of each column for 32 steps of k: groups, a scale, an offset.
    PACKED_STEP = 32 / GROUP + HAS_SCALES + HAS_OFFSETS,
};

TK_INLINE int64_t group_count(int64_t ks) { return (ks + GROUP - 1) / GROUP; }

/// What a packed panel has of each column, in floats; in whole steps of 32 of k, so that k blocks add up.
TK_INLINE int64_t packed_depth(int64_t k) { return (k + 31) / 32 * PACKED_STEP; }

static int64_t TK_KERNEL(packed_groups_size)(int64_t n, int64_t k) {
    return (n + TK_WIDTH - 1) / TK_WIDTH * TK_WIDTH * packed_depth(k);
}

/// Whether rows of a left operand are pairs as they lie.
TK_INLINE bool are_groups(const tk_operand *a, int64_t first_k, int64_t ks) {
    return !HAS_SCALES && a->is_rounded && a->column == 1 && (a->row | first_k) % 2 == 0 && is_aligned(a)
        && (ks % 2 == 0 || a->ends_in_zeros);
}

/// A panel of a right operand of bfloat16 numbers as they are; false if they have to be made of floats.
TK_INLINE bool pack_rounded_panel(const tk_operand *b, int64_t j, int64_t columns, int64_t width, int64_t first_k,
                                  int64_t ks, float *out) {
    if (HAS_SCALES || !b->is_rounded) return false;
    if (b->column == 1) {
        interleave_rows(tk_element(b, first_k, j), b->row, columns, ks, 1, TK_WIDTH, width, (int32_t *)out);
        return true;
    }
    if (b->row != 1 || (b->column | first_k | ks) % 2 != 0 || !is_aligned(b)) return false;
    if (columns < width) fill_zero(out, width * group_count(ks));
    // Each column is a row of pairs, which move as floats do.
    pack_transposed(tk_element(b, first_k, j), b->column / 2, columns, width, group_count(ks), out);
    return true;
}

static void TK_KERNEL(pack_right_groups)(const tk_operand *b, int64_t n, int64_t first_k, int64_t ks,
                                         tk_precision precision, float *packed) {
    (void)precision;
    _Alignas(64) float panel[TK_K_BLOCK * PANEL];
    for (int64_t j = 0; j < n; j += PANEL) {
        const int64_t columns = n - j < PANEL ? n - j : PANEL, width = panel_width(n, j);
        float *out = packed + j * packed_depth(ks);
        if (pack_rounded_panel(b, j, columns, width, first_k, ks, out)) continue;
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
        group_columns(from, row, columns, ks, 1, TK_WIDTH, width, (int32_t *)out, out + group_count(ks) * width);
    }
}

/// Some rows of the left operand: group (i, k) at first[i / GROUP_ROWS * group + i % GROUP_ROWS * row + k * step].
typedef struct {
    const int32_t *first;
    int64_t row, group, step;
} left_groups;

/// At most TK_LEFT_ROWS rows of the left operand in groups; scratch begins with room for their floats.
static left_groups groups_of(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks,
                             float *scratch, float *scales) {
    int32_t *groups = (int32_t *)(scratch + TK_LEFT_ROWS * LEFT_STRIDE);
    if (are_groups(a, first_k, ks))
        return (left_groups){tk_element(a, first, first_k), a->row / 2, GROUP_ROWS * a->row / 2, 1};
    if (lies_by_columns(a) && !HAS_OFFSETS) {
        enum { parts = TK_WIDTH / GROUP_ROWS, part = GROUP_ROWS * GROUP_STRIDE };
        for (int64_t i = 0; i < rows; i += PANEL) {
            const int64_t columns = rows - i < PANEL ? rows - i : PANEL;
            const void *from = tk_element(a, first + i, first_k);
            int32_t *to = groups + i * GROUP_STRIDE;
            if (!a->is_rounded) {
                group_columns(from, a->column, columns, ks, parts, part, GROUP_ROWS, to, scales + i);
            } else if (!HAS_SCALES) {
                interleave_rows(from, a->column, columns, ks, parts, part, GROUP_ROWS, to);
            } else {
                for (int64_t k = 0; k < ks; k++)
                    widen(tk_element(a, first + i, first_k + k), scratch + k * PANEL, columns);
                group_columns(scratch, PANEL, columns, ks, parts, part, GROUP_ROWS, to, scales + i);
            }
        }
        return (left_groups){groups, 1, GROUP_ROWS * GROUP_STRIDE, GROUP_ROWS};
    }
    enum { ahead = 4 };
    const bool lies_by_rows = !a->patches && a->column == 1, is_rounded = lies_by_rows && a->is_rounded;
    const char *from = lies_by_rows ? tk_element(a, first, first_k) : scratch;
    const int64_t row = tk_bytes(is_rounded, lies_by_rows ? a->row : LEFT_STRIDE);
    if (!lies_by_rows) pack_rows(a, first, rows, first_k, ks, scratch);
    for (int64_t i = 0; i < rows; i++) {
        const char *values = from + i * row, *later = from + (i + ahead < rows ? i + ahead : i) * row;
        int32_t *to = groups + i * GROUP_STRIDE;
        scales[i] = is_rounded ? group_row(true, values, later, ks, to) : group_row(false, values, later, ks, to);
    }
    return (left_groups){groups, GROUP_STRIDE, GROUP_ROWS * GROUP_STRIDE, 1};
}

/// Adds the products of one group of k.
TK_INLINE void multiply_group(const int rows, const int columns, const int step, group_sums sums[GROUP_ROWS][COLUMNS],
                              const int32_t *const a[GROUP_ROWS], const float *b, int64_t p) {
    vint right[COLUMNS];
#pragma clang loop unroll(full)
    for (int j = 0; j < columns; j++) memcpy(&right[j], b + (p * columns + j) * TK_WIDTH, sizeof right[j]);
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++) {
        const vint left = step == 1 ? a[i][p] : a[0][p * step + i];
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) sums[i][j] = dot_groups(sums[i][j], left, right[j]);
    }
}

/// `rows` rows of a times `columns` vectors of one panel of b.
TK_INLINE void multiply_groups(const int rows, const int columns, const int step, const int32_t *const a[GROUP_ROWS],
                               const float *row_scales, const float *b, int64_t ks, const target *t) {
    enum { unrolled = 4 };
    const int64_t groups = group_count(ks);
    group_sums sums[GROUP_ROWS][COLUMNS];
#pragma clang loop unroll(full)
    for (int j = 0; j < columns; j++) {
        group_sums offset = 0;
        if (HAS_OFFSETS) memcpy(&offset, b + ((groups + 1) * columns + j) * TK_WIDTH, sizeof offset);
#pragma clang loop unroll(full)
        for (int i = 0; i < rows; i++) sums[i][j] = offset;
    }
    int64_t p = 0;
    for (; p + unrolled <= groups; p += unrolled) {
        prefetch_result(rows, columns, t, p / unrolled);
#pragma clang loop unroll(full)
        for (int u = 0; u < unrolled; u++) multiply_group(rows, columns, step, sums, a, b, p + u);
    }
    for (; p < groups; p++) multiply_group(rows, columns, step, sums, a, b, p);
#pragma clang loop unroll(full)
    for (int j = 0; j < columns; j++) {
        const vfloat column_scale = HAS_SCALES ? load(b + (groups * columns + j) * TK_WIDTH) : (vfloat)1.0f;
        const vfloat bias = t->bias ? load(t->bias + j * TK_WIDTH) : (vfloat)0.0f;
#pragma clang loop unroll(full)
        for (int i = 0; i < rows; i++) {
            const vfloat sum = as_floats(sums[i][j]);
            const vfloat v = HAS_SCALES ? sum * column_scale * (t->alpha * row_scales[i]) : t->alpha * sum;
            store_sums(t, i, j * TK_WIDTH, v, bias);
        }
    }
}

TK_INLINE void multiply_group_rows(int64_t rows, const int columns, const int step, const int32_t *const a[GROUP_ROWS],
                                   const float *row_scales, const float *b, int64_t ks, const target *t) {
    if (rows > GROUP_ROWS / 2) multiply_groups(GROUP_ROWS, columns, step, a, row_scales, b, ks, t);
    else multiply_groups(GROUP_ROWS / 2, columns, step, a, row_scales, b, ks, t);
}

TK_INLINE void multiply_group_columns(int64_t rows, int64_t width, const int step, const int32_t *const a[GROUP_ROWS],
                                      const float *row_scales, const float *b, int64_t ks, const target *t) {
    if (COLUMNS > 2 && width > 2 * TK_WIDTH) multiply_group_rows(rows, COLUMNS, step, a, row_scales, b, ks, t);
    else if (width > TK_WIDTH) multiply_group_rows(rows, 2, step, a, row_scales, b, ks, t);
    else multiply_group_rows(rows, 1, step, a, row_scales, b, ks, t);
}

static void multiply_any_groups(int64_t rows, int64_t width, int64_t step, const int32_t *const a[GROUP_ROWS],
                                const float *row_scales, const float *b, int64_t ks, const target *t) {
    if (step == 1) multiply_group_columns(rows, width, 1, a, row_scales, b, ks, t);
    else multiply_group_columns(rows, width, GROUP_ROWS, a, row_scales, b, ks, t);
}

static void TK_KERNEL(product_block_groups)(const tk_block *t, float *scratch) {
    float *own_right = scratch + TK_LEFT_SCRATCH;
    _Alignas(64) float tile[GROUP_ROWS * PANEL] = {0};
    float scales[TK_LEFT_ROWS + PANEL] = {0};
    int64_t k0 = 0;
    do {                                            // also once for k = 0: the sums are zero
        const k_range range = range_at(t, k0, scratch);
        const int64_t ks = range.depth;
        const float *right = own_right;
        if (t->packed_b)
            right = t->packed_b + TK_KERNEL(packed_groups_size)(t->packed_columns, k0)
                  + TK_KERNEL(packed_groups_size)(t->packed_first, ks);
        else TK_KERNEL(pack_right_groups)(&t->b, t->n, k0, ks, t->precision, own_right);
        for (int64_t i0 = 0; i0 < t->m; i0 += TK_LEFT_ROWS) {
            const int64_t block_rows = t->m - i0 < TK_LEFT_ROWS ? t->m - i0 : TK_LEFT_ROWS;
            const left_groups left = groups_of(&t->a, i0, block_rows, k0, ks, scratch, scales);
            if (t->row_sums) add_row_sums(&t->a, i0, block_rows, k0, ks, t->row_sums + i0);
            for (int64_t i = 0; i < block_rows; i += GROUP_ROWS) {
                const int64_t rows = block_rows - i < GROUP_ROWS ? block_rows - i : GROUP_ROWS;
                const bool is_whole = rows == GROUP_ROWS || rows == GROUP_ROWS / 2;
                const int32_t *a[GROUP_ROWS];        // beyond the last row: the last, whose copies are not stored
                for (int64_t r = 0; r < GROUP_ROWS; r++)
                    a[r] = left.first + i / GROUP_ROWS * left.group + (r < rows ? r : rows - 1) * left.row;
                for (int64_t j = 0; j < t->n; j += PANEL) {
                    const int64_t width = t->n - j < PANEL ? t->n - j : PANEL;
                    const bool is_direct = ends_in_registers(&range.block) && width % TK_WIDTH == 0 && is_whole;
                    const target to = is_direct ? target_at(&range, i0 + i, j) : target_of_sums(&range, tile, i0 + i, j);
                    multiply_any_groups(rows, width, left.step, a, scales + i, right + j * packed_depth(ks), ks, &to);
                    if (!is_direct) store_tile(&range, tile, PANEL, i0 + i, rows, j, width);
                }
            }
        }
        k0 += ks;
    } while (k0 < t->k);
}
