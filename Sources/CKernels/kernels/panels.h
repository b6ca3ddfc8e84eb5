// What products on vectors have in common: the panels of a packed right operand and the rows of a left one.
#pragma once

#if TK_WIDTH == 16 || defined(__aarch64__)
enum { COLUMNS = 3 };                   // vectors of a panel: as many as 32 registers allow
#else
enum { COLUMNS = 2 };                   // or 16
#endif
enum {
    PANEL = COLUMNS * TK_WIDTH,
    LEFT_STRIDE = TK_K_BLOCK + 16,      // between copied rows; a power of two would put them all into one cache set
};

/// Whether the rows of an operand are its contiguous direction.
TK_INLINE bool lies_by_columns(const tk_operand *a) { return !a->patches && a->row == 1 && a->column != 1; }

/// The columns of the panel that begins at column j: whole vectors of them.
TK_INLINE int64_t panel_width(int64_t n, int64_t j) {
    return n - j < PANEL ? (n - j + TK_WIDTH - 1) / TK_WIDTH * TK_WIDTH : PANEL;
}

/// Where sums go: to = alpha * sums, plus what `to` holds if it `adds`, plus bias and residual where there are some.
typedef struct {
    float *to;
    int64_t row;
    float alpha;
    bool adds;
    const float *bias, *residual;       // or NULL
    int64_t residual_row;
    const float *result;                // where they go in the end
    int64_t result_row;
} target;

/// Asks for one of the lines of a tile of the result, `place` counting from its top left downwards.
TK_INLINE void prefetch_result(const int rows, const int columns, const target *t, int64_t place) {
    enum { line = 16 };
    if (place < rows * columns * TK_WIDTH / line)
        __builtin_prefetch(t->result + place % rows * t->result_row + place / rows * line, 1);
}

#include "packing.h"
#include "epilogue.h"

/// Whether sums of a k block need no more than a target can say.
TK_INLINE bool ends_in_registers(const tk_block *t, tile_end end) {
    return !end.finishes || (t->activation == TK_IDENTITY && !t->preactivation && !t->rounded_preactivation);
}

/// The target of a whole tile at (row, column) whose sums end in registers.
TK_INLINE target target_at(const tk_block *t, tile_end end, int64_t row, int64_t column) {
    float *c = t->c + row * t->c_row + column;
    return (target){
        .to = c, .row = t->c_row, .alpha = t->alpha, .adds = end.adds,
        .bias = end.finishes && t->bias ? t->bias + column : NULL,
        .residual = end.finishes && t->residual ? t->residual + row * t->residual_row + column : NULL,
        .residual_row = t->residual_row, .result = c, .result_row = t->c_row,
    };
}

/// The target of a tile whose sums are only stored, to be finished by store_tile.
TK_INLINE target target_of_sums(const tk_block *t, float *tile, int64_t row, int64_t column) {
    return (target){
        .to = tile, .row = PANEL, .alpha = t->alpha, .result = t->c + row * t->c_row + column, .result_row = t->c_row,
    };
}

/// Row i of a column of vectors of the target.
TK_INLINE void store_sums(const target *t, int64_t i, int64_t column, vfloat v, vfloat bias) {
    float *to = t->to + i * t->row + column;
    if (t->adds) v += load(to);
    v += bias;
    if (t->residual) v += load(t->residual + i * t->residual_row + column);
    store(to, v);
}
