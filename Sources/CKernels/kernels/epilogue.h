// From the sums of a tile to the result: add, bias, activation, residual.

/// Which steps follow the sums of this k block.
typedef struct {
    bool adds, finishes;                // to what c holds; with everything else
} tile_end;

/// Two rows of a tile by TOGETHER_COLUMNS vectors: as many as functions are computed of together.
enum { TOGETHER_COLUMNS = TK_TOGETHER / 2 };

/// The part of such a block that stands at `i`. What is beyond the last row or column is the last one once more.
#define TK_BLOCK_ROW(i, rows) ((i) / TOGETHER_COLUMNS < (rows) ? (i) / TOGETHER_COLUMNS : 0)
#define TK_BLOCK_COLUMN(i, vectors) ((i) % TOGETHER_COLUMNS < (vectors) ? (i) % TOGETHER_COLUMNS * TK_WIDTH : 0)

/// `rows` rows by `vectors` vectors of a block, of which `lanes` lanes count.
TK_INLINE void finish_block(const tk_block *t, tile_end end, tk_activation activation, const float *tile,
                            int64_t tile_row, int64_t row, int64_t rows, int64_t column, int64_t vectors,
                            int64_t lanes) {
    vparts v;
#pragma clang loop unroll(full)
    for (int i = 0; i < TK_TOGETHER; i++) {
        const int64_t r = TK_BLOCK_ROW(i, rows), j = TK_BLOCK_COLUMN(i, vectors);
        const int64_t place = (row + r) * t->c_row + column + j;
        v.part[i] = load(tile + r * tile_row + j);
        if (end.adds) v.part[i] += load_up_to(t->c + place, lanes);
        if (t->bias) v.part[i] += load_up_to(t->bias + column + j, lanes);
        if (t->preactivation) store_up_to(t->preactivation + place, v.part[i], lanes);
    }
    v = vparts_of(activate(activation, vjoined(v)));
#pragma clang loop unroll(full)
    for (int i = 0; i < TK_TOGETHER; i++) {
        const int64_t r = TK_BLOCK_ROW(i, rows), j = TK_BLOCK_COLUMN(i, vectors);
        if (t->residual) v.part[i] += load_up_to(t->residual + (row + r) * t->residual_row + column + j, lanes);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < TK_TOGETHER; i++) {
        const int64_t r = TK_BLOCK_ROW(i, rows), j = TK_BLOCK_COLUMN(i, vectors);
        store_up_to(t->c + (row + r) * t->c_row + column + j, v.part[i], lanes);
    }
}

TK_INLINE void finish_tile(const tk_block *t, tile_end end, tk_activation activation, const float *tile,
                           int64_t tile_row, int64_t row, int64_t rows, int64_t column, int64_t width) {
    const int64_t whole = width / TK_WIDTH;
    for (int64_t i = 0; i < rows; i += 2) {
        const float *at = tile + i * tile_row;
        for (int64_t j = 0; j < whole; j += TOGETHER_COLUMNS)
            finish_block(t, end, activation, at + j * TK_WIDTH, tile_row, row + i, rows - i, column + j * TK_WIDTH,
                         whole - j, TK_WIDTH);
        if (whole * TK_WIDTH < width)
            finish_block(t, end, activation, at + whole * TK_WIDTH, tile_row, row + i, rows - i,
                         column + whole * TK_WIDTH, 1, width - whole * TK_WIDTH);
    }
}

/// `tile` holds `rows` rows, `tile_row` apart, of `width` columns in whole vectors.
static void store_tile(const tk_block *t, tile_end end, const float *tile, int64_t tile_row, int64_t row, int64_t rows,
                       int64_t column, int64_t width) {
    if (!end.finishes) {
        const tk_block plain = {.c = t->c, .c_row = t->c_row};
        finish_tile(&plain, end, TK_IDENTITY, tile, tile_row, row, rows, column, width);
    } else {
        TK_FOR_ACTIVATION(t->activation,
                          finish_tile(t, end, activation, tile, tile_row, row, rows, column, width))
    }
}
