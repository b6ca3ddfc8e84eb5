// The layout of quantised operands.
//
// Left: rows of whole cache lines, an odd number of them, and whole blocks of rows, all filled with zeros. Right:
// panels of columns, [panel][quad of k][column][4], which is what both the tiles and the vector instructions read; then
// the sum of each column, for kernels whose instruction wants one operand without signs.
#pragma once
#include "product.h"

enum { TK_INT8_ROWS = 32, TK_INT8_PANEL = 32, TK_INT8_STEP = 64 };

static inline int64_t tk_int8_depth(int64_t k) { return (k + TK_INT8_STEP - 1) / TK_INT8_STEP * TK_INT8_STEP; }
static inline int64_t tk_int8_row(int64_t k) { return ((k + TK_INT8_STEP - 1) / TK_INT8_STEP | 1) * TK_INT8_STEP; }
static inline int64_t tk_int8_panels(int64_t n) { return (n + TK_INT8_PANEL - 1) / TK_INT8_PANEL; }

/// At most TK_INT8_ROWS rows times some panels, on one thread.
typedef struct {
    int64_t rows, depth, a_row, panels;
    const int8_t *a, *b;
    const int32_t *b_sums;
    const float *a_scales, *b_scales;
    tk_block end;                       // n, where the result goes and what is added to it
} tk_int8_block;

struct tk_int8_kernels {
#define X(result, name, arguments) result (*name) arguments;
#include "kernels/int8.def"
#undef X
};

extern const struct tk_int8_kernels tk_int8_kernels_portable, tk_int8_kernels_avx2, tk_int8_kernels_avx512,
    tk_int8_kernels_vnni, tk_int8_kernels_tiles, tk_int8_kernels_emulated_tiles;

/// The kernels of the current level.
const struct tk_int8_kernels *tk_int8_kernels(void);
