// The layout of quantised operands.
//
// Left: bytes code + 128, as the instruction of x86 wants one operand without signs, in rows of an odd number of whole
// cache lines. Right: panels of columns, [panel][quad of k][column][4], which is what both the tiles and the vector
// instructions read; then 128 times the sum of each column, which takes the 128 away again.
#pragma once
#include "product.h"
#include "tk_int8.h"

enum { TK_INT8_PANEL = 32, TK_INT8_STEP = 64, TK_INT8_OFFSET = 128 };

static inline int64_t tk_int8_depth(int64_t k) { return (k + TK_INT8_STEP - 1) / TK_INT8_STEP * TK_INT8_STEP; }
static inline int64_t tk_int8_panels(int64_t n) { return (n + TK_INT8_PANEL - 1) / TK_INT8_PANEL; }

/// Rows times some panels, on one thread.
typedef struct {
    int64_t rows, k, a_row, panels;
    const uint8_t *a;
    const int8_t *b;
    const int32_t *b_sums;
    const float *scales;
    tk_block end;                       // n, where the result goes and what is added to it
    uint8_t *codes;                     // or where codes of the result go instead
    int64_t codes_row;
    const tk_quantizer *quantizer;
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

/// The panels from a column on, a multiple of TK_INT8_PANEL, of a packed n x k operand.
static inline void tk_int8_set_columns(tk_int8_block *t, const void *packed, int64_t n, int64_t k, int64_t column,
                                       int64_t columns) {
    const int64_t depth = tk_int8_depth(k);
    t->k = k;
    t->b = (const int8_t *)packed + column * depth;
    t->b_sums = (const int32_t *)((const int8_t *)packed + tk_int8_panels(n) * TK_INT8_PANEL * depth) + column;
    t->panels = tk_int8_panels(columns);
    t->end.n = columns;
}

/// Packs one panel of the transpose of a matrix [n][k].
void tk_int8_pack_panel(const float *weight, int64_t n, int64_t k, const float *scales, int64_t panel, void *packed);
