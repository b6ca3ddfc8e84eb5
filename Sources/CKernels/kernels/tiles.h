// bfloat16 products on tile registers: eight registers of 16 rows of 64 bytes, and an instruction that multiplies 16 x
// 32 by 32 x 16 bfloat16 numbers into 16 x 16 float32 sums (Intel, "Architecture Instruction Set Extensions Programming
// Reference", chapter on AMX).
//
// The same source is compiled twice: levels/tiles.c gives it the instructions, levels/emulated_tiles.c an emulation, so
// that its logic is tested on every machine. Four tiles hold 32 x 32 sums, two the rows of a, two the columns of b.

enum {
    ROWS = 32,
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

/// What is left of a number when its first part is taken away.
TK_INLINE vfloat rest(vfloat x) { return x - round_to_bfloat16(x); }

/// Two vectors of bfloat16 numbers in each other's halves of 32 bits.
TK_INLINE vuint pair(vfloat low, vfloat high) {
    return (vuint)vbits(round_to_bfloat16(low)) >> 16 | (vuint)vbits(round_to_bfloat16(high));
}

/// In floats; two numbers fill one.
TK_INLINE int64_t right_size(const int parts, int64_t n, int64_t k) {
    return (n + PANEL - 1) / PANEL * PANEL * whole_steps(k) / 2 * parts;
}

/// From a panel of floats, [k][PANEL], to tiles: [k step][part][2 tiles][pair of k][column][2].
TK_INLINE void pair_panel(const int parts, const float *panel, int64_t ks, float *out) {
    for (int64_t k = 0; k < whole_steps(ks); k += 2)
        for (int64_t j = 0; j < 2; j++) {
            vfloat low = k < ks ? load(panel + k * PANEL + j * TILE) : (vfloat)0.0f;
            vfloat high = k + 1 < ks ? load(panel + (k + 1) * PANEL + j * TILE) : (vfloat)0.0f;
            for (int64_t part = 0; part < parts; part++) {
                const vuint both = pair(low, high);
                memcpy(out + ((k / K_STEP * parts + part) * 2 + j) * TILE * TILE + k % K_STEP / 2 * TILE, &both,
                       sizeof both);
                low = rest(low);
                high = rest(high);
            }
        }
}

TK_INLINE void pack_tiles(const int parts, const tk_operand *b, int64_t n, int64_t first_k, int64_t ks,
                          float *packed) {
    _Alignas(64) float panel[TK_K_BLOCK * PANEL];
    for (int64_t j = 0; j < n; j += PANEL) {
        const int64_t width = n - j < PANEL ? n - j : PANEL;
        if (b->patches) {
            tk_operand part = *b;
            part.first_column += j;
            pack_patches(&part, width, first_k, ks, panel);
        } else {
            pack_panel(b, j, width, PANEL, first_k, ks, panel);
        }
        pair_panel(parts, panel, ks, packed + right_size(parts, j, ks));
    }
}

/// The same rows as pack_rows, from an operand that lies by columns.
TK_INLINE void transpose_rows(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks,
                              float *packed) {
    const float *source = a->data + first + first_k * a->column;
    for (int64_t i = 0; i < rows; i += TK_WIDTH) {
        const int64_t count = rows - i < TK_WIDTH ? rows - i : TK_WIDTH;
        for (int64_t k = 0; k < ks; k += TK_WIDTH) {
            vfloat square[TK_WIDTH];
            for (int r = 0; r < TK_WIDTH; r++)
                square[r] = k + r < ks ? load_up_to(source + (k + r) * a->column + i, count) : (vfloat)0.0f;
            transpose(square);
            for (int64_t r = 0; r < count; r++) store(packed + (i + r) * LEFT_STRIDE + k, square[r]);
        }
    }
}

/// Rows of floats, LEFT_STRIDE apart, to rows of bfloat16, [part][ROWS][LEFT_STRIDE], zeros up to whole steps and
/// beyond the last row.
TK_INLINE void round_rows(const int parts, const float *from, int64_t rows, int64_t ks, uint16_t *to) {
    for (int64_t i = 0; i < ROWS; i++, from += LEFT_STRIDE, to += LEFT_STRIDE) {
        const int64_t count = i < rows ? ks : 0;
        for (int64_t k = 0; k < whole_steps(ks); k += TK_WIDTH) {
            vfloat v = count - k >= TK_WIDTH ? load(from + k)
                     : count > k ? load_first(from + k, count - k) : (vfloat)0.0f;
            for (int64_t part = 0; part < parts; part++, v = rest(v)) {
                const ushorts half = __builtin_convertvector((vuint)vbits(round_to_bfloat16(v)) >> 16, ushorts);
                memcpy(to + part * ROWS * LEFT_STRIDE + k, &half, sizeof half);
            }
        }
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

TK_INLINE void load_left(const uint16_t *a, bool is_half) {
    enum { row_bytes = LEFT_STRIDE * sizeof(uint16_t) };
    tile_load(4, a, row_bytes);
    if (!is_half) tile_load(5, a + TILE * LEFT_STRIDE, row_bytes);
}

TK_INLINE void load_right(const float *b) {
    enum { line = 64 };
    tile_load(6, b, line);
    tile_load(7, b + TILE * TILE, line);
}

TK_INLINE void add_products(bool is_half) {
    tile_dot(0, 4, 6);
    tile_dot(1, 4, 7);
    if (is_half) return;
    tile_dot(2, 5, 6);
    tile_dot(3, 5, 7);
}

/// The products of all parts but the first two, of one step of k, in an order in which each part is loaded once.
TK_INLINE void add_small_products(const int parts, const uint16_t *a, const float *b, bool is_half) {
    enum { left_part = ROWS * LEFT_STRIDE, right_part = 2 * TILE * TILE };
    load_right(b);
    if (parts == 3) {
        load_left(a + 2 * left_part, is_half);
        add_products(is_half);
    }
    load_left(a + left_part, is_half);
    add_products(is_half);
    load_right(b + right_part);
    if (parts == 3) add_products(is_half);
    load_left(a, is_half);
    add_products(is_half);
    if (parts == 3) {
        load_right(b + 2 * right_part);
        add_products(is_half);
    }
}

/// tile = 32 rows of a times one panel of b; only the first 16 rows if the rest is empty. The small products come
/// first, while the sums are small: they are rounded to their own size.
TK_INLINE void multiply_tiles(const int parts, const uint16_t *a, const float *b, int64_t ks, bool is_half,
                              float *tile) {
    enum { sums_row_bytes = PANEL * sizeof(float) };
    const int64_t step = parts * 2 * TILE * TILE;
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
    for (int64_t k = 0; parts > 1 && k < ks; k += K_STEP)
        add_small_products(parts, a + k, b + k / K_STEP * step, is_half);
    for (int64_t k = 0; k < ks; k += K_STEP) {
        load_left(a + k, is_half);
        load_right(b + k / K_STEP * step);
        add_products(is_half);
    }
    tile_store(0, tile, sums_row_bytes);
    tile_store(1, tile + TILE, sums_row_bytes);
    tile_store(2, tile + TILE * PANEL, sums_row_bytes);
    tile_store(3, tile + TILE * PANEL + TILE, sums_row_bytes);
}

TK_INLINE void tiles_block(const int parts, const tk_block *t, float *scratch) {
    float *rows_as_floats = scratch, *own_right = scratch + TK_LEFT_SCRATCH;
    uint16_t *left = (uint16_t *)(scratch + ROWS * LEFT_STRIDE);
    const int64_t k_block = tk_k_block(t->k);
    _Alignas(64) float tile[ROWS * PANEL];
    tile_configure();
    int64_t k0 = 0;
    do {                                            // also once for k = 0: the sums are zero
        const int64_t ks = t->k - k0 < k_block ? t->k - k0 : k_block;
        const tile_end end = {k0 > 0 || t->accumulate, tk_has_epilogue(t) && k0 + ks == t->k};
        const float *right = own_right;
        if (t->packed_b)
            right = t->packed_b + right_size(parts, t->packed_columns, k0) + right_size(parts, t->packed_first, ks);
        else pack_tiles(parts, &t->b, t->n, k0, ks, own_right);
        for (int64_t i = 0; i < t->m; i += ROWS) {
            const int64_t rows = t->m - i < ROWS ? t->m - i : ROWS;
            if (parts == 1 && t->a.is_rounded && t->a.column == 1) {
                copy_rounded_rows(&t->a, i, rows, k0, ks, left);
            } else {
                if (lies_by_columns(&t->a)) transpose_rows(&t->a, i, rows, k0, ks, rows_as_floats);
                else pack_rows(&t->a, i, rows, k0, ks, rows_as_floats);
                round_rows(parts, rows_as_floats, rows, ks, left);
            }
            if (t->row_sums) add_row_sums(&t->a, i, rows, k0, ks, t->row_sums + i);
            for (int64_t j = 0; j < t->n; j += PANEL) {
                const int64_t width = t->n - j < PANEL ? t->n - j : PANEL;
                multiply_tiles(parts, left, right + right_size(parts, j, ks), ks, rows <= TILE, tile);
                if (t->alpha != 1)
                    for (int64_t s = 0; s < ROWS * PANEL; s += TK_WIDTH) store(tile + s, t->alpha * load(tile + s));
                store_tile(t, end, tile, PANEL, i, rows, j, width);
            }
        }
        k0 += ks;
    } while (k0 < t->k);
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
