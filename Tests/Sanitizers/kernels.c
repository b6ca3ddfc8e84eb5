// Runs kernels and the pool under clang's sanitizers: `make sanitize`. Results are checked by Tests/KernelTests; here
// every operand has exactly the bytes that it needs, so that a step beside it is seen.
#include "CKernels.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t state = 12345;

static int64_t below(int64_t bound) {
    state = state * 1664525 + 1013904223;
    return (state >> 8) % bound;
}

static float *numbers(int64_t count) {
    float *x = malloc((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++) x[i] = (float)below(2001) / 1000 - 1;
    return x;
}

/// The same in bfloat16.
static void *rounded(const float *x, int64_t count) {
    uint16_t *halves = malloc((size_t)count * sizeof(uint16_t));
    tk_halve(x, halves, count);
    return halves;
}

static void multiply(void) {
    const int64_t m = below(40), n = below(70), k = below(8) ? below(90) : 512 + below(600), batch = 1 + below(3);
    const bool transposes_a = below(2), transposes_b = below(2);
    float *a = numbers(batch * m * k), *b = numbers(batch * n * k), *c = numbers(batch * m * n);
    float *residual = numbers(batch * m * n), *bias = numbers(n), *before = numbers(batch * m * n);
    float *row_sums = numbers(m);
    uint16_t *halves = malloc((size_t)(batch * m * n) * sizeof(uint16_t));
    tk_product p = {
        .m = m, .n = n, .k = k, .batch = batch, .a = a, .a_row = transposes_a ? 1 : k,
        .a_column = transposes_a ? m : 1, .a_batch = m * k, .b = b, .b_row = transposes_b ? 1 : n,
        .b_column = transposes_b ? k : 1, .b_batch = n * k, .c = c, .c_row = n, .c_batch = m * n, .alpha = 0.5f,
        .bias = below(2) ? bias : NULL, .activation = (tk_activation)below(10), .residual = below(2) ? residual : NULL,
        .residual_row = n, .residual_batch = m * n, .preactivation = below(2) ? before : NULL,
        .rounded_preactivation = below(2) ? halves : NULL, .row_sums = batch == 1 ? row_sums : NULL,
        .precision = (tk_precision)below(6),
    };
    tk_multiply(&p);
    float *rounded_a = rounded(a, batch * m * k), *rounded_b = rounded(b, batch * n * k);
    float *rounded_c = rounded(c, batch * m * n);
    if (below(2)) p.b = rounded_b, p.b_is_rounded = true;
    if (below(2)) p.a = rounded_a, p.a_is_rounded = true;
    if (below(2)) p.c = rounded_c, p.c_is_rounded = true;
    tk_multiply(&p);
    void *operands[] = {a, b, c, residual, bias, before, row_sums, halves, rounded_a, rounded_b, rounded_c};
    for (int i = 0; i < 11; i++) free(operands[i]);
}

/// With few heads, whose keys and values are packed for all threads, and with many.
static void attend(void) {
    const int64_t images = 1 + below(3), heads = 1 + below(8), tokens = 1 + below(120), size = 1 + below(40);
    const int64_t width = heads * size, count = images * tokens * width;
    float *qkv = numbers(3 * count), *out = numbers(count), *gradient = numbers(3 * count);
    float *log_sum_exp = numbers(images * heads * tokens);
    const tk_strides packed = {.row = 3 * width, .head = size, .batch = 3 * width * tokens};
    tk_attention a = {
        .batch = images, .heads = heads, .queries = tokens, .keys = tokens, .head_size = size, .value_size = size,
        .q = qkv, .k = qkv + width, .v = qkv + 2 * width, .q_strides = packed, .k_strides = packed, .v_strides = packed,
        .out = out, .out_strides = {.row = width, .head = size, .batch = width * tokens}, .scale = 0.3f,
        .log_sum_exp = log_sum_exp, .dropout = below(2) ? 0.1f : 0, .seed = 7, .precision = (tk_precision)below(6),
    };
    tk_attention_forward(&a);
    tk_attention_backward(&a, out, false, gradient, gradient + width, gradient + 2 * width, false, NULL);
    uint16_t *halves = rounded(qkv, 3 * count), *rounded_out = rounded(out, count);
    uint16_t *rounded_gradient = rounded(gradient, 3 * count);
    a.q_is_rounded = a.k_is_rounded = a.v_is_rounded = a.out_is_rounded = true;
    a.q = (float *)(void *)halves;
    a.k = (float *)(void *)(halves + width);
    a.v = (float *)(void *)(halves + 2 * width);
    a.out = (float *)(void *)rounded_out;
    tk_attention_forward(&a);
    tk_attention_backward(&a, a.out, true, (float *)(void *)rounded_gradient,
                          (float *)(void *)(rounded_gradient + width), (float *)(void *)(rounded_gradient + 2 * width),
                          true, NULL);
    void *operands[] = {qkv, out, gradient, log_sum_exp, halves, rounded_out, rounded_gradient};
    for (int i = 0; i < 7; i++) free(operands[i]);
}

/// Divided among threads, by rows and by ranges of k.
static void multiply_large(int64_t m, int64_t n, int64_t k, tk_precision precision) {
    float *a = numbers(m * k), *b = numbers(n * k), *c = numbers(m * n), *row_sums = numbers(m);
    tk_product p = {
        .m = m, .n = n, .k = k, .batch = 1, .a = a, .a_row = 1, .a_column = m, .b = b, .b_row = n, .b_column = 1, .c = c,
        .c_row = n, .alpha = 1, .row_sums = row_sums, .precision = precision,
    };
    tk_multiply(&p);
    free(a);
    free(b);
    free(c);
    free(row_sums);
}

static void multiply_bytes(void) {
    const int64_t m = below(70), n = below(70), k = below(200);
    float *x = numbers(m * k), *w = numbers(n * k), *c = numbers(m * n), *bias = numbers(n), *scales = numbers(n);
    uint8_t *a = malloc((size_t)(m * tk_int8_row(k)));
    void *packed = malloc((size_t)tk_int8_packed_bytes(n, k));
    const tk_quantizer quantizer = {
        .kind = (tk_code_kind)below(3), .greatest = 7, .shift = (int32_t)below(4), .scale = 0.05f,
    };
    tk_int8_quantize(x, k, m, k, &quantizer, a);
    tk_round_to_codes(x, x, m * k, &quantizer);
    tk_int8_row_scales(w, n, k, 127, scales);
    tk_int8_pack(w, n, k, scales, packed);
    const tk_int8_product p = {
        .m = m, .n = n, .k = k, .a = a, .b = packed, .scales = scales, .c = c, .c_row = n, .bias = bias,
        .activation = TK_GELU,
    };
    tk_int8_multiply(&p);
    void *operands[] = {x, w, c, bias, scales, a, packed};
    for (int i = 0; i < 7; i++) free(operands[i]);
}

static void convolve(void) {
    const int64_t groups = 1 + below(3), kernel = 1 + below(3), stride = 1 + below(2), size = 4 + below(9);
    const int64_t padding = below(2), places = (size + 2 * padding - kernel) / stride + 1;
    tk_convolution c = {
        .batch = 1 + below(3), .height = size, .width = size, .in_channels = groups * (1 + below(9)),
        .out_channels = groups * (1 + below(20)), .out_height = places, .out_width = places, .kernel_height = kernel,
        .kernel_width = kernel, .stride_height = stride, .stride_width = stride, .pad_top = padding, .pad_left = padding,
        .dilation_height = 1, .dilation_width = 1, .groups = groups, .precision = (tk_precision)below(6),
    };
    const int64_t outputs = c.batch * places * places * c.out_channels;
    const int64_t inputs = c.batch * size * size * c.in_channels;
    const int64_t weights = c.out_channels * kernel * kernel * c.in_channels / groups;
    float *x = numbers(inputs), *weight = numbers(weights), *y = numbers(outputs), *bias = numbers(c.out_channels);
    tk_convolution_forward(&c, x, weight, bias, TK_RELU, NULL, y);
    tk_convolution_backward_input(&c, y, weight, x);
    tk_convolution_backward_weight(&c, x, y, weight);
    free(x);
    free(weight);
    free(y);
    free(bias);
}

static void normalise(void) {
    const int64_t rows = 1 + below(40), columns = 1 + below(100);
    float *x = numbers(rows * columns), *y = numbers(rows * columns), *weight = numbers(columns);
    float *bias = numbers(columns), *mean = numbers(rows), *inverse = numbers(rows);
    tk_layer_norm(x, weight, bias, 1e-5f, y, false, mean, inverse, rows, columns);
    tk_layer_norm(x, weight, bias, 1e-5f, y, true, mean, inverse, rows, columns);
    tk_layer_norm_backward(y, false, x, weight, mean, inverse, x, weight, bias, rows, columns);
    tk_activation_backward(y, false, x, false, TK_GELU, x, false, bias, rows, columns);
    uint16_t *halves = malloc((size_t)(rows * columns) * sizeof(uint16_t));
    tk_halve(y, halves, rows * columns);
    tk_widen(halves, x, rows * columns);
    tk_activate_rounded(halves, x, below(2), rows * columns, TK_GELU);
    uint16_t *gradient = rounded(x, rows * columns);
    const float *half_values = (float *)(void *)halves;
    tk_activation_backward(y, false, half_values, true, TK_GELU, x, below(2), bias, rows, columns);
    tk_activation_backward((float *)(void *)gradient, true, half_values, true, TK_GELU, x, true, bias, rows, columns);
    tk_layer_norm_backward((float *)(void *)gradient, true, y, weight, mean, inverse, x, weight, bias, rows, columns);
    free(gradient);
    free(halves);
    tk_softmax(x, y, rows, columns);
    float *operands[] = {x, y, weight, bias, mean, inverse};
    for (int i = 0; i < 6; i++) free(operands[i]);
}

/// Masks of either form, and entries that are picked, added to and scaled.
static void pick(void) {
    const int64_t extent = 1 + below(9), inner = 1 + below(70) * below(600), count = below((int)extent + 1);
    float *x = numbers(extent * inner), *branch = numbers(count * inner), *y = numbers(extent * inner);
    int32_t *indices = malloc((size_t)(count + 1) * sizeof(int32_t));
    for (int64_t i = 0; i < count; i++) indices[i] = (int32_t)(extent - count + i);
    tk_gather(x, indices, branch, 1, extent, count, inner);
    tk_gather_backward(branch, indices, below(2), x, 1, extent, count, inner);
    tk_add_entries(x, branch, indices, 1.5f, y, extent, count, inner);
    tk_add_entries_backward(y, indices, 1.5f, branch, count, inner);
    tk_dropout(x, y, false, extent * inner, 0.3f, 5);
    float *halves = rounded(x, extent * inner);
    tk_dropout(halves, halves, true, extent * inner, 0.3f, 5);
    void *operands[] = {x, branch, y, indices, halves};
    for (int i = 0; i < 5; i++) free(operands[i]);
}

static void everything(int rounds) {
    for (int i = 0; i < rounds; i++) {
        multiply();
        attend();
        multiply_bytes();
        convolve();
        normalise();
        pick();
    }
    for (tk_precision precision = TK_FLOAT32; precision <= TK_INT8; precision++) {
        multiply_large(70, 60, 2000, precision);
        multiply_large(400, 100, 50, precision);
    }
}

static void count_task(void *context, int64_t index, int worker) {
    (void)worker;
    ((int *)context)[index]++;
}

/// Several callers at once: one of them has the pool, the others work alone.
static void *call_pool(void *failed) {
    for (int round = 0; round < 300; round++) {
        int counts[37] = {0};
        tk_parallel(37, count_task, counts);
        for (int i = 0; i < 37; i++)
            if (counts[i] != 1) *(_Atomic bool *)failed = true;
    }
    return NULL;
}

int main(void) {
    _Atomic bool failed = false;
    for (int threads = 1; threads <= 4; threads += 3) {
        tk_set_thread_count(threads);
        for (tk_level level = TK_PORTABLE; level <= TK_AMX; level++)
            if (tk_select_level(level)) everything(40);
        tk_avoid_extensions(true);
        everything(20);
        tk_avoid_extensions(false);
        tk_emulate_tiles(true);
        everything(20);
        tk_emulate_tiles(false);
    }
    pthread_t callers[4];
    for (int i = 0; i < 4; i++) pthread_create(&callers[i], NULL, call_pool, &failed);
    for (int i = 0; i < 4; i++) pthread_join(callers[i], NULL);
    puts(failed ? "error: an index ran twice or never" : "no complaint");
    return failed;
}
