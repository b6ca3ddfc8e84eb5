// Attention, one image and head at a time, in blocks of queries whose scores stay in the second cache.
#include "product.h"
#include "table.h"
#include <string.h>

enum { QUERIES = 64 };

typedef struct {
    const tk_attention *a;
    const float *out_gradient;
    float *q_gradient, *k_gradient, *v_gradient, *bias_gradient;
} job;

static int64_t at(tk_strides s, int64_t image, int64_t head) { return image * s.batch + head * s.head; }

static void multiply(const float *a, int64_t a_row, int64_t a_column, const float *b, int64_t b_row, int64_t b_column,
                     float *c, int64_t c_row, int64_t m, int64_t n, int64_t k, float alpha, bool accumulate,
                     tk_precision precision, float *scratch) {
    tk_block t = {
        .m = m, .n = n, .k = k, .a = {.data = a, .row = a_row, .column = a_column},
        .b = {.data = b, .row = b_row, .column = b_column}, .c = c, .c_row = c_row, .alpha = alpha,
        .accumulate = accumulate, .precision = precision,
    };
    tk_kernels()->product_block(&t, scratch);
}

/// Scratch that products of a head need.
static int64_t product_scratch(const tk_attention *a) {
    int64_t n = a->keys > a->head_size ? a->keys : a->head_size;
    if (a->value_size > n) n = a->value_size;
    tk_block t = {.n = n, .k = TK_K_BLOCK};
    return tk_block_scratch(&t);
}

/// Scores of some queries: scale * q k^T + bias.
static void scores(const tk_attention *a, int64_t image, int64_t head, int64_t first, int64_t count, float *s,
                   float *scratch) {
    const float *q = a->q + at(a->q_strides, image, head) + first * a->q_strides.row;
    const float *k = a->k + at(a->k_strides, image, head);
    multiply(q, a->q_strides.row, 1, k, 1, a->k_strides.row, s, a->keys, count, a->keys, a->head_size, a->scale, false,
             a->precision, scratch);
    if (!a->bias) return;
    const float *bias = a->bias + at(a->bias_strides, image, head) + first * a->bias_strides.row;
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < a->keys; j++) s[i * a->keys + j] += bias[i * a->bias_strides.row + j];
}

