// Speed of matrix products against the peak of the machine, which is measured between their runs.
// Build and run: make -C Benchmarks/Kernels; TESSERA_ISA, the number of threads (first argument) and
// int16, bfloat16 or tiles (second argument; see the Makefile) choose what; shares are always of the peak of float32.
#include "CKernels.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/// Multiply-adds on registers alone, independent of each other: the operations of a second on one thread.
#define PEAK(name, attributes, width)                                                                                  \
    attributes static double name(void) {                                                                              \
        typedef float vector __attribute__((ext_vector_type(width)));                                                  \
        enum { chains = 12, rounds = 20000 };                                                                          \
        vector sums[chains];                                                                                           \
        for (int i = 0; i < chains; i++) sums[i] = (float)i;                                                           \
        const vector factor = 0.999f, term = 1e-3f;                                                                    \
        const double start = now();                                                                                    \
        for (int n = 0; n < rounds; n++)                                                                               \
            for (int i = 0; i < chains; i++) sums[i] = sums[i] * factor + term;                                        \
        const double seconds = now() - start;                                                                          \
        volatile float sink = 0;                                                                                       \
        for (int i = 0; i < chains; i++) sink += sums[i][0];                                                           \
        return 2.0 * width * chains * rounds / seconds;                                                                \
    }
#if defined(__x86_64__)
PEAK(peak_avx512, __attribute__((target("avx512f"))), 16)
PEAK(peak_avx2, __attribute__((target("avx2,fma"))), 8)
#endif
PEAK(peak_portable, , 4)

static double peak_of_one(void) {
#if defined(__x86_64__)
    if (tk_current_level() >= TK_AVX512) return peak_avx512();
    if (tk_current_level() == TK_AVX2) return peak_avx2();
#endif
    return peak_portable();
}

/// The second of two runs: a processor slows down for some microseconds when wide vectors begin.
static void peak_task(void *context, int64_t index, int worker) {
    (void)worker;
    peak_of_one();
    ((double *)context)[index] = peak_of_one();
}

/// Of all threads at once: together they may be slower than one.
static double peak(void) {
    double peaks[256], sum = 0;
    tk_parallel(tk_thread_count(), peak_task, peaks);
    for (int i = 0; i < tk_thread_count(); i++) sum += peaks[i];
    return sum;
}

typedef enum { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT } form;

typedef struct {
    const char *name;
    form form;
    int64_t m, n, k, batch;                     // of the product itself
    tk_activation activation;                   // with bias and the preactivation kept; TK_IDENTITY is the sum alone
} measurement;

static tk_precision precision = TK_FLOAT32;

static void measure(const measurement *c) {
    const int64_t a_count = c->m * c->k, b_count = c->n * c->k, c_count = c->m * c->n;
    float *a = tk_allocate(a_count * c->batch), *b = tk_allocate(b_count * c->batch);
    float *result = tk_allocate(c_count * c->batch), *before = tk_allocate(c_count * c->batch);
    float *bias = tk_allocate_zeroed(c->n);
    for (int64_t i = 0; i < a_count * c->batch; i++) a[i] = (float)(i % 7) - 3;
    for (int64_t i = 0; i < b_count * c->batch; i++) b[i] = (float)(i % 5) - 2;
    tk_product p = {
        .m = c->m, .n = c->n, .k = c->k, .batch = c->batch, .a = a, .a_batch = a_count, .b = b, .b_batch = b_count,
        .c = result, .c_row = c->n, .c_batch = c_count, .alpha = 1, .precision = precision,
        .a_row = c->form == WEIGHT_GRADIENT ? 1 : c->k, .a_column = c->form == WEIGHT_GRADIENT ? c->m : 1,
        .b_row = c->form == FORWARD ? 1 : c->n, .b_column = c->form == FORWARD ? c->k : 1,
    };
    if (c->activation != TK_IDENTITY) {
        p.bias = bias;
        p.activation = c->activation;
        p.preactivation = before;
    }
    const double operations = 2.0 * c->m * c->n * c->k * c->batch;
    double best = INFINITY, highest = 0;
    for (double start = now(), spent = 0; spent < 0.2; spent = now() - start) {
        highest = fmax(highest, peak());
        const double begin = now();
        tk_multiply(&p);
        best = fmin(best, now() - begin);
    }
    printf("%-18s %5lld %5lld %5lld x %-4lld %7.1f GFLOP/s %4.0f %%\n", c->name, (long long)c->m, (long long)c->n,
           (long long)c->k, (long long)c->batch, operations / best * 1e-9,
           100 * operations / best / highest);
    tk_release(a, a_count * c->batch);
    tk_release(b, b_count * c->batch);
    tk_release(result, c_count * c->batch);
    tk_release(before, c_count * c->batch);
    tk_release(bias, c->n);
}

/// Self-attention of packed queries, keys and values; its operations are those of its two products.
static void measure_attention(int64_t images, int64_t heads, int64_t tokens, int64_t size) {
    const int64_t width = heads * size, count = images * tokens * width;
    float *qkv = tk_allocate(3 * count), *out = tk_allocate(count);
    for (int64_t i = 0; i < 3 * count; i++) qkv[i] = (float)(i * 7919 % 1000) / 250 - 2;
    const tk_strides packed = {.batch = 3 * width * tokens, .head = size, .row = 3 * width};
    const tk_attention a = {
        .batch = images, .heads = heads, .queries = tokens, .keys = tokens, .head_size = size, .value_size = size,
        .q = qkv, .k = qkv + width, .v = qkv + 2 * width, .q_strides = packed, .k_strides = packed, .v_strides = packed,
        .out = out, .out_strides = {.batch = width * tokens, .head = size, .row = width}, .scale = 0.125f,
        .precision = precision,
    };
    double best = INFINITY;
    for (double start = now(); now() - start < 0.2;) {
        const double begin = now();
        tk_attention_forward(&a);
        best = fmin(best, now() - begin);
    }
    printf("%-18s %5lld %5lld %5lld x %-4lld %7.1f GFLOP/s, %.1f us a head\n", "attention", (long long)tokens,
           (long long)tokens, (long long)size, (long long)(images * heads),
           4e-9 * images * heads * tokens * tokens * size / best, 1e6 * best / (images * heads));
    tk_release(qkv, 3 * count);
    tk_release(out, count);
}

