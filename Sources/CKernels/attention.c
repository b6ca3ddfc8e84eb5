// Attention, one image and head at a time, in blocks of queries whose scores stay in the second cache.
#include "product.h"
#include "table.h"
#include <math.h>
#include <string.h>

enum {
    MOST_QUERIES = 96, MOST_SCORES = 96 << 10,  // of a block
    QUERY_STEP = 12,            // rows that products on vectors take at a time
    ENOUGH_HEADS = 16,          // images times heads; fewer that threads cannot share evenly are divided by queries
};

typedef struct {
    const tk_attention *a;
    int64_t block;              // queries of a block
    tk_operand out_gradient;
    float *q_gradient, *k_gradient, *v_gradient, *bias_gradient;
    bool are_rounded;           // the first three
} job;

/// One head of one image, with right operands that its products share.
typedef struct {
    const tk_attention *a;
    int64_t image, head, first, count;          // the current block of queries
    int64_t columns;                            // of its scores
    const float *keys, *values, *transposed_keys, *transposed_values;   // packed
    float *scratch;             // of products
    float *result;              // of a block, before it is rounded
} view;

static int64_t at(tk_strides s, int64_t image, int64_t head) { return image * s.batch + head * s.head; }

static int64_t query_step(const tk_attention *a) { return tk_uses_tiles(a->precision) ? TK_TILE_ROWS : QUERY_STEP; }

/// Blocks of equal size whose scores stay in the second cache.
static int64_t query_block(const tk_attention *a) {
    const int64_t step = query_step(a);
    int64_t most = MOST_SCORES / a->keys / step * step;
    most = most < step ? step : most < MOST_QUERIES ? most : MOST_QUERIES;
    const int64_t blocks = (a->queries + most - 1) / most;
    return ((a->queries + blocks - 1) / blocks + step - 1) / step * step;
}

/// Columns of a block of scores: keys and then padding up to whole vectors, which packed operands have too. So products
/// and kernels of rows have no partial vectors.
static int64_t score_columns(const tk_attention *a) {
    const int64_t line = (a->keys + 15) / 16 * 16, packed = tk_products(TK_FLOAT32)->packed_right_size(a->keys, 1);
    return line < packed ? line : packed;
}

/// A product whose right operand is `packed`, or packed on the fly from `b` (then `packed` is NULL).
static tk_block product(const tk_attention *a, int64_t m, int64_t n, int64_t k, const float *packed) {
    return (tk_block){
        .m = m, .n = n, .k = k, .packed_b = packed, .packed_columns = n, .alpha = 1, .precision = a->precision,
    };
}

static tk_operand by_rows(const float *data, int64_t row) {
    return (tk_operand){.data = data, .row = row, .column = 1};
}

static tk_operand by_columns(const float *data, int64_t column) {
    return (tk_operand){.data = data, .row = 1, .column = column};
}

/// The operand from `first` numbers behind its beginning on, perhaps of bfloat16.
static tk_operand from(tk_operand o, bool is_rounded, int64_t first) {
    o.is_rounded = is_rounded;
    o.data = (const float *)(const void *)((const char *)o.data + tk_bytes(is_rounded, first));
    return o;
}

static int64_t packed_size(const tk_attention *a, int64_t k, int64_t n) {
    return tk_products(a->precision)->packed_right_size(n, k);
}

/// Packs a k x n operand to *next, which moves on behind it.
static const float *pack(const tk_attention *a, tk_operand b, int64_t k, int64_t n, float **next) {
    float *packed = *next;
    const int64_t k_block = tk_k_block(k);
    for (int64_t first = 0; first < k; first += k_block) {
        const int64_t ks = k - first < k_block ? k - first : k_block;
        tk_products(a->precision)->pack_right(&b, n, first, ks, a->precision, packed + packed_size(a, first, n));
    }
    *next += (packed_size(a, k, n) + 15) / 16 * 16;
    return packed;
}

/// Floats of what pack_keys packs, and of that and what pack_values does.
static int64_t packed_keys(const tk_attention *a) { return (packed_size(a, a->head_size, a->keys) + 15) / 16 * 16; }

static int64_t packed_head(const tk_attention *a) {
    return packed_keys(a) + (packed_size(a, a->keys, a->value_size) + 15) / 16 * 16;
}

/// Scratch of products that pack their right operand themselves: queries or gradients of the output.
static int64_t product_scratch(const tk_attention *a) {
    tk_block t = {.n = a->head_size > a->value_size ? a->head_size : a->value_size, .k = TK_K_BLOCK,
                  .precision = a->precision};
    return tk_block_scratch(&t);
}

