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

TK_INLINE int64_t whole_steps(int64_t k) { return (k + K_STEP - 1) / K_STEP * K_STEP; }

/// Two vectors of bfloat16 numbers in each other's halves of 32 bits.
TK_INLINE vuint pair(ushorts low, ushorts high) {
    return __builtin_convertvector(low, vuint) | __builtin_convertvector(high, vuint) << 16;
}

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
            if (lies_by_rows) interleave_rows(from, b->row, columns, TILE, depth, (int32_t *)tile);
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
TK_INLINE vfloat load_column(const float *source, int64_t column, int64_t k, int64_t ks, int64_t count) {
    return k < ks ? load_up_to(source + k * column, count) : (vfloat)0.0f;
}

/// A tile's rows of bfloat16 from floats that lie by columns: pairs of k move as one.
TK_INLINE void transpose_tile(const int parts, const float *source, int64_t column, int64_t count, int64_t ks,
                              uint16_t *to) {
    vfloat low[TILE], high[TILE], pairs[TILE];
#pragma clang loop unroll(full)
    for (int p = 0; p < TILE; p++) {
        low[p] = load_column(source, column, 2 * p, ks, count);
        high[p] = load_column(source, column, 2 * p + 1, ks, count);
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
TK_INLINE void transpose_rows(const int parts, const tk_operand *a, int64_t first, int64_t rows, int64_t first_k,
                              int64_t ks, uint16_t *to) {
    for (int64_t k = 0; k < ks; k += K_STEP)
        for (int64_t i = 0; i < rows; i += TILE) {
            const float *source = tk_element(a, first + i, first_k + k);
            const int64_t count = rows - i, depth = ks - k;
            uint16_t *tile = to + i * LEFT_STRIDE + k;
            // The next columns lie too far apart for the processor to guess.
            for (int64_t ahead = K_STEP; ahead < 2 * K_STEP && ahead < depth; ahead++)
                __builtin_prefetch(source + ahead * a->column);
            if (count >= TILE && depth >= K_STEP) transpose_tile(parts, source, a->column, TILE, K_STEP, tile);
            else transpose_tile(parts, source, a->column, count, depth, tile);
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
        transpose_rows(parts, a, first, rows, first_k, ks, rounded);
    } else {
        pack_rows(a, first, rows, first_k, ks, scratch);
        round_rows(parts, scratch, LEFT_STRIDE, rows, ks, rounded);
    }
    return (left_rows){rounded, LEFT_STRIDE};
}

/// The sums of 32 rows times one panel on their way into the result.
typedef struct {
    bool is_tall, is_wide;              // more than one tile
    float *to;                          // where the tiles are stored: a scratch, or the result itself
    int64_t to_row;
    const k_range *range;
    int64_t row, rows, column, width;   // of the result; rows that the scratch still holds
} tile_sums;

/// Empties a register for the sums that follow.
#define TAKE_OVER(tile, before)                                                                                            do {                                                                                                                       if (((before)->is_tall || (tile) < 2) && ((before)->is_wide || (tile) % 2 == 0))                                           tile_store(tile, (before)->to + (tile) / 2 * TILE * (before)->to_row + (tile) % 2 * TILE,                                         (before)->to_row * (int64_t)sizeof(float));                                                             tile_zero(tile);                                                                                                   } while (0)

TK_INLINE void take_over(const tile_sums *before) {
    TAKE_OVER(0, before);
    TAKE_OVER(1, before);
    TAKE_OVER(2, before);
    TAKE_OVER(3, before);
}

/// Carries up to `most` more rows from the scratch into the result.
TK_INLINE void finish_rows(tile_sums *sums, int64_t most) {
    const int64_t rows = sums->rows < most ? sums->rows : most;
    if (rows == 0) return;
    const float alpha = sums->range->block.alpha;
    for (int64_t i = 0; alpha != 1 && i < rows * PANEL; i += TK_WIDTH) store(sums->to + i, alpha * load(sums->to + i));
    store_tile(sums->range, sums->to, PANEL, sums->row, rows, sums->column, sums->width);
    sums->to += rows * PANEL;
    sums->row += rows;
    sums->rows -= rows;
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

// 8-bit integers: the same tiles, of rows of 64 values and of quads of k.
enum { INT8_ROWS = ROWS, INT8_PANELS = 1 };

TK_INLINE void begin_int8(void) { tile_configure(); }
TK_INLINE void end_int8(void) { tile_release(); }

/// Rows that are too few for the tiles are read from a copy: what lies behind them is not ours.
TK_INLINE void multiply_int8_rows(const tk_int8_block *t, int64_t row, int64_t rows, int64_t panels, const int8_t *b,
                                  int32_t *sums) {
    (void)panels;
    enum { b_row = 4 * TK_INT8_PANEL, sums_row = TK_INT8_PANEL * sizeof(int32_t) };
    _Alignas(64) uint8_t copy[ROWS * TK_INT8_STEP];
    const int64_t depth = tk_int8_depth(t->k);
    const bool is_half = rows <= TILE, is_whole = rows == ROWS || rows == TILE;
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
    for (int64_t k = 0; k < depth; k += TK_INT8_STEP) {
        const uint8_t *a = t->a + row * t->a_row + k;
        for (int64_t i = 0; i < rows && !is_whole; i++) memcpy(copy + i * TK_INT8_STEP, a + i * t->a_row, TK_INT8_STEP);
        if (!is_whole) a = copy;
        const int64_t a_row = is_whole ? t->a_row : TK_INT8_STEP;
        tile_load(4, a, a_row);
        tile_load(6, b + k * TK_INT8_PANEL, b_row);
        tile_dot_int8(0, 4, 6);
        tile_load(7, b + k * TK_INT8_PANEL + 4 * TILE, b_row);
        tile_dot_int8(1, 4, 7);
        if (is_half) continue;
        tile_load(5, a + TILE * a_row, a_row);
        tile_dot_int8(2, 5, 6);
        tile_dot_int8(3, 5, 7);
    }
    tile_store(0, sums, sums_row);
    tile_store(1, sums + TILE, sums_row);
    if (is_half) return;
    tile_store(2, sums + TILE * TK_INT8_PANEL, sums_row);
    tile_store(3, sums + TILE * TK_INT8_PANEL + TILE, sums_row);
}

#include "int8.h"

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