/// A product of 8-bit integers and, before it, the quantisation of its left operand.
static void measure_int8(int64_t m, int64_t n, int64_t k, tk_activation activation) {
    const int64_t a_count = m * tk_int8_row(k) / 4 + 1, packed_count = tk_int8_packed_bytes(n, k) / 4 + 1;
    float *x = tk_allocate(m * k), *weight = tk_allocate(n * k), *a = tk_allocate(a_count);
    float *packed = tk_allocate(packed_count), *scales = tk_allocate(n), *c = tk_allocate(m * n);
    for (int64_t i = 0; i < m * k; i++) x[i] = (float)(i % 7) - 3;
    for (int64_t i = 0; i < n * k; i++) weight[i] = (float)(i % 5) - 2;
    const tk_quantizer quantizer = {.kind = TK_UNIFORM, .greatest = 127, .scale = 3.0f / 127};
    tk_int8_row_scales(weight, n, k, 127, scales);
    tk_int8_pack(weight, n, k, scales, packed);
    const tk_int8_product p = {
        .m = m, .n = n, .k = k, .a = (uint8_t *)a, .b = packed, .scales = scales, .c = c, .c_row = n,
        .activation = activation,
    };
    double quantization = INFINITY, product = INFINITY;
    for (double start = now(); now() - start < 0.2;) {
        double begin = now();
        tk_int8_quantize(x, k, m, k, &quantizer, (uint8_t *)a);
        quantization = fmin(quantization, now() - begin);
        begin = now();
        tk_int8_multiply(&p);
        product = fmin(product, now() - begin);
    }
    printf("%-18s %5lld %5lld %5lld        %7.1f GOP/s, with quantisation %.1f\n",
           activation == TK_IDENTITY ? "8-bit" : "8-bit, GELU", (long long)m, (long long)n, (long long)k,
           2e-9 * m * n * k / product, 2e-9 * m * n * k / (product + quantization));
    tk_release(x, m * k);
    tk_release(weight, n * k);
    tk_release(a, a_count);
    tk_release(packed, packed_count);
    tk_release(scales, n);
    tk_release(c, m * n);
}

/// The three products of a linear layer of a training step.
static void measure_layer(const char *name, int64_t rows, int64_t inputs, int64_t outputs, bool has_activation) {
    char names[3][64];
    snprintf(names[0], 64, "%s x W^T", name);
    snprintf(names[1], 64, "%s dy W", name);
    snprintf(names[2], 64, "%s dy^T x", name);
    measure(&(measurement){names[0], FORWARD, rows, outputs, inputs, 1, TK_IDENTITY});
    if (has_activation) measure(&(measurement){names[0], FORWARD, rows, outputs, inputs, 1, TK_GELU});
    measure(&(measurement){names[1], INPUT_GRADIENT, rows, inputs, outputs, 1, TK_IDENTITY});
    measure(&(measurement){names[2], WEIGHT_GRADIENT, outputs, inputs, rows, 1, TK_IDENTITY});
}

int main(int count, char **arguments) {
    if (count > 1) tk_set_thread_count(atoi(arguments[1]));
    if (count > 2 && strcmp(arguments[2], "int16") == 0) precision = TK_INT16;
    if (count > 2 && strcmp(arguments[2], "bfloat16") == 0) precision = TK_BFLOAT16;
    if (count > 2 && strcmp(arguments[2], "tiles") == 0) {
        precision = TK_BFLOAT16;
        tk_emulate_tiles(true);
    }
    double highest = 0;
    for (int i = 0; i < 50; i++) highest = fmax(highest, peak());
    printf("%s, %d threads, peak %.1f GFLOP/s\n", tk_level_name(tk_current_level()), tk_thread_count(),
           highest * 1e-9);
    const struct {
        const char *name;
        int64_t rows, width;
    } models[] = {{"DeiT-Ti", 16 * 197, 192}, {"DeiT-S", 8 * 197, 384}, {"ViT-B", 4 * 197, 768},
                  {"CCT-7", 64 * 256, 256}};
    for (int i = 0; i < 4; i++) {
        const int64_t width = models[i].width, hidden = i < 3 ? 4 * width : 2 * width;
        measure_layer(models[i].name, models[i].rows, width, 3 * width, false);
        measure_layer(models[i].name, models[i].rows, width, width, false);
        measure_layer(models[i].name, models[i].rows, width, hidden, true);
        measure_layer(models[i].name, models[i].rows, hidden, width, false);
    }
    measure(&(measurement){"scores", FORWARD, 197, 197, 64, 48, TK_IDENTITY});
    measure(&(measurement){"values", INPUT_GRADIENT, 197, 64, 197, 48, TK_IDENTITY});
    measure_attention(8, 3, 197, 64);
    for (int i = 0; i < 3; i++) {
        const int64_t rows = models[i].rows, width = models[i].width;
        measure_int8(rows, 3 * width, width, TK_IDENTITY);
        measure_int8(rows, 4 * width, width, TK_GELU);
        measure_int8(rows, width, 4 * width, TK_IDENTITY);
    }
    measure(&(measurement){"square", INPUT_GRADIENT, 1024, 1024, 1024, 1, TK_IDENTITY});
    return 0;
}
