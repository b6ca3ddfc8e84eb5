// From the sums of a tile to the result: add, bias, activation, residual.

/// A range of k of a block. Its sums are added to those of the ranges before, and only the last one's go on to the
/// result.
typedef struct {
    tk_block block;                     // what becomes of the sums: no epilogue, unless they are complete
    int64_t first, depth;               // of k
    const float *before;                // or NULL: what they are added to
    int64_t before_row;
} k_range;

/// The range that begins at `first`. `scratch` is the product's: sums that will be rounded are kept there until they are
/// complete.
TK_INLINE k_range range_at(const tk_block *t, int64_t first, float *scratch) {
    const int64_t k_block = tk_k_block(t->k), depth = t->k - first < k_block ? t->k - first : k_block;
    const int64_t partial = tk_partial_sums(t);
    k_range range = {.block = *t, .first = first, .depth = depth};
    float *sums = partial > 0 ? scratch + tk_block_scratch(t) - partial : t->c;
    const int64_t row = partial > 0 ? t->n : t->c_row;
    if (first > 0 || t->accumulate) {
        range.before = sums;
        range.before_row = row;
    }
    if (first + depth == t->k) return range;
    range.block = (tk_block){.m = t->m, .n = t->n, .c = sums, .c_row = row, .alpha = t->alpha};
    return range;
}

/// Where element (row, column) of the result lies.
TK_INLINE void *result_at(const tk_block *t, int64_t row, int64_t column) {
    return (char *)t->c + tk_bytes(t->c_is_rounded, row * t->c_row + column);
}

TK_INLINE const float *before_at(const k_range *range, int64_t row, int64_t column) {
    return range->before ? range->before + row * range->before_row + column : NULL;
}

/// Columns of a tile, at most a vector.
TK_INLINE void finish_columns(const k_range *range, tk_activation activation, const float *tile, int64_t tile_row,
                              int64_t row, int64_t rows, int64_t column, int64_t lanes) {
    const tk_block *t = &range->block;
    const float *before = before_at(range, row, column);
    const int64_t c_row = t->c_row, before_row = range->before_row, residual_row = t->residual_row;
    const int64_t place = row * c_row + column;
    float *c = result_at(t, row, column);
    uint16_t *rounded_c = t->c_is_rounded ? (uint16_t *)(void *)c : NULL;
    float *preactivation = t->preactivation ? t->preactivation + place : NULL;
    uint16_t *rounded = t->rounded_preactivation ? t->rounded_preactivation + place : NULL;
    const float *residual = t->residual ? t->residual + row * residual_row + column : NULL;
    const vfloat bias = t->bias ? load_up_to(t->bias + column, lanes) : (vfloat)0.0f;
    for (int64_t i = 0; i < rows; i++) {
        vfloat v = load(tile + i * tile_row);
        if (before) v += load_up_to(before + i * before_row, lanes);
        v += bias;
        if (preactivation) store_up_to(preactivation + i * c_row, v, lanes);
        if (rounded) store_rounded_up_to(rounded + i * c_row, v, lanes);
        v = rounded_c ? activate_for_rounding(activation, v) : activate(activation, v);
        if (residual) v += load_up_to(residual + i * residual_row, lanes);
        if (rounded_c) store_rounded_up_to(rounded_c + i * c_row, v, lanes);
        else store_up_to(c + i * c_row, v, lanes);
    }
}

/// The same of a whole vector whose result is only rounded: its activation need not be more exact.
TK_INLINE void round_columns(const k_range *range, tk_activation activation, const float *tile, int64_t tile_row,
                             int64_t row, int64_t rows, int64_t column) {
    const tk_block *t = &range->block;
    const float *before = before_at(range, row, column);
    uint16_t *c = result_at(t, row, column);
    const int64_t c_row = t->c_row, before_row = range->before_row;
    const vfloat bias = t->bias ? load(t->bias + column) : (vfloat)0.0f;
    for (int64_t i = 0; i < rows; i++) {
        vfloat v = load(tile + i * tile_row);
        if (before) v += load(before + i * before_row);
        store_rounded_up_to(c + i * c_row, activate_for_rounding(activation, v + bias), TK_WIDTH);
    }
}

TK_INLINE void store_columns(const k_range *range, tk_activation activation, const float *tile, int64_t tile_row,
                             int64_t row, int64_t rows, int64_t column, int64_t width) {
    const tk_block *t = &range->block;
    const bool is_only_rounded = t->c_is_rounded && !t->preactivation && !t->rounded_preactivation && !t->residual;
    int64_t j = 0;
    for (; j + TK_WIDTH <= width; j += TK_WIDTH)
        if (is_only_rounded) round_columns(range, activation, tile + j, tile_row, row, rows, column + j);
        else finish_columns(range, activation, tile + j, tile_row, row, rows, column + j, TK_WIDTH);
    if (j < width) finish_columns(range, activation, tile + j, tile_row, row, rows, column + j, width - j);
}

/// `tile` holds `rows` rows, `tile_row` apart, of `width` columns in whole vectors.
static void store_tile(const k_range *range, const float *tile, int64_t tile_row, int64_t row, int64_t rows,
                       int64_t column, int64_t width) {
    const tk_block *t = &range->block;
    if (!tk_has_epilogue(t)) {                  // known to the compiler
        const k_range plain = {
            .block = {.c = t->c, .c_row = t->c_row, .c_is_rounded = t->c_is_rounded},
            .before = range->before, .before_row = range->before_row,
        };
        store_columns(&plain, TK_IDENTITY, tile, tile_row, row, rows, column, width);
    } else {
        TK_FOR_ACTIVATION(t->activation, store_columns(range, activation, tile, tile_row, row, rows, column, width))
    }
}
