// Operands of tile products: the right one packed into panels of tiles, the left one in rows of bfloat16, where it lies or
// copied. A product in float32's grade has two or three parts of each number: itself rounded, then what is left.

TK_INLINE int64_t whole_steps(int64_t k) { return (k + K_STEP - 1) / K_STEP * K_STEP; }

/// In floats; two numbers fill one.
TK_INLINE int64_t right_size(const int parts, int64_t n, int64_t k) {
    return (n + PANEL - 1) / PANEL * PANEL * whole_steps(k) / 2 * parts;
}

/// `columns` columns of `ks` rows of floats, `row` apart, as a panel: [k step][part][2 tiles][pair of k][column][2].
TK_INLINE void pair_columns(const int parts, const float *from, int64_t row, int64_t columns, int64_t ks, float *out) {
    for (int64_t k = 0; k < whole_steps(ks); k += 2)
        for (int64_t j = 0; j < 2; j++) {
            const int64_t lanes = columns - j * TILE;
            const float *first = from + k * row + j * TILE;
            vfloat low = k < ks && lanes > 0 ? load_up_to(first, lanes) : (vfloat)0.0f;
            vfloat high = k + 1 < ks && lanes > 0 ? load_up_to(first + row, lanes) : (vfloat)0.0f;
            for (int64_t part = 0; part < parts; part++) {
                const ushorts low_part = halves_of(low), high_part = halves_of(high);
                const vuint both = pair(low_part, high_part);
                memcpy(out + ((k / K_STEP * parts + part) * 2 + j) * TILE * TILE + k % K_STEP / 2 * TILE, &both,
                       sizeof both);
                low -= floats_of(low_part);
                high -= floats_of(high_part);
            }
        }
}

TK_INLINE void pair_panel(const int parts, const float *from, int64_t row, int64_t columns, int64_t ks, float *out) {
    if (columns == PANEL) pair_columns(parts, from, row, PANEL, ks, out);
    else pair_columns(parts, from, row, columns, ks, out);
}

/// A panel of bfloat16 numbers, at most `width` columns from j on, as they are; false if they do not lie in pairs.
TK_INLINE bool copy_pairs(const tk_operand *b, int64_t j, int64_t width, int64_t first_k, int64_t ks, float *out) {
    const bool lies_by_rows = b->column == 1, lies_in_pairs = b->row == 1 && (b->column | first_k | ks) % 2 == 0;
    if (!lies_by_rows && !(lies_in_pairs && is_aligned(b))) return false;
    if (width < PANEL || ks % K_STEP != 0) fill_zero(out, right_size(1, PANEL, ks));
    for (int64_t k = 0; k < ks; k += K_STEP, out += 2 * TILE * TILE) {
        const int64_t depth = ks - k < K_STEP ? ks - k : K_STEP;
        for (int64_t c = 0; c < width; c += TILE) {
            const int64_t columns = width - c < TILE ? width - c : TILE;
            const void *from = tk_element(b, first_k + k, j + c);
            float *tile = out + c * TILE;
            if (lies_by_rows) interleave_rows(from, b->row, columns, depth, 1, TILE, TILE, (int32_t *)tile);
            else pack_transposed(from, b->column / 2, columns, TILE, depth / 2, tile);
        }
    }
    return true;
}

TK_INLINE void pack_tiles(const int parts, const tk_operand *b, int64_t n, int64_t first_k, int64_t ks,
                          float *packed) {
    _Alignas(64) float panel[TK_K_BLOCK * PANEL];
    for (int64_t j = 0; j < n; j += PANEL) {
        const int64_t width = n - j < PANEL ? n - j : PANEL;
        float *out = packed + right_size(parts, j, ks);
        if (parts == 1 && b->is_rounded && copy_pairs(b, j, width, first_k, ks, out)) continue;
        if (!b->patches && !b->is_rounded && b->column == 1) {
            pair_panel(parts, tk_element(b, first_k, j), b->row, width, ks, out);
            continue;
        }
        if (b->patches) {
            tk_operand part = *b;
            part.first_column += j;
            pack_patches(&part, width, first_k, ks, panel);
        } else {
            pack_panel(b, j, width, PANEL, first_k, ks, panel);
        }
        pair_panel(parts, panel, PANEL, PANEL, ks, out);
    }
}

/// Rows of floats, `row` apart, to rows of bfloat16, [part][ROWS][LEFT_STRIDE], zeros up to whole steps and beyond the
/// last row.
TK_INLINE void round_rows(const int parts, const float *from, int64_t row, int64_t rows, int64_t ks, uint16_t *to) {
    for (int64_t i = 0; i < ROWS; i++, from += row, to += LEFT_STRIDE) {
        const int64_t count = i < rows ? ks : 0;
        for (int64_t k = 0; k < whole_steps(ks); k += TK_WIDTH) {
            vfloat v = count > k ? load_up_to(from + k, count - k) : (vfloat)0.0f;
            for (int64_t part = 0; part < parts; part++) {
                const ushorts halves = halves_of(v);
                memcpy(to + part * ROWS * LEFT_STRIDE + k, &halves, sizeof halves);
                v -= floats_of(halves);
            }
        }
    }
}

