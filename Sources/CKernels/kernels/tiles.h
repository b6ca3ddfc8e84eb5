// bfloat16 products on tile registers: eight registers of 16 rows of 64 bytes, and an instruction that multiplies 16 x
// 32 by 32 x 16 bfloat16 numbers into 16 x 16 float32 sums (Intel, "Architecture Instruction Set Extensions Programming
// Reference", chapter on AMX).
//
// The same source is compiled twice: levels/tiles.c gives it the instructions, levels/emulated_tiles.c an emulation, so
// that its logic is tested on every machine. Four tiles hold 32 x 32 sums, two the rows of a, two the columns of b.

enum {
    ROWS = TK_TILE_ROWS,
    PANEL = 32,
    K_STEP = 32,                        // of a tile
    LEFT_STRIDE = TK_K_BLOCK + K_STEP,  // 17 cache lines of bfloat16: an odd number visits all sets of the cache
    TILE = 16,                          // rows of a tile, and pairs of a row
};

/// Panels are whole: the tiles of the last one end in zeros.
TK_INLINE int64_t panel_width(int64_t n, int64_t j) {
    (void)n, (void)j;
    return PANEL;
}

#include "packing.h"
#include "epilogue.h"
#include "tile_operands.h"

/// The sums of 32 rows times one panel on their way into the result.
typedef struct {
    bool is_tall, is_wide;              // more than one tile
    float *to;                          // where the tiles are stored: a scratch, or the result itself
    int64_t to_row;
    const k_range *range;
    int64_t row, rows, column, width;   // of the result; rows that the scratch still holds
} tile_sums;

/// Empties a register for the sums that follow.
#define TAKE_OVER(tile, before)                                                                                        \
    do {                                                                                                               \
        if (((before)->is_tall || (tile) < 2) && ((before)->is_wide || (tile) % 2 == 0))                               \
            tile_store(tile, (before)->to + (tile) / 2 * TILE * (before)->to_row + (tile) % 2 * TILE,                  \
                       (before)->to_row * (int64_t)sizeof(float));                                                     \
        tile_zero(tile);                                                                                               \
    } while (0)

TK_INLINE void take_over(const tile_sums *before) {
    TAKE_OVER(0, before);
    TAKE_OVER(1, before);
    TAKE_OVER(2, before);
    TAKE_OVER(3, before);
}

/// The first rows of the scratch are in the result.
TK_INLINE void drop_rows(tile_sums *sums, int64_t rows) {
    sums->to += rows * PANEL;
    sums->row += rows;
    sums->rows -= rows;
}

/// Carries up to `most` more rows from the scratch into the result.
TK_INLINE void finish_rows(tile_sums *sums, int64_t most) {
    const int64_t rows = sums->rows < most ? sums->rows : most;
    if (rows == 0) return;
    const float alpha = sums->range->block.alpha;
    for (int64_t i = 0; alpha != 1 && i < rows * PANEL; i += TK_WIDTH) store(sums->to + i, alpha * load(sums->to + i));
    store_tile(sums->range, sums->to, PANEL, sums->row, rows, sums->column, sums->width);
    drop_rows(sums, rows);
}

TK_INLINE void load_left(const left_rows *a, int64_t k, bool is_tall) {
    tile_load(4, a->first + k, a->row * (int64_t)sizeof(uint16_t));
    if (is_tall) tile_load(5, a->first + TILE * a->row + k, a->row * (int64_t)sizeof(uint16_t));
}

TK_INLINE void load_right(const float *b, bool is_wide) {
    enum { line = 64 };
    tile_load(6, b, line);
    if (is_wide) tile_load(7, b + TILE * TILE, line);
}

/// With `before`, each register is emptied just before it is needed: so other work hides the stores.
TK_INLINE void add_products(const tile_sums *now, const tile_sums *before) {
    if (before) TAKE_OVER(0, before);
    tile_dot(0, 4, 6);
    if (before) TAKE_OVER(1, before);
    if (now->is_wide) tile_dot(1, 4, 7);
    if (before) TAKE_OVER(2, before);
    if (now->is_tall) tile_dot(2, 5, 6);
    if (before) TAKE_OVER(3, before);
    if (now->is_tall && now->is_wide) tile_dot(3, 5, 7);
}

/// The products of all parts but the first two, of one step of k, in an order in which each part is loaded once.
TK_INLINE void add_small_products(const int parts, const left_rows *a, int64_t k, const float *b, const tile_sums *now,
                                  const tile_sums *before) {
    enum { left_part = ROWS * LEFT_STRIDE, right_part = 2 * TILE * TILE };
    load_right(b, now->is_wide);
    if (parts == 3) {
        load_left(a, 2 * left_part + k, now->is_tall);
        add_products(now, before);
    }
    load_left(a, left_part + k, now->is_tall);
    add_products(now, parts == 3 ? NULL : before);
    load_right(b + right_part, now->is_wide);
    if (parts == 3) add_products(now, NULL);
    load_left(a, k, now->is_tall);
    add_products(now, NULL);
    if (parts == 3) {
        load_right(b + 2 * right_part, now->is_wide);
        add_products(now, NULL);
    }
}

