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

/// The columns of the panel that begins at column j: whole vectors of them.
TK_INLINE int64_t panel_width(int64_t n, int64_t j) {
    return n - j < PANEL ? (n - j + TK_WIDTH - 1) / TK_WIDTH * TK_WIDTH : PANEL;
}

/// Where sums go: to = alpha * sums, plus what was before, bias and residual where there are some.
typedef struct {
    float *to;
    int64_t row;
    bool is_rounded;                    // `to` gets bfloat16 numbers, which `row` counts
    float alpha;
    const float *before, *bias, *residual;      // or NULL
    int64_t before_row, residual_row;
    const char *result;                 // where they go in the end
    int64_t result_row;                 // bytes
} target;

/// Asks for one of the lines of a tile of the result, `place` counting from its top left downwards.
TK_INLINE void prefetch_result(const int rows, const int columns, const target *t, int64_t place) {
    enum { line = 64 };
    if (place < rows * columns * TK_WIDTH * (int64_t)sizeof(float) / line)
        __builtin_prefetch(t->result + place % rows * t->result_row + place / rows * line, 1);
}

#include "packing.h"
#include "epilogue.h"

/// Whether sums need no more than a target can say.
TK_INLINE bool ends_in_registers(const tk_block *t) {
    return t->activation == TK_IDENTITY && !t->preactivation && !t->rounded_preactivation;
}

/// The target of a whole tile at (row, column) whose sums end in registers.
TK_INLINE target target_at(const k_range *range, int64_t row, int64_t column) {
    const tk_block *t = &range->block;
    void *c = result_at(t, row, column);
    return (target){
        .to = c, .row = t->c_row, .is_rounded = t->c_is_rounded, .alpha = t->alpha,
        .before = before_at(range, row, column), .bias = t->bias ? t->bias + column : NULL,
        .residual = t->residual ? t->residual + row * t->residual_row + column : NULL,
        .before_row = range->before_row, .residual_row = t->residual_row,
        .result = c, .result_row = tk_bytes(t->c_is_rounded, t->c_row),
    };
}

/// The target of a tile whose sums are only stored, to be finished by store_tile.
TK_INLINE target target_of_sums(const k_range *range, float *tile, int64_t row, int64_t column) {
    const tk_block *t = &range->block;
    return (target){
        .to = tile, .row = PANEL, .alpha = t->alpha, .result = result_at(t, row, column),
        .result_row = tk_bytes(t->c_is_rounded, t->c_row),
    };
}

/// Row i of a column of vectors of the target.
TK_INLINE void store_sums(const target *t, int64_t i, int64_t column, vfloat v, vfloat bias) {
    const int64_t place = i * t->row + column;
    if (t->before) v += load(t->before + i * t->before_row + column);
    v += bias;
    if (t->residual) v += load(t->residual + i * t->residual_row + column);
    if (t->is_rounded) store_rounded_up_to((uint16_t *)(void *)t->to + place, v, TK_WIDTH);
    else store(t->to + place, v);
}