/// `count` lanes of 16 rows of a left operand for one k.
TK_INLINE vfloat load_column(const bool is_rounded, const void *source, int64_t column, int64_t k, int64_t ks,
                             int64_t count) {
    if (k >= ks) return (vfloat)0.0f;
    if (is_rounded) return floats_of(load_halves_up_to((const uint16_t *)source + k * column, count));
    return load_up_to((const float *)source + k * column, count);
}

/// A tile's rows of bfloat16 from numbers that lie by columns: pairs of k move as one.
TK_INLINE void transpose_tile(const int parts, const bool is_rounded, const void *source, int64_t column,
                              int64_t count, int64_t ks, uint16_t *to) {
    vfloat low[TILE], high[TILE], pairs[TILE];
#pragma clang loop unroll(full)
    for (int p = 0; p < TILE; p++) {
        low[p] = load_column(is_rounded, source, column, 2 * p, ks, count);
        high[p] = load_column(is_rounded, source, column, 2 * p + 1, ks, count);
    }
    for (int part = 0; part < parts; part++, to += ROWS * LEFT_STRIDE) {
#pragma clang loop unroll(full)
        for (int p = 0; p < TILE; p++) {
            const ushorts low_part = halves_of(low[p]), high_part = halves_of(high[p]);
            pairs[p] = vfrom_bits((vint)pair(low_part, high_part));
            low[p] -= floats_of(low_part);
            high[p] -= floats_of(high_part);
        }
        transpose(pairs);
#pragma clang loop unroll(full)
        for (int r = 0; r < TILE; r++) memcpy(to + r * LEFT_STRIDE, &pairs[r], sizeof pairs[r]);
    }
}

/// The same rows as round_rows, from an operand that lies by columns.
TK_INLINE void transpose_rows(const int parts, const bool is_rounded, const tk_operand *a, int64_t first, int64_t rows,
                              int64_t first_k, int64_t ks, uint16_t *to) {
    for (int64_t k = 0; k < ks; k += K_STEP)
        for (int64_t i = 0; i < rows; i += TILE) {
            const void *source = tk_element(a, first + i, first_k + k);
            const int64_t count = rows - i, depth = ks - k;
            uint16_t *tile = to + i * LEFT_STRIDE + k;
            // The next columns lie too far apart for the processor to guess.
            for (int64_t ahead = K_STEP; ahead < 2 * K_STEP && ahead < depth; ahead++)
                __builtin_prefetch((const char *)source + tk_bytes(is_rounded, ahead * a->column));
            if (count >= TILE && depth >= K_STEP)
                transpose_tile(parts, is_rounded, source, a->column, TILE, K_STEP, tile);
            else transpose_tile(parts, is_rounded, source, a->column, count, depth, tile);
        }
}

/// The same of an operand that is rounded already and lies by rows.
TK_INLINE void copy_rounded_rows(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks,
                                 uint16_t *to) {
    for (int64_t i = 0; i < ROWS; i++, to += LEFT_STRIDE) {
        const int64_t count = i < rows ? ks : 0;
        if (count > 0) memcpy(to, tk_element(a, first + i, first_k), (size_t)count * sizeof *to);
        memset(to + count, 0, (size_t)(whole_steps(ks) - count) * sizeof *to);
    }
}

/// At most 32 rows as tiles load them: where they lie, or a copy.
typedef struct {
    const uint16_t *first;
    int64_t row;                        // numbers
} left_rows;

/// Tiles read whole rows of 16 times 32 numbers.
TK_INLINE bool lies_in_tiles(const tk_operand *a, int64_t rows, int64_t ks) {
    return a->is_rounded && a->column == 1 && rows % TILE == 0 && (ks % K_STEP == 0 || a->ends_in_zeros);
}

TK_INLINE left_rows left_of(const int parts, const tk_operand *a, int64_t first, int64_t rows, int64_t first_k,
                            int64_t ks, float *scratch) {
    if (parts == 1 && lies_in_tiles(a, rows, ks)) return (left_rows){tk_element(a, first, first_k), a->row};
    uint16_t *rounded = (uint16_t *)(scratch + ROWS * LEFT_STRIDE);
    if (parts == 1 && a->is_rounded && a->column == 1) {
        copy_rounded_rows(a, first, rows, first_k, ks, rounded);
    } else if (!a->patches && !a->is_rounded && a->column == 1) {
        round_rows(parts, tk_element(a, first, first_k), a->row, rows, ks, rounded);
    } else if (lies_by_columns(a)) {
        if (a->is_rounded) transpose_rows(parts, true, a, first, rows, first_k, ks, rounded);
        else transpose_rows(parts, false, a, first, rows, first_k, ks, rounded);
    } else {
        pack_rows(a, first, rows, first_k, ks, scratch);
        round_rows(parts, scratch, LEFT_STRIDE, rows, ks, rounded);
    }
    return (left_rows){rounded, LEFT_STRIDE};
}
