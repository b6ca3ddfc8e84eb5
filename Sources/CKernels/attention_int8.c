// Attention in 8-bit codes, one image and head at a time: keys and values are packed as they are rounded, and blocks of
// queries meet them.
#include "int8.h"
#include "table.h"
#include "tk_int8_attention.h"
#include "tk_parallel.h"
#include <string.h>

enum { BLOCK = 96 };                            // of queries

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t lines(int64_t bytes) { return (bytes + 63) / 64 * 16; }      // floats, in whole cache lines
static int64_t at(tk_strides s, int64_t image, int64_t head) { return image * s.batch + head * s.head; }

/// One head of one image.
typedef struct {
    const tk_int8_attention *t;
    int64_t image, head;
    int64_t score_row;                          // floats
    int8_t *keys, *values;                      // packed
    uint8_t *codes;                             // of a block of queries, then of their weights
    float *scores, *score_scales, *value_scales;
} view;

static void pack(int8_t *packed, const float *x, int64_t row, bool is_transposed, int64_t n, int64_t k,
                 const tk_quantizer *quantizer) {
    const int64_t depth = tk_int8_depth(k), columns = tk_int8_panels(n) * TK_INT8_PANEL;
    for (int64_t j = 0; j < n; j += TK_INT8_PANEL)
        tk_int8_kernels()->pack_values(x + (is_transposed ? j : j * row), row, is_transposed, least(n - j, TK_INT8_PANEL),
                                       k, quantizer, packed + j * depth, (int32_t *)(packed + columns * depth) + j);
}

static view prepare(const tk_int8_attention *t, int64_t image, int64_t head) {
    const tk_attention *a = &t->attention;
    view v = {.t = t, .image = image, .head = head, .score_row = tk_int8_panels(a->keys) * TK_INT8_PANEL};
    const int64_t keys = lines(tk_int8_packed_bytes(a->keys, a->head_size));
    const int64_t values = lines(tk_int8_packed_bytes(a->value_size, a->keys));
    const int64_t longest = a->keys > a->head_size ? a->keys : a->head_size;
    const int64_t codes = lines(BLOCK * tk_int8_row(longest)), scores = BLOCK * v.score_row;
    float *next = tk_scratch(keys + values + codes + scores + a->keys + a->value_size);
    v.keys = (int8_t *)next;
    v.values = (int8_t *)(next += keys);
    v.codes = (uint8_t *)(next += values);
    v.scores = next += codes;
    v.score_scales = next += scores;
    v.value_scales = next + a->keys;
    for (int64_t i = 0; i < a->keys; i++) v.score_scales[i] = t->q.scale * t->k.scale * a->scale;
    for (int64_t i = 0; i < a->value_size; i++) v.value_scales[i] = t->weights.scale * t->v.scale;
    pack(v.keys, a->k + at(a->k_strides, image, head), a->k_strides.row, false, a->keys, a->head_size, &t->k);
    pack(v.values, a->v + at(a->v_strides, image, head), a->v_strides.row, true, a->value_size, a->keys, &t->v);
    return v;
}

static void run_block(const view *v, int64_t first, int64_t count) {
    const tk_attention *a = &v->t->attention;
    const struct tk_int8_kernels *kernels = tk_int8_kernels();
    const int64_t q_row = tk_int8_row(a->head_size), weight_row = tk_int8_row(a->keys);
    const float *q = a->q + at(a->q_strides, v->image, v->head) + first * a->q_strides.row;
    for (int64_t i = 0; i < count; i++)
        kernels->quantize_range(q + i * a->q_strides.row, a->head_size, &v->t->q, v->codes + i * q_row);
    tk_int8_block t = {
        .rows = count, .a = v->codes, .a_row = q_row, .scales = v->score_scales,
        .end = {.c = v->scores, .c_row = v->score_row},
    };
    tk_int8_set_columns(&t, v->keys, a->keys, a->head_size, 0, a->keys);
    kernels->multiply_int8(&t);
    for (int64_t i = 0; i < count; i++) {
        float *row = v->scores + i * v->score_row, sum;
        const float *bias =
            a->bias ? a->bias + at(a->bias_strides, v->image, v->head) + (first + i) * a->bias_strides.row : NULL;
        tk_kernels()->softmax_numerators(row, 1, bias, a->keys, v->score_row, &sum);
        tk_quantizer weights = v->t->weights;   // of numerators: a weight is one divided by the sum
        weights.scale *= sum;
        kernels->quantize_range(row, a->keys, &weights, v->codes + i * weight_row);
    }
    t.a_row = weight_row;
    t.scales = v->value_scales;
    t.end.c = a->out + at(a->out_strides, v->image, v->head) + first * a->out_strides.row;
    t.end.c_row = a->out_strides.row;
    tk_int8_set_columns(&t, v->values, a->value_size, a->keys, 0, a->value_size);
    kernels->multiply_int8(&t);
}

static void run_head(const tk_int8_attention *t, int64_t image, int64_t head) {
    const view v = prepare(t, image, head);
    for (int64_t first = 0; first < t->attention.queries; first += BLOCK)
        run_block(&v, first, least(t->attention.queries - first, BLOCK));
}

void tk_int8_attention_heads(const tk_int8_attention *t) {
    for (int64_t i = 0; i < t->attention.batch * t->attention.heads; i++)
        run_head(t, i / t->attention.heads, i % t->attention.heads);
}

static void head_task(void *context, int64_t index, int worker) {
    (void)worker;
    const tk_int8_attention *t = context;
    run_head(t, index / t->attention.heads, index % t->attention.heads);
}

static int64_t blocks(const tk_attention *a) { return (a->queries + BLOCK - 1) / BLOCK; }

static void block_task(void *context, int64_t index, int worker) {
    (void)worker;
    const tk_int8_attention *t = context;
    const tk_attention *a = &t->attention;
    const int64_t head = index / blocks(a), first = index % blocks(a) * BLOCK;
    const view v = prepare(t, head / a->heads, head % a->heads);
    run_block(&v, first, least(a->queries - first, BLOCK));
}

void tk_int8_attention_forward(const tk_int8_attention *t) {
    const tk_attention *a = &t->attention;
    const int64_t heads = a->batch * a->heads;
    if (heads % tk_thread_count() == 0) tk_parallel(heads, head_task, (void *)t);
    else tk_parallel(heads * blocks(a), block_task, (void *)t);
}
