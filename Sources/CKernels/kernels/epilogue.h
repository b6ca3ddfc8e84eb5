// From the sums of a tile to the result: add, bias, activation, residual.

/// Which steps follow the sums of this k block.
typedef struct {
    bool adds, finishes;                // to what c holds; with everything else
} tile_end;

/// Where element (row, column) of the result lies.
TK_INLINE void *result_at(const tk_block *t, int64_t row, int64_t column) {
    return (char *)t->c + tk_bytes(t->c_is_rounded, row * t->c_row + column);
}

/// Columns of a tile, at most a vector.
TK_INLINE void finish_columns(const tk_block *t, tile_end end, tk_activation activation, const float *tile,
                              int64_t tile_row, int64_t row, int64_t rows, int64_t column, int64_t lanes) {
    const int64_t c_row = t->c_row, residual_row = t->residual_row, place = row * c_row + column;
    float *c = result_at(t, row, column);
    uint16_t *rounded_c = t->c_is_rounded ? (uint16_t *)(void *)c : NULL;
    float *preactivation = t->preactivation ? t->preactivation + place : NULL;
    uint16_t *rounded = t->rounded_preactivation ? t->rounded_preactivation + place : NULL;
    const float *residual = t->residual ? t->residual + row * residual_row + column : NULL;
    const vfloat bias = t->bias ? load_up_to(t->bias + column, lanes) : (vfloat)0.0f;
    for (int64_t i = 0; i < rows; i++) {
        vfloat v = load(tile + i * tile_row);
        if (end.adds) v += load_up_to(c + i * c_row, lanes);
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
TK_INLINE void round_columns(const tk_block *t, tk_activation activation, const float *tile, int64_t tile_row,
                             int64_t row, int64_t rows, int64_t column) {
    uint16_t *c = result_at(t, row, column);
    const int64_t c_row = t->c_row;
    const vfloat bias = t->bias ? load(t->bias + column) : (vfloat)0.0f;
    for (int64_t i = 0; i < rows; i++) {
        const vfloat v = load(tile + i * tile_row) + bias;
        store_rounded_up_to(c + i * c_row, activate_for_rounding(activation, v), TK_WIDTH);
    }
}

TK_INLINE void store_columns(const tk_block *t, tile_end end, tk_activation activation, const float *tile,
                             int64_t tile_row, int64_t row, int64_t rows, int64_t column, int64_t width) {
    const bool is_only_rounded = t->c_is_rounded && !t->preactivation && !t->rounded_preactivation && !t->residual;
    int64_t j = 0;
    for (; j + TK_WIDTH <= width; j += TK_WIDTH)
        if (is_only_rounded) round_columns(t, activation, tile + j, tile_row, row, rows, column + j);
        else finish_columns(t, end, activation, tile + j, tile_row, row, rows, column + j, TK_WIDTH);
    if (j < width)
        finish_columns(t, end, activation, tile + j, tile_row, row, rows, column + j, width - j);
}

/// `tile` holds `rows` rows, `tile_row` apart, of `width` columns in whole vectors.
static void store_tile(const tk_block *t, tile_end end, const float *tile, int64_t tile_row, int64_t row, int64_t rows,
                       int64_t column, int64_t width) {
    if (!end.finishes) {
        const tk_block plain = {.c = t->c, .c_row = t->c_row, .c_is_rounded = t->c_is_rounded};
        store_columns(&plain, end, TK_IDENTITY, tile, tile_row, row, rows, column, width);
    } else {
        TK_FOR_ACTIVATION(t->activation,
                          store_columns(t, end, activation, tile, tile_row, row, rows, column, width))
    }
}