/// Floats of a block's scores and of its result, where that is to be rounded.
static int64_t block_floats(const tk_attention *a, int64_t block) {
    const int64_t count = block * (score_columns(a) + (a->out_is_rounded ? a->value_size : 0));
    return (count + 15) / 16 * 16;
}

/// Scores of the current queries without scale and bias: q k^T; what stands in the padding is undefined.
static void scores(const view *v, float *s) {
    const tk_attention *a = v->a;
    tk_block t = product(a, v->count, v->columns, a->head_size, v->transposed_keys);
    t.a = from(by_rows(a->q, a->q_strides.row), a->q_is_rounded,
               at(a->q_strides, v->image, v->head) + v->first * a->q_strides.row);
    t.c = s;
    t.c_row = v->columns;
    tk_products(a->precision)->product_block(&t, v->scratch);
}

/// The bias of a query, or NULL.
static const float *bias_row(const view *v, int64_t query) {
    const tk_attention *a = v->a;
    return a->bias ? a->bias + at(a->bias_strides, v->image, v->head) + query * a->bias_strides.row : NULL;
}

static uint64_t mask_seed(const tk_attention *a, int64_t image, int64_t head, int64_t query) {
    uint64_t z = a->seed + (uint64_t)((image * a->heads + head) * a->queries + query + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    return z ^ z >> 27;
}

/// A row for each query, of floats or of bfloat16 numbers in their place.
static tk_operand rows_of_scores(const view *v, const float *s, bool are_rounded) {
    tk_operand rows = by_rows(s, are_rounded ? 2 * v->columns : v->columns);
    rows.is_rounded = are_rounded;
    rows.ends_in_zeros = 2 * v->columns >= (v->a->keys + 31) / 32 * 32;
    return rows;
}

static void forward_block(const view *v, float *s) {
    const tk_attention *a = v->a;
    const bool rounds = a->precision == TK_BFLOAT16;        // then weights are rounded as they are computed
    scores(v, s);
    float sums[MOST_QUERIES];
    for (int64_t i = 0; i < v->count; i++) {
        float *row = s + i * v->columns;
        const int64_t query = v->first + i;
        const float *bias = bias_row(v, query);
        const float top = rounds
            ? tk_kernels()->rounded_numerators(row, a->scale, bias, a->keys, v->columns, &sums[i])
            : tk_kernels()->softmax_numerators(row, a->scale, bias, a->keys, v->columns, &sums[i]);
        if (a->log_sum_exp)
            a->log_sum_exp[(v->image * a->heads + v->head) * a->queries + query] = top + logf(sums[i]);
        if (a->dropout > 0) {
            tk_kernels()->masked(row, rounds, a->keys, a->dropout, 1, mask_seed(a, v->image, v->head, query));
            sums[i] *= 1 - a->dropout;
        }
    }
    tk_block t = product(a, v->count, a->value_size, a->keys, v->values);
    t.a = rows_of_scores(v, s, rounds);
    const int64_t place = at(a->out_strides, v->image, v->head) + v->first * a->out_strides.row;
    t.c = a->out_is_rounded ? v->result : a->out + place;
    t.c_row = a->out_is_rounded ? a->value_size : a->out_strides.row;
    tk_products(a->precision)->product_block(&t, v->scratch);
    // Dividing the result by the sums, not the weights: there are fewer channels than keys.
    void *out = (char *)a->out + tk_bytes(a->out_is_rounded, place);
    tk_kernels()->divide_rows(t.c, t.c_row, v->count, a->value_size, sums, out, a->out_is_rounded, a->out_strides.row);
}

static const float *pack_keys(const tk_attention *a, int64_t image, int64_t head, float **next) {
    const tk_operand keys = from(by_columns(a->k, a->k_strides.row), a->k_is_rounded, at(a->k_strides, image, head));
    return pack(a, keys, a->head_size, a->keys, next);
}

static const float *pack_values(const tk_attention *a, int64_t image, int64_t head, float **next) {
    const tk_operand values = from(by_rows(a->v, a->v_strides.row), a->v_is_rounded, at(a->v_strides, image, head));
    return pack(a, values, a->keys, a->value_size, next);
}

void tk_attention_heads(const tk_attention *a, int64_t first, int64_t count) {
    if (a->keys == 0 || a->queries == 0) return;
    const int64_t block = query_block(a);
    for (int64_t i = first; i < first + count; i++) {
        view v = {.a = a, .image = i / a->heads, .head = i % a->heads, .columns = score_columns(a)};
        float *s = tk_scratch(block_floats(a, block) + packed_head(a) + product_scratch(a));
        v.result = s + block * v.columns;
        float *next = s + block_floats(a, block);
        v.transposed_keys = pack_keys(a, v.image, v.head, &next);
        v.values = pack_values(a, v.image, v.head, &next);
        v.scratch = next;
        for (v.first = 0; v.first < a->queries; v.first += block) {
            v.count = a->queries - v.first < block ? a->queries - v.first : block;
            forward_block(&v, s);
        }
    }
}

static void head_task(void *context, int64_t index, int worker) {
    (void)worker;
    tk_attention_heads(context, index, 1);
}

/// Few heads for many threads: their keys and values are packed first, then blocks of queries are tasks of their own.
typedef struct {
    const tk_attention *a;
    int64_t block;
    float *packed;              // of each head
} shared_job;

static void pack_task(void *context, int64_t index, int worker) {
    (void)worker;
    const shared_job *j = context;
    const int64_t image = index / 2 / j->a->heads, head = index / 2 % j->a->heads;
    float *next = j->packed + index / 2 * packed_head(j->a);
    if (index % 2 == 0) {
        pack_keys(j->a, image, head, &next);
    } else {
        next += packed_keys(j->a);
        pack_values(j->a, image, head, &next);
    }
}

static void block_task(void *context, int64_t index, int worker) {
    (void)worker;
    const shared_job *j = context;
    const tk_attention *a = j->a;
    const int64_t blocks = (a->queries + j->block - 1) / j->block, head = index / blocks;
    view v = {
        .a = a, .image = head / a->heads, .head = head % a->heads, .first = index % blocks * j->block,
        .columns = score_columns(a), .transposed_keys = j->packed + head * packed_head(a),
    };
    v.count = a->queries - v.first < j->block ? a->queries - v.first : j->block;
    v.values = v.transposed_keys + packed_keys(a);
    float *s = tk_scratch(block_floats(a, j->block) + product_scratch(a));
    v.result = s + j->block * v.columns;
    v.scratch = s + block_floats(a, j->block);
    forward_block(&v, s);
}

void tk_attention_forward(const tk_attention *a) {
    if (a->keys == 0 || a->queries == 0) return;
    const int64_t heads = a->batch * a->heads;
    if (heads >= ENOUGH_HEADS || heads % tk_thread_count() == 0) {
        tk_parallel(heads, head_task, (void *)a);
        return;
    }
    const int64_t step = query_step(a), half = (query_block(a) / 2 + step - 1) / step * step;
    shared_job j = {a, half, tk_shared_scratch(heads * packed_head(a))};
    tk_parallel(2 * heads, pack_task, &j);
    tk_parallel(heads * ((a->queries + half - 1) / half), block_task, &j);
}

/// The gradient of the output of the current queries.
static tk_operand out_gradient_of(const job *j, const view *v) {
    const tk_strides s = j->a->out_strides;
    return from(j->out_gradient, j->out_gradient.is_rounded, at(s, v->image, v->head) + v->first * s.row);
}

/// Whether weights and gradients of scores are read by products alone.
static bool rounds_scores(const job *j) { return j->a->precision == TK_BFLOAT16 && !j->bias_gradient; }

/// p and g become the weights after dropout, times 1 - rate, and the gradient of the scores, of the current queries.
static void weights_and_gradient(const job *j, const view *v, float *p, float *g) {
    const tk_attention *a = v->a;
    scores(v, p);
    tk_block t = product(a, v->count, v->columns, a->value_size, v->transposed_values);
    t.a = out_gradient_of(j, v);
    t.c = g;
    t.c_row = v->columns;
    tk_products(a->precision)->product_block(&t, v->scratch);
    for (int64_t i = 0; i < v->count; i++) {
        const int64_t row = i * v->columns, query = v->first + i;
        const float offset = a->log_sum_exp[(v->image * a->heads + v->head) * a->queries + query];
        const uint64_t seed = mask_seed(a, v->image, v->head, query);
        const bool rounds = rounds_scores(j);
        if (a->dropout > 0)
            tk_kernels()->masked(g + row, false, a->keys, a->dropout, 1 / (1 - a->dropout), seed);
        tk_kernels()->attention_gradient(p + row, g + row, rounds, a->scale, bias_row(v, query), a->keys, v->columns,
                                         offset);
        if (a->dropout > 0) tk_kernels()->masked(p + row, rounds, a->keys, a->dropout, 1, seed);
    }
}

/// A gradient of some tokens in the place where it is summed up.
typedef struct {
    float *sums;
    int64_t row;
} token_sums;

/// c (+)= alpha * s^T b, with s by rows: sums over the current queries, for each key.
static void sum_over_queries(const view *v, tk_operand s, tk_operand b, int64_t n, float alpha, token_sums c) {
    tk_block t = product(v->a, v->a->keys, n, v->count, NULL);
    t.a = s;
    t.a.row = 1;
    t.a.column = s.row;
    t.b = b;
    t.c = c.sums;
    t.c_row = c.row;
    t.alpha = alpha;
    t.accumulate = v->first > 0;
    tk_products(t.precision)->product_block(&t, v->scratch);
}

/// Sums of all keys to where bfloat16 numbers are wanted.
static void round_sums(const tk_attention *a, token_sums sums, float *gradient, int64_t first, int64_t row) {
    uint16_t *to = (uint16_t *)(void *)gradient + first;
    tk_kernels()->divide_rows(sums.sums, sums.row, a->keys, sums.row, NULL, to, true, row);
}

/// Gradients of one image and head: query blocks in order, so that sums over queries have one order.
static void backward_head(const job *j, int64_t image, int64_t head) {
    const tk_attention *a = j->a;
    view v = {.a = a, .image = image, .head = head, .columns = score_columns(a)};
    const int64_t block = j->block * v.columns;
    const int64_t key_sums = j->are_rounded ? a->keys * a->head_size : 0;
    const int64_t value_sums = j->are_rounded ? a->keys * a->value_size : 0;
    float *p = tk_scratch(2 * block + packed_size(a, a->head_size, a->keys) + packed_size(a, a->value_size, a->keys)
                          + packed_size(a, a->keys, a->head_size) + product_scratch(a) + 48 + key_sums + value_sums
                          + j->block * a->head_size);
    float *g = p + block, *next = g + block;
    const int64_t key_at = at(a->k_strides, image, head), value_at = at(a->v_strides, image, head);
    const tk_operand keys = from(by_rows(a->k, a->k_strides.row), a->k_is_rounded, key_at);
    const tk_operand values = from(by_columns(a->v, a->v_strides.row), a->v_is_rounded, value_at);
    v.transposed_keys = pack_keys(a, image, head, &next);
    v.transposed_values = pack(a, values, a->value_size, a->keys, &next);
    v.keys = pack(a, keys, a->keys, a->head_size, &next);
    token_sums k_gradient = {next, a->head_size}, v_gradient = {next + key_sums, a->value_size};
    if (!j->are_rounded) {
        k_gradient = (token_sums){j->k_gradient + key_at, a->k_strides.row};
        v_gradient = (token_sums){j->v_gradient + value_at, a->v_strides.row};
    }
    v.scratch = next + key_sums + value_sums;
    for (v.first = 0; v.first < a->queries; v.first += j->block) {
        v.count = a->queries - v.first < j->block ? a->queries - v.first : j->block;
        weights_and_gradient(j, &v, p, g);
        const int64_t query_at = at(a->q_strides, image, head) + v.first * a->q_strides.row;
        tk_block t = product(a, v.count, a->head_size, a->keys, v.keys);
        t.a = rows_of_scores(&v, g, rounds_scores(j));
        t.c = (float *)((char *)j->q_gradient + tk_bytes(j->are_rounded, query_at));
        t.c_row = a->q_strides.row;
        t.c_is_rounded = j->are_rounded;
        t.alpha = a->scale;
        tk_products(a->precision)->product_block(&t, v.scratch);
        const tk_operand queries = from(by_rows(a->q, a->q_strides.row), a->q_is_rounded, query_at);
        const tk_operand weights = rows_of_scores(&v, p, rounds_scores(j));
        sum_over_queries(&v, t.a, queries, a->head_size, a->scale, k_gradient);
        sum_over_queries(&v, weights, out_gradient_of(j, &v), a->value_size, 1 / (1 - a->dropout), v_gradient);
        if (!j->bias_gradient) continue;
        float *sum = j->bias_gradient + at(a->bias_strides, image, head) + v.first * a->bias_strides.row;
        for (int64_t i = 0; i < v.count; i++)
            for (int64_t c = 0; c < a->keys; c++) sum[i * a->bias_strides.row + c] += g[i * v.columns + c];
    }
    if (!j->are_rounded) return;
    round_sums(a, k_gradient, j->k_gradient, key_at, a->k_strides.row);
    round_sums(a, v_gradient, j->v_gradient, value_at, a->v_strides.row);
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

void tk_attention_backward(const tk_attention *a, const float *out_gradient, bool out_gradient_is_rounded,
                           float *q_gradient, float *k_gradient, float *v_gradient, bool gradients_are_rounded,
                           float *bias_gradient) {
    if (a->keys == 0 || a->queries == 0) return;
    job j = {a, query_block(a), by_rows(out_gradient, a->out_strides.row), q_gradient, k_gradient, v_gradient,
             bias_gradient, gradients_are_rounded};
    j.out_gradient.is_rounded = out_gradient_is_rounded;
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