static uint64_t mask_seed(const tk_attention *a, int64_t image, int64_t head, int64_t query) {
    uint64_t z = a->seed + (uint64_t)((image * a->heads + head) * a->queries + query + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    return z ^ z >> 27;
}

static void forward_task(void *context, int64_t index, int worker) {
    (void)worker;
    const tk_attention *a = ((const job *)context)->a;
    const int64_t blocks = (a->queries + QUERIES - 1) / QUERIES;
    const int64_t first = index % blocks * QUERIES, head = index / blocks % a->heads, image = index / blocks / a->heads;
    const int64_t count = a->queries - first < QUERIES ? a->queries - first : QUERIES;
    float *s = tk_scratch(QUERIES * a->keys + product_scratch(a)), *scratch = s + QUERIES * a->keys;
    scores(a, image, head, first, count, s, scratch);
    for (int64_t i = 0; i < count; i++) {
        float log_sum_exp;
        tk_kernels()->softmax_in_place(s + i * a->keys, a->keys, &log_sum_exp);
        if (a->log_sum_exp) a->log_sum_exp[(image * a->heads + head) * a->queries + first + i] = log_sum_exp;
        if (a->dropout > 0)
            tk_kernels()->masked(s + i * a->keys, s + i * a->keys, a->keys, a->dropout,
                                 mask_seed(a, image, head, first + i));
    }
    multiply(s, a->keys, 1, a->v + at(a->v_strides, image, head), a->v_strides.row, 1,
             a->out + at(a->out_strides, image, head) + first * a->out_strides.row, a->out_strides.row, count,
             a->value_size, a->keys, 1, false, a->precision, scratch);
}

void tk_attention_forward(const tk_attention *a) {
    job j = {.a = a};
    if (a->keys == 0 || a->queries == 0) return;
    tk_parallel(a->batch * a->heads * ((a->queries + QUERIES - 1) / QUERIES), forward_task, &j);
}

/// Gradients of one image and head: query blocks in order, so that sums over queries have one order.
static void backward_head(const job *j, int64_t image, int64_t head) {
    const tk_attention *a = j->a;
    const int64_t block = QUERIES * a->keys;
    float *p = tk_scratch(3 * block + product_scratch(a)), *dropped = p + block, *g = dropped + block, *scratch = g + block;
    const float *k = a->k + at(a->k_strides, image, head), *v = a->v + at(a->v_strides, image, head);
    for (int64_t first = 0; first < a->queries; first += QUERIES) {
        const int64_t count = a->queries - first < QUERIES ? a->queries - first : QUERIES;
        const float *q = a->q + at(a->q_strides, image, head) + first * a->q_strides.row;
        const int64_t out_at = at(a->out_strides, image, head) + first * a->out_strides.row;
        const float *dy = j->out_gradient + out_at, *y = a->out + out_at;
        scores(a, image, head, first, count, p, scratch);
        // g = dy v^T: the gradient of the (dropped) weights.
        multiply(dy, a->out_strides.row, 1, v, 1, a->v_strides.row, g, a->keys, count, a->keys, a->value_size, 1, false,
                 a->precision, scratch);
        float *weights = a->dropout > 0 ? dropped : p;
        for (int64_t i = 0; i < count; i++) {
            const int64_t row = i * a->keys;
            tk_kernels()->exp_minus(p + row, a->keys,
                                    a->log_sum_exp[(image * a->heads + head) * a->queries + first + i]);
            if (a->dropout > 0) {
                const uint64_t seed = mask_seed(a, image, head, first + i);
                tk_kernels()->masked(p + row, dropped + row, a->keys, a->dropout, seed);
                tk_kernels()->masked(g + row, g + row, a->keys, a->dropout, seed);
            }
            // The softmax's gradient: p (g - sum p g), and that sum is dy . y, dropout or not.
            float mean = 0;
            for (int64_t c = 0; c < a->value_size; c++)
                mean += dy[i * a->out_strides.row + c] * y[i * a->out_strides.row + c];
            tk_kernels()->softmax_gradient(p + row, g + row, a->keys, mean);
        }
        multiply(weights, 1, a->keys, dy, a->out_strides.row, 1, j->v_gradient + at(a->v_strides, image, head),
                 a->v_strides.row, a->keys, a->value_size, count, 1, first > 0, a->precision, scratch);
        multiply(g, a->keys, 1, k, a->k_strides.row, 1,
                 j->q_gradient + at(a->q_strides, image, head) + first * a->q_strides.row, a->q_strides.row, count,
                 a->head_size, a->keys, a->scale, false, a->precision, scratch);
        multiply(g, 1, a->keys, q, a->q_strides.row, 1, j->k_gradient + at(a->k_strides, image, head), a->k_strides.row,
                 a->keys, a->head_size, count, a->scale, first > 0, a->precision, scratch);
        if (j->bias_gradient) {
            float *sum = j->bias_gradient + at(a->bias_strides, image, head) + first * a->bias_strides.row;
            for (int64_t i = 0; i < count; i++)
                for (int64_t c = 0; c < a->keys; c++) sum[i * a->bias_strides.row + c] += g[i * a->keys + c];
        }
    }
}

static void backward_task(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    backward_head(j, index / j->a->heads, index % j->a->heads);
}

/// All images and heads that share one table of biases, in order.
static void shared_bias_task(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const tk_attention *a = j->a;
    const int64_t images = a->bias_strides.batch == 0 ? a->batch : 1, heads = a->bias_strides.head == 0 ? a->heads : 1;
    const int64_t tables = a->bias_strides.head == 0 ? 1 : a->heads;
    const int64_t image0 = images > 1 ? 0 : index / tables, head0 = heads > 1 ? 0 : index % tables;
    for (int64_t image = image0; image < image0 + images; image++)
        for (int64_t head = head0; head < head0 + heads; head++) backward_head(j, image, head);
}

void tk_attention_backward(const tk_attention *a, const float *out_gradient, float *q_gradient, float *k_gradient,
                           float *v_gradient, float *bias_gradient) {
    job j = {a, out_gradient, q_gradient, k_gradient, v_gradient, bias_gradient};
    if (a->keys == 0 || a->queries == 0) return;
    if (!bias_gradient) {
        tk_parallel(a->batch * a->heads, backward_task, &j);
        return;
    }
    const int64_t images = a->bias_strides.batch == 0 ? 1 : a->batch, heads = a->bias_strides.head == 0 ? 1 : a->heads;
    for (int64_t image = 0; image < images; image++)
        for (int64_t head = 0; head < heads; head++)
            for (int64_t i = 0; i < a->queries; i++)
                memset(bias_gradient + at(a->bias_strides, image, head) + i * a->bias_strides.row, 0,
                       (size_t)a->keys * sizeof(float));
    tk_parallel(images * heads, shared_bias_task, &j);
}
