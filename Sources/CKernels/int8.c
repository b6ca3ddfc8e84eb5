// Splits products of 8-bit integers over threads. Sums are exact, so every split gives the same bits.
#include "int8.h"
#include <math.h>
#include <string.h>

enum { PIECE = 1 << 15, QUANTIZED_ROWS = 64, TASK_ROWS = 96, TASK_PANELS = 12 };    // of a task

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

typedef struct {
    const float *x;
    float *y;
    int64_t count;
    const tk_quantizer *quantizer;
} rounding;

static void round_task(void *context, int64_t index, int worker) {
    (void)worker;
    const rounding *t = context;
    const int64_t first = index * PIECE;
    tk_int8_kernels()->round_range(t->x + first, t->y + first, least(t->count - first, PIECE), t->quantizer);
}

void tk_round_to_codes(const float *x, float *y, int64_t count, const tk_quantizer *quantizer) {
    rounding t = {x, y, count, quantizer};
    tk_parallel(quotient_up(count, PIECE), round_task, &t);
}

double tk_rounding_error(const float *x, int64_t count, const tk_quantizer *quantizer) {
    return tk_int8_kernels()->round_range(x, NULL, count, quantizer);
}

int64_t tk_int8_row(int64_t k) { return (quotient_up(k, TK_INT8_STEP) | 1) * TK_INT8_STEP; }

typedef struct {
    const float *x;
    int64_t x_row, rows, k;
    const tk_quantizer *quantizer;
    uint8_t *codes;
} quantization;

static void quantize_task(void *context, int64_t index, int worker) {
    (void)worker;
    const quantization *t = context;
    const int64_t first = index * QUANTIZED_ROWS, row = tk_int8_row(t->k);
    for (int64_t i = first; i < least(t->rows, first + QUANTIZED_ROWS); i++)
        tk_int8_kernels()->quantize_range(t->x + i * t->x_row, t->k, t->quantizer, t->codes + i * row);
}

void tk_int8_quantize(const float *x, int64_t x_row, int64_t rows, int64_t k, const tk_quantizer *quantizer,
                      uint8_t *codes) {
    quantization t = {x, x_row, rows, k, quantizer, codes};
    tk_parallel(quotient_up(rows, QUANTIZED_ROWS), quantize_task, &t);
}

void tk_int8_row_scales(const float *weight, int64_t n, int64_t k, int32_t greatest, float *scales) {
    for (int64_t j = 0; j < n; j++) {
        float magnitude = 1e-8f;                    // a row of zeros has a scale, too
        for (int64_t p = 0; p < k; p++) magnitude = fmaxf(magnitude, fabsf(weight[j * k + p]));
        scales[j] = magnitude / (float)greatest;
    }
}

int64_t tk_int8_packed_bytes(int64_t n, int64_t k) {
    return tk_int8_panels(n) * TK_INT8_PANEL * (tk_int8_depth(k) + (int64_t)sizeof(int32_t));
}

void tk_int8_pack_panel(const float *weight, int64_t n, int64_t k, const float *scales, int64_t panel, void *packed) {
    const int64_t depth = tk_int8_depth(k), columns = tk_int8_panels(n) * TK_INT8_PANEL, first = panel * TK_INT8_PANEL;
    int8_t *values = (int8_t *)packed + first * depth;
    int32_t *sums = (int32_t *)((int8_t *)packed + columns * depth) + first;
    memset(values, 0, (size_t)(TK_INT8_PANEL * depth));
    memset(sums, 0, sizeof(int32_t[TK_INT8_PANEL]));
    uint8_t codes[TK_INT8_STEP];
    for (int64_t j = 0; j < least(n - first, TK_INT8_PANEL); j++) {
        const tk_quantizer row = {.kind = TK_UNIFORM, .greatest = 127, .scale = scales[first + j]};
        for (int64_t p = 0; p < k; p += TK_INT8_STEP) {
            const int64_t count = least(k - p, TK_INT8_STEP);
            tk_int8_kernels()->quantize_range(weight + (first + j) * k + p, count, &row, codes);
            for (int64_t i = 0; i < count; i++) {
                const int8_t code = (int8_t)(codes[i] - TK_INT8_OFFSET);
                values[((p + i) / 4 * TK_INT8_PANEL + j) * 4 + (p + i) % 4] = code;
                sums[j] += code * TK_INT8_OFFSET;
            }
        }
    }
}

typedef struct {
    const float *weight;
    int64_t n, k;
    const float *scales;
    void *packed;
} packing;

static void pack_task(void *context, int64_t panel, int worker) {
    (void)worker;
    const packing *t = context;
    tk_int8_pack_panel(t->weight, t->n, t->k, t->scales, panel, t->packed);
}

void tk_int8_pack(const float *weight, int64_t n, int64_t k, const float *scales, void *packed) {
    packing t = {weight, n, k, scales, packed};
    tk_parallel(tk_int8_panels(n), pack_task, &t);
}

static void product_task(void *context, int64_t index, int worker) {
    (void)worker;
    const tk_int8_product *p = context;
    const int64_t row_tasks = quotient_up(p->m, TASK_ROWS), row = index % row_tasks * TASK_ROWS;
    const int64_t column = index / row_tasks * TASK_PANELS * TK_INT8_PANEL;
    tk_int8_block t = {
        .rows = least(p->m - row, TASK_ROWS), .a_row = tk_int8_row(p->k), .a = p->a + row * tk_int8_row(p->k),
        .scales = p->scales + column,
        .end = {
            .c = p->c + row * p->c_row + column, .c_row = p->c_row, .bias = p->bias ? p->bias + column : NULL,
            .activation = p->activation, .residual_row = p->residual_row,
            .residual = p->residual ? p->residual + row * p->residual_row + column : NULL,
        },
    };
    tk_int8_set_columns(&t, p->b, p->n, p->k, column, least(p->n - column, TASK_PANELS * TK_INT8_PANEL));
    tk_int8_kernels()->multiply_int8(&t);
}

void tk_int8_multiply(const tk_int8_product *product) {
    tk_parallel(quotient_up(product->m, TASK_ROWS) * quotient_up(product->n, TASK_PANELS * TK_INT8_PANEL), product_task,
                (void *)product);
}