/// The sums of at most 32 rows of a times one panel of b, in registers. Those of the block before go into the result
/// meanwhile: some rows of them in each step, as vectors and tiles work side by side. The small products come first,
/// while the sums are small: they are rounded to their own size.
TK_INLINE void multiply_tiles(const int parts, const left_rows *a, const float *b, const tile_sums *now,
                              tile_sums *before) {
    const int64_t step = parts * 2 * TILE * TILE, steps = whole_steps(now->range->depth) / K_STEP;
    const int64_t share = steps > 1 ? (before->rows + steps - 2) / (steps - 1) : ROWS;
    if (steps == 0) take_over(before);
    for (int64_t s = 0; parts > 1 && s < steps; s++)
        add_small_products(parts, a, s * K_STEP, b + s * step, now, s == 0 ? before : NULL);
    for (int64_t s = 0; s < steps; s++) {
        load_left(a, s * K_STEP, now->is_tall);
        load_right(b + s * step, now->is_wide);
        add_products(now, parts == 1 && s == 0 ? before : NULL);
        if (s > 0) finish_rows(before, share);
    }
    finish_rows(before, ROWS);
}

/// Where a block's sums go: straight into the result if they are all of it and fill whole tiles.
TK_INLINE tile_sums sums_of(const k_range *range, int64_t row, int64_t column, float *scratch) {
    const tk_block *t = &range->block;
    tile_sums sums = {
        .to = scratch, .to_row = PANEL, .range = range, .row = row, .rows = t->m - row < ROWS ? t->m - row : ROWS,
        .column = column, .width = t->n - column < PANEL ? t->n - column : PANEL,
    };
    sums.is_tall = sums.rows > TILE;
    sums.is_wide = sums.width > TILE;
    const bool is_all = !range->before && !tk_has_epilogue(t) && !t->c_is_rounded && t->alpha == 1;
    if (is_all && (sums.rows | sums.width) % TILE == 0) {
        sums.to = result_at(t, row, column);
        sums.to_row = t->c_row;
        sums.rows = 0;
    }
    return sums;
}

TK_INLINE void tiles_block(const int parts, const tk_block *t, float *scratch) {
    float *own_right = scratch + TK_LEFT_SCRATCH;
    _Alignas(64) float tiles[ROWS * PANEL];
    k_range ranges[2];                              // that of the block before and the current one
    tile_sums before = {.is_tall = true, .is_wide = true, .to = tiles, .to_row = PANEL};
    int64_t k0 = 0, n = 0;
    tile_configure();
    do {                                            // also once for k = 0: the sums are zero
        k_range *range = &ranges[n++ % 2];
        *range = range_at(t, k0, scratch);
        const int64_t ks = range->depth;
        const float *right = own_right;
        if (t->packed_b)
            right = t->packed_b + right_size(parts, t->packed_columns, k0) + right_size(parts, t->packed_first, ks);
        else pack_tiles(parts, &t->b, t->n, k0, ks, own_right);
        for (int64_t i = 0; i < t->m; i += ROWS) {
            const int64_t rows = t->m - i < ROWS ? t->m - i : ROWS;
            const left_rows left = left_of(parts, &t->a, i, rows, k0, ks, scratch);
            if (t->row_sums) add_row_sums(&t->a, i, rows, k0, ks, t->row_sums + i);
            for (int64_t j = 0; j < t->n; j += PANEL) {
                const tile_sums now = sums_of(range, i, j, tiles);
                multiply_tiles(parts, &left, right + right_size(parts, j, ks), &now, &before);
                before = now;
            }
        }
        k0 += ks;
    } while (k0 < t->k);
    take_over(&before);
    finish_rows(&before, ROWS);
    tile_release();
}

// One instance for each number of parts.
#define TK_PARTS(parts)                                                                                                \
    static int64_t packed_right_size_##parts(int64_t n, int64_t k) { return right_size(parts, n, k); }                 \
    static void pack_right_##parts(const tk_operand *b, int64_t n, int64_t first_k, int64_t ks,                        \
                                   tk_precision precision, float *packed) {                                            \
        (void)precision;                                                                                               \
        pack_tiles(parts, b, n, first_k, ks, packed);                                                                  \
    }                                                                                                                  \
    static void product_block_##parts(const tk_block *t, float *scratch) { tiles_block(parts, t, scratch); }
TK_PARTS(1)
TK_PARTS(2)
TK_PARTS(3)
#undef TK_PARTS

const struct tk_products TK_KERNEL(tk_products)[3] = {
    {product_block_1, pack_right_1, packed_right_size_1},
    {product_block_2, pack_right_2, packed_right_size_2},
    {product_block_3, pack_right_3, packed_right_size_3},
};

#include "tiles_int8.h"
