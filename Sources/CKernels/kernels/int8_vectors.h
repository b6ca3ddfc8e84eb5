// Products of 8-bit integers on vectors. A level gives the operation: `quads`, four values in each lane, prepared by
// left_quads from bytes without signs and by right_quads from bytes with signs; and dot_quads.

enum {
    INT8_ROWS = TK_WIDTH == 16 ? 6 : 4,
    INT8_PANELS = TK_WIDTH == 16 ? 2 : 1,       // at a time: 24 sums in registers
};

/// Some vectors of a panel, or both of two panels.
TK_INLINE void multiply_int8_columns(const int columns, const uint8_t *const a[INT8_ROWS], const int8_t *b,
                                     int64_t panel, int64_t k, int32_t *sums) {
    vint s[INT8_ROWS][4];
#pragma clang loop unroll(full)
    for (int i = 0; i < INT8_ROWS; i++)
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) s[i][j] = 0;
    for (int64_t p = 0; p < k; p += 4) {
        quads right[4];
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++) {
            vint four;
            memcpy(&four, b + j / 2 * panel + p * TK_INT8_PANEL + j % 2 * 4 * TK_WIDTH, sizeof four);
            right[j] = right_quads(four);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < INT8_ROWS; i++) {
            int32_t four;
            memcpy(&four, a[i] + p, sizeof four);
            const quads left = left_quads((vint)four);
#pragma clang loop unroll(full)
            for (int j = 0; j < columns; j++) s[i][j] = dot_quads(s[i][j], left, right[j]);
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < INT8_ROWS; i++)
#pragma clang loop unroll(full)
        for (int j = 0; j < columns; j++)
            memcpy(sums + (j / 2 * INT8_ROWS + i) * TK_INT8_PANEL + j % 2 * TK_WIDTH, &s[i][j], sizeof s[i][j]);
}

TK_INLINE void multiply_int8_rows(const tk_int8_block *t, int64_t row, int64_t rows, int64_t panels, const int8_t *b,
                                  int32_t *sums) {
    const uint8_t *a[INT8_ROWS];                    // beyond the last row: the last, whose copies are not used
    for (int64_t i = 0; i < INT8_ROWS; i++) a[i] = t->a + (row + (i < rows ? i : rows - 1)) * t->a_row;
    const int64_t panel = TK_INT8_PANEL * tk_int8_depth(t->k);
    if (panels > 1) {
        multiply_int8_columns(4, a, b, panel, t->k, sums);
        return;
    }
    for (int64_t j = 0; j < TK_INT8_PANEL; j += 2 * TK_WIDTH)
        multiply_int8_columns(2, a, b + 4 * j, panel, t->k, sums + j);
}

#include "int8.h"

/// Panels stay in the first cache while all rows meet them.
static void TK_KERNEL(multiply_int8)(const tk_int8_block *t) {
    enum { panel_sums = INT8_ROWS * TK_INT8_PANEL };
    _Alignas(64) int32_t sums[INT8_PANELS * panel_sums];
    const code_factors f = t->codes ? factors_of(t->quantizer) : (code_factors){0};
    for (int64_t panel = 0; panel < t->panels; panel += INT8_PANELS) {
        const int64_t panels = t->panels - panel < INT8_PANELS ? t->panels - panel : INT8_PANELS;
        const int8_t *b = t->b + panel * TK_INT8_PANEL * tk_int8_depth(t->k);
        for (int64_t row = 0; row < t->rows; row += INT8_ROWS) {
            const int64_t rows = t->rows - row < INT8_ROWS ? t->rows - row : INT8_ROWS;
            multiply_int8_rows(t, row, rows, panels, b, sums);
            for (int64_t i = 0; i < panels; i++)
                finish_int8(t, f, sums + i * panel_sums, row, rows, (panel + i) * TK_INT8_PANEL);
        }
    }
}
