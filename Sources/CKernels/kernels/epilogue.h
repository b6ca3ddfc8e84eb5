// From the scaled sums of a tile, [rows][PANEL], to the result: add, bias, activation, residual.

/// Which steps follow the sums of this k block.
typedef struct {
    bool adds, finishes;                // to what c holds; with bias, activation and residual
} tile_end;

/// One vector of a result.
TK_INLINE vfloat finish(const tk_block *t, tile_end end, tk_activation activation, vfloat v, int64_t row,
                        int64_t column, int64_t lanes) {
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
