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

/// Where sums go: to = alpha * sums, or to += alpha * sums.
typedef struct {
    float *to;
    int64_t row;
    float alpha;
    bool adds;
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
