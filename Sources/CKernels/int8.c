// Splits products of 8-bit integers over threads. Sums are exact, so every split gives the same bits.
#include "int8.h"
#include <string.h>

enum { QUANTIZED_ROWS = 64, ROW_BLOCKS = 3, TASK_PANELS = 12 };        // of a task

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

int64_t tk_int8_bytes(int64_t rows, int64_t k) {
    return (rows + TK_INT8_ROWS - 1) / TK_INT8_ROWS * TK_INT8_ROWS * tk_int8_row(k);
}

int64_t tk_int8_packed_bytes(int64_t n, int64_t k) {
    return tk_int8_panels(n) * TK_INT8_PANEL * (tk_int8_depth(k) + (int64_t)sizeof(int32_t));
}

typedef struct {
    const float *x;
    int64_t x_row, rows, k;
    int8_t *q;
    float *scales;
} quantization;

static void quantize_task(void *context, int64_t index, int worker) {
    (void)worker;
    const quantization *t = context;
    const int64_t first = index * QUANTIZED_ROWS, row = tk_int8_row(t->k);
    for (int64_t i = first; i < least(t->rows, first + QUANTIZED_ROWS); i++) {
        t->scales[i] = tk_int8_kernels()->quantize_row(t->x + i * t->x_row, t->k, t->q + i * row);
        memset(t->q + i * row + t->k, 0, (size_t)(row - t->k));
    }
}

void tk_int8_quantize(const float *x, int64_t x_row, int64_t rows, int64_t k, int8_t *q, float *scales) {
    quantization t = {x, x_row, rows, k, q, scales};
    tk_parallel((rows + QUANTIZED_ROWS - 1) / QUANTIZED_ROWS, quantize_task, &t);
    memset(q + rows * tk_int8_row(k), 0, (size_t)(tk_int8_bytes(rows, k) - rows * tk_int8_row(k)));
}

void tk_int8_pack(const int8_t *q, int64_t n, int64_t k, void *packed) {
    const int64_t columns = tk_int8_panels(n) * TK_INT8_PANEL, depth = tk_int8_depth(k), row = tk_int8_row(k);
    int8_t *values = packed;
    int32_t *sums = (int32_t *)(values + columns * depth);
    for (int64_t j = 0; j < columns; j++) {                     // a quantised matrix has whole blocks of rows, too
        int8_t *panel = values + j / TK_INT8_PANEL * TK_INT8_PANEL * depth + j % TK_INT8_PANEL * 4;
        sums[j] = 0;
        for (int64_t p = 0; p < depth; p += 4) memcpy(panel + p * TK_INT8_PANEL, q + j * row + p, 4);
        for (int64_t p = 0; p < k; p++) sums[j] += q[j * row + p];
    }
}

static void product_task(void *context, int64_t index, int worker) {
    (void)worker;
    const tk_int8_product *p = context;
    const int64_t panels = tk_int8_panels(p->n), row_tasks = (p->m + TK_INT8_ROWS * ROW_BLOCKS - 1)
                                                           / (TK_INT8_ROWS * ROW_BLOCKS);
    const int64_t first_panel = index / row_tasks * TASK_PANELS, column = first_panel * TK_INT8_PANEL;
    const int64_t depth = tk_int8_depth(p->k), a_row = tk_int8_row(p->k);
    const int8_t *b = p->b;
    tk_int8_block t = {
        .depth = depth, .a_row = a_row, .panels = least(panels - first_panel, TASK_PANELS), .b = b + column * depth,
        .b_sums = (const int32_t *)(b + panels * TK_INT8_PANEL * depth) + column, .b_scales = p->b_scales + column,
        .end = {
            .n = least(p->n - column, TASK_PANELS * TK_INT8_PANEL), .c_row = p->c_row,
            .bias = p->bias ? p->bias + column : NULL, .activation = p->activation, .residual_row = p->residual_row,
        },
    };
    const int64_t first = index % row_tasks * TK_INT8_ROWS * ROW_BLOCKS;
    for (int64_t row = first; row < least(p->m, first + TK_INT8_ROWS * ROW_BLOCKS); row += TK_INT8_ROWS) {
        t.rows = least(p->m - row, TK_INT8_ROWS);
        t.a = p->a + row * a_row;
        t.a_scales = p->a_scales + row;
        t.end.c = p->c + row * p->c_row + column;
        if (p->residual) t.end.residual = p->residual + row * p->residual_row + column;
        tk_int8_kernels()->multiply_int8(&t);
    }
}

void tk_int8_multiply(const tk_int8_product *product) {
    const int64_t rows = TK_INT8_ROWS * ROW_BLOCKS, columns = TK_INT8_PANEL * TASK_PANELS;
    tk_parallel((product->m + rows - 1) / rows * ((product->n + columns - 1) / columns), product_task,
                (void *)product);
}
