// Products of 8-bit integers on vectors. A level gives the operation: INT8_OFFSET, what it adds to each value of the
// left operand; `quads`, four values in each lane, prepared by left_quads and right_quads; and dot_quads.

TK_INLINE void begin_int8(void) {}
TK_INLINE void end_int8(void) {}

/// Some vectors of a panel, as many sums as registers hold.
TK_INLINE void multiply_int8_columns(const int rows, const int8_t *a, int64_t a_row, const int8_t *b, int64_t depth,
                                     int32_t *sums) {
    enum { most_rows = 8, columns = 2 };
    vint s[most_rows][columns];
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++) s[i][0] = s[i][1] = 0;
    for (int64_t k = 0; k < depth; k += 4) {
        quads right[columns];
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) {
            vint four;
            memcpy(&four, b + k * TK_INT8_PANEL + j * 4 * TK_WIDTH, sizeof four);
            right[j] = right_quads(four);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < rows; i++) {
            int32_t four;
            memcpy(&four, a + i * a_row + k, sizeof four);
            const quads left = left_quads(four);
#pragma clang loop unroll(full)
            for (int j = 0; j < columns; j++) s[i][j] = dot_quads(s[i][j], left, right[j]);
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++) memcpy(sums + i * TK_INT8_PANEL, s[i], sizeof s[i]);
}

TK_INLINE void multiply_int8_panel(const tk_int8_block *t, const int8_t *b, int32_t *sums) {
    enum { rows = TK_WIDTH == 16 ? 8 : 4 };
    for (int64_t i = 0; i < t->rows; i += rows)
        for (int64_t j = 0; j < TK_INT8_PANEL; j += 2 * TK_WIDTH)
            multiply_int8_columns(rows, t->a + i * t->a_row, t->a_row, b + 4 * j, t->depth,
                                  sums + i * TK_INT8_PANEL + j);
}

#include "int8.h"
