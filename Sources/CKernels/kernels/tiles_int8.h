// Products of 8-bit integers on the same tiles: rows of 64 values, and quads of k.
#include "int8.h"

/// What finish_rows is for floats.
TK_INLINE void finish_int8_rows(const tk_int8_block *t, code_factors factors, tile_sums *sums, int64_t most) {
    const int64_t rows = sums->rows < most ? sums->rows : most;
    if (rows == 0) return;
    finish_int8(t, factors, (const int32_t *)sums->to, sums->row, rows, sums->column);
    drop_rows(sums, rows);
}

/// One step of k. Rows that are too few for the tiles are read from a copy: what lies behind them is not ours.
TK_INLINE void add_int8_products(const tk_int8_block *t, const tile_sums *now, int64_t k, const tile_sums *before) {
    enum { b_row = 4 * TK_INT8_PANEL };
    _Alignas(64) uint8_t copy[ROWS * TK_INT8_STEP];
    const uint8_t *a = t->a + now->row * t->a_row + k;
    const int8_t *b = t->b + now->column * tk_int8_depth(t->k) + k * TK_INT8_PANEL;
    int64_t a_row = t->a_row;
    if (now->rows % TILE != 0) {
        for (int64_t i = 0; i < now->rows; i++) memcpy(copy + i * TK_INT8_STEP, a + i * a_row, TK_INT8_STEP);
        a = copy;
        a_row = TK_INT8_STEP;
    }
    tile_load(4, a, a_row);
    tile_load(6, b, b_row);
    if (before) TAKE_OVER(0, before);
    tile_dot_int8(0, 4, 6);
    tile_load(7, b + 4 * TILE, b_row);
    if (before) TAKE_OVER(1, before);
    tile_dot_int8(1, 4, 7);
    if (now->is_tall) tile_load(5, a + TILE * a_row, a_row);
    if (before) TAKE_OVER(2, before);
    if (now->is_tall) tile_dot_int8(2, 5, 6);
    if (before) TAKE_OVER(3, before);
    if (now->is_tall) tile_dot_int8(3, 5, 7);
}

/// Panels stay in the first cache while all rows meet them; the sums of a block become results during the next one.
static void TK_KERNEL(multiply_int8)(const tk_int8_block *t) {
    _Alignas(64) float tiles[ROWS * TK_INT8_PANEL];         // their bits are integers
    const code_factors factors = t->codes ? factors_of(t->quantizer) : (code_factors){0};
    const int64_t steps = tk_int8_depth(t->k) / TK_INT8_STEP;
    tile_sums before = {.is_tall = true, .is_wide = true, .to = tiles, .to_row = PANEL};
    tile_configure();
    for (int64_t panel = 0; panel < t->panels; panel++)
        for (int64_t row = 0; row < t->rows; row += ROWS) {
            const int64_t rows = t->rows - row < ROWS ? t->rows - row : ROWS;
            const tile_sums now = {
                .is_tall = rows > TILE, .is_wide = true, .to = tiles, .to_row = PANEL, .row = row, .rows = rows,
                .column = panel * TK_INT8_PANEL,
            };
            // Two rows at a time are finished together.
            const int64_t share = steps > 1 ? (before.rows + 2 * steps - 3) / (2 * steps - 2) * 2 : ROWS;
            if (steps == 0) take_over(&before);
            for (int64_t s = 0; s < steps; s++) {
                add_int8_products(t, &now, s * TK_INT8_STEP, s == 0 ? &before : NULL);
                if (s > 0) finish_int8_rows(t, factors, &before, share);
            }
            finish_int8_rows(t, factors, &before, ROWS);
            before = now;
        }
    take_over(&before);
    finish_int8_rows(t, factors, &before, ROWS);
    tile_release();
}
