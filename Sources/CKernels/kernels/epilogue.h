// From the sums of a tile to the result: add, bias, activation, residual.

/// Which steps follow the sums of this k block.
typedef struct {
    bool adds, finishes;                // to what c holds; with everything else
} tile_end;

/// Columns of a tile, at most a vector.
TK_INLINE void finish_columns(const tk_block *t, tile_end end, tk_activation activation, const float *tile,
                              int64_t tile_row, int64_t row, int64_t rows, int64_t column, int64_t lanes) {
    const int64_t c_row = t->c_row, residual_row = t->residual_row, place = row * c_row + column;
    float *c = t->c + place;
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
        v = activate(activation, v);
        if (residual) v += load_up_to(residual + i * residual_row, lanes);
        store_up_to(c + i * c_row, v, lanes);
    }
}

TK_INLINE void store_columns(const tk_block *t, tile_end end, tk_activation activation, const float *tile,
                             int64_t tile_row, int64_t row, int64_t rows, int64_t column, int64_t width) {
    int64_t j = 0;
    for (; j + TK_WIDTH <= width; j += TK_WIDTH)
        finish_columns(t, end, activation, tile + j, tile_row, row, rows, column + j, TK_WIDTH);
    if (j < width)
        finish_columns(t, end, activation, tile + j, tile_row, row, rows, column + j, width - j);
}

/// `tile` holds `rows` rows, `tile_row` apart, of `width` columns in whole vectors.
static void store_tile(const tk_block *t, tile_end end, const float *tile, int64_t tile_row, int64_t row, int64_t rows,
                       int64_t column, int64_t width) {
    if (!end.finishes) {
        const tk_block plain = {.c = t->c, .c_row = t->c_row};
        store_columns(&plain, end, TK_IDENTITY, tile, tile_row, row, rows, column, width);
    } else {
        TK_FOR_ACTIVATION(t->activation,
                          store_columns(t, end, activation, tile, tile_row, row, rows, column, width))
    }
}
