// Splits elementwise work into fixed pieces for all threads.
#include "table.h"
#include <math.h>
#include <string.h>

enum { PIECE = 1 << 14, PARTS = 64 };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

typedef struct {
    const float *x;
    float *y;
    const uint16_t *from;                       // bfloat16
    uint16_t *to;
    int64_t count;
    tk_activation activation;
} conversion_job;

static int64_t pieces(int64_t count) { return (count + PIECE - 1) / PIECE; }

static void activate_piece(void *context, int64_t piece, int worker) {
    (void)worker;
    const conversion_job *j = context;
    const int64_t start = piece * PIECE, count = least(PIECE, j->count - start);
    if (j->to) {
        tk_kernels()->activate_rounded_range(j->from + start, j->to + start, count, j->activation);
        return;
    }
    if (j->from) tk_kernels()->widen_range(j->from + start, j->y + start, count);
    tk_kernels()->activate_range(j->from ? j->y + start : j->x + start, j->y + start, count, j->activation);
}

void tk_activate(const float *x, float *y, int64_t count, tk_activation activation) {
    conversion_job j = {.x = x, .y = y, .count = count, .activation = activation};
    tk_parallel(pieces(count), activate_piece, &j);
}

void tk_activate_rounded(const uint16_t *x, float *y, bool y_is_rounded, int64_t count, tk_activation activation) {
    conversion_job j = {.from = x, .y = y, .to = y_is_rounded ? (uint16_t *)(void *)y : NULL, .count = count,
                        .activation = activation};
    tk_parallel(pieces(count), activate_piece, &j);
}

static void convert_piece(void *context, int64_t piece, int worker) {
    (void)worker;
    const conversion_job *j = context;
    const int64_t start = piece * PIECE, count = least(PIECE, j->count - start);
    if (j->to) tk_kernels()->halve_range(j->x + start, j->to + start, count);
    else tk_kernels()->widen_range(j->from + start, j->y + start, count);
}

void tk_halve(const float *x, uint16_t *y, int64_t count) {
    conversion_job j = {.x = x, .to = y, .count = count};
    tk_parallel(pieces(count), convert_piece, &j);
}

void tk_widen(const uint16_t *x, float *y, int64_t count) {
    conversion_job j = {.from = x, .y = y, .count = count};
    tk_parallel(pieces(count), convert_piece, &j);
}

/// Rows in at most PARTS parts; each part adds into its own row of sums, and the parts are added in order.
typedef struct {
    const void *y_gradient, *x;
    const float *weight, *mean, *inverse;
    void *x_gradient;
    bool y_gradient_is_rounded, x_is_rounded, x_gradient_is_rounded;        // bfloat16 numbers instead of floats
    float *weight_sums, *bias_sums;
    int64_t rows, columns, part_rows;
    tk_activation activation;
} row_job;

static int64_t part_rows(int64_t rows) {
    const int64_t size = (rows + PARTS - 1) / PARTS;
    return size < 16 ? 16 : size;
}

static void add_parts(const float *parts, int64_t count, int64_t columns, float *sum) {
    memset(sum, 0, (size_t)columns * sizeof(float));
    for (int64_t part = 0; part < count; part++) tk_kernels()->add_scaled(parts + part * columns, 1, sum, sum, columns);
}

/// `count` numbers from `first` on as floats, which are widened to `scratch` if they are bfloat16 numbers.
static const float *floats_at(const void *numbers, bool are_rounded, int64_t first, int64_t count, float *scratch) {
    if (!are_rounded) return (const float *)numbers + first;
    tk_kernels()->widen_range((const uint16_t *)numbers + first, scratch, count);
    return scratch;
}

static void activation_gradient_part(void *context, int64_t part, int worker) {
    (void)worker;
    const row_job *j = context;
    const int64_t first = part * j->part_rows, rows = least(j->part_rows, j->rows - first), at = first * j->columns;
    float *sums = j->bias_sums ? j->bias_sums + part * j->columns : NULL;
    const struct tk_table *kernels = tk_kernels();
    if (j->y_gradient_is_rounded && j->x_is_rounded && j->x_gradient_is_rounded) {
        kernels->rounded_activation_gradient_rows((const uint16_t *)j->y_gradient + at, (const uint16_t *)j->x + at,
                                                  j->activation, (uint16_t *)j->x_gradient + at, sums, rows,
                                                  j->columns);
        return;
    }
    float *g = tk_scratch(3 * j->columns), *x = g + j->columns, *result = x + j->columns;
    for (int64_t i = at; i < at + rows * j->columns; i += j->columns) {
        float *to = j->x_gradient_is_rounded ? result : (float *)j->x_gradient + i;
        kernels->activation_gradient_rows(floats_at(j->y_gradient, j->y_gradient_is_rounded, i, j->columns, g),
                                          floats_at(j->x, j->x_is_rounded, i, j->columns, x), j->activation, to, sums,
                                          1, j->columns);
        if (j->x_gradient_is_rounded) kernels->round_operand(to, (uint16_t *)j->x_gradient + i, j->columns);
    }
}

void tk_activation_backward(const float *y_gradient, bool y_gradient_is_rounded, const float *preactivation,
                            bool preactivation_is_rounded, tk_activation activation, float *x_gradient,
                            bool x_gradient_is_rounded, float *bias_gradient, int64_t rows, int64_t columns) {
    row_job j = {.y_gradient = y_gradient, .y_gradient_is_rounded = y_gradient_is_rounded, .x = preactivation,
                 .x_is_rounded = preactivation_is_rounded, .activation = activation, .x_gradient = x_gradient,
                 .x_gradient_is_rounded = x_gradient_is_rounded, .rows = rows, .columns = columns,
                 .part_rows = part_rows(rows)};
    const int64_t parts = (rows + j.part_rows - 1) / j.part_rows;
    if (bias_gradient) {
        j.bias_sums = tk_allocate(parts * columns + 1);
        memset(j.bias_sums, 0, (size_t)(parts * columns) * sizeof(float));
    }
    tk_parallel(parts, activation_gradient_part, &j);
    if (bias_gradient) {
        add_parts(j.bias_sums, parts, columns, bias_gradient);
        tk_release(j.bias_sums, parts * columns + 1);
    }
}

typedef struct {
    tk_binary operation;
    const float *a, *b;
    int64_t a_outer, a_inner, b_outer, b_inner;
    float *y;
    int64_t outer, inner, pieces, rows_a_task;
} binary_job;

static void binary_task(void *context, int64_t index, int worker) {
    (void)worker;
    const binary_job *j = context;
    const int64_t start = index % j->pieces * PIECE, first = index / j->pieces * j->rows_a_task;
    for (int64_t row = first; row < least(first + j->rows_a_task, j->outer); row++)
        tk_kernels()->binary_range(j->operation, j->a + row * j->a_outer + start * j->a_inner, j->a_inner,
                                   j->b + row * j->b_outer + start * j->b_inner, j->b_inner,
                                   j->y + row * j->inner + start, least(PIECE, j->inner - start));
}

void tk_binary_operation(tk_binary operation, const float *a, int64_t a_outer, int64_t a_inner, const float *b,
                         int64_t b_outer, int64_t b_inner, float *y, int64_t outer, int64_t inner) {
    if (outer == 0 || inner == 0) return;
    binary_job j = {operation, a, b, a_outer, a_inner, b_outer, b_inner, y, outer, inner, 0, 0};
    j.pieces = (inner + PIECE - 1) / PIECE;
    j.rows_a_task = inner >= PIECE ? 1 : PIECE / inner;
    tk_parallel(j.pieces * ((outer + j.rows_a_task - 1) / j.rows_a_task), binary_task, &j);
}

typedef struct {
    const float *x;
    float *y, *parts;
    int64_t outer, middle, inner, part_length, part_count, task_length;
    float scale;
} sum_job;

static void sum_part(void *context, int64_t index, int worker) {
    (void)worker;
    const sum_job *j = context;
    const int64_t part = index % j->part_count, outer = index / j->part_count;
    const int64_t first = part * j->part_length, count = least(j->part_length, j->middle - first);
    const float *x = j->x + (outer * j->middle + first) * j->inner;
    float *sum = j->parts + index * j->inner;
    if (j->inner == 1) *sum = tk_kernels()->run_sum(x, count);
    else tk_kernels()->column_sums(x, sum, count, j->inner);
}

/// Several short sums, straight to their places.
static void sum_whole(void *context, int64_t index, int worker) {
    const sum_job *j = context;
    sum_job part = *j;
    part.parts = j->y;
    for (int64_t o = index * j->task_length; o < least((index + 1) * j->task_length, j->outer); o++) {
        sum_part(&part, o, worker);
        for (int64_t i = o * j->inner; i < (o + 1) * j->inner; i++) j->y[i] *= j->scale;
    }
}

void tk_sum(const float *x, float *y, int64_t outer, int64_t middle, int64_t inner, float scale) {
    sum_job j = {.x = x, .y = y, .outer = outer, .middle = middle, .inner = inner, .scale = scale, .part_count = 1};
    const int64_t size = middle * inner;
    j.part_length = size >= 4 * PIECE ? (middle + PARTS - 1) / PARTS : middle;
    if (j.part_length == middle) {
        j.task_length = size >= PIECE ? 1 : PIECE / (size < 1 ? 1 : size);
        tk_parallel((outer + j.task_length - 1) / j.task_length, sum_whole, &j);
        return;
    }
    j.part_count = (middle + j.part_length - 1) / j.part_length;
    j.parts = tk_allocate(outer * j.part_count * inner);
    tk_parallel(outer * j.part_count, sum_part, &j);
    for (int64_t o = 0; o < outer; o++) {
        float *out = y + o * inner;
        memset(out, 0, (size_t)inner * sizeof(float));
        for (int64_t p = 0; p < j.part_count; p++)
            tk_kernels()->add_scaled(j.parts + (o * j.part_count + p) * inner, scale, out, out, inner);
    }
    tk_release(j.parts, outer * j.part_count * inner);
}

enum { ROWS_A_TASK = 16 };

typedef struct {
    const float *x;
    float *y;
    int64_t rows, columns;
    bool is_logarithm;
} softmax_job;

static void softmax_rows(void *context, int64_t index, int worker) {
    (void)worker;
    const softmax_job *j = context;
    for (int64_t r = index * ROWS_A_TASK; r < least((index + 1) * ROWS_A_TASK, j->rows); r++) {
        const float *x = j->x + r * j->columns;
        float *y = j->y + r * j->columns, log_sum_exp;
        memcpy(y, x, (size_t)j->columns * sizeof(float));
        tk_kernels()->softmax_in_place(y, j->columns, &log_sum_exp);
        if (j->is_logarithm) tk_kernels()->binary_range(TK_SUBTRACT, x, 1, &log_sum_exp, 0, y, j->columns);
    }
}

void tk_softmax(const float *x, float *y, int64_t rows, int64_t columns) {
    softmax_job j = {x, y, rows, columns, false};
    tk_parallel((rows + ROWS_A_TASK - 1) / ROWS_A_TASK, softmax_rows, &j);
}

void tk_log_softmax(const float *x, float *y, int64_t rows, int64_t columns) {
    softmax_job j = {x, y, rows, columns, true};
    tk_parallel((rows + ROWS_A_TASK - 1) / ROWS_A_TASK, softmax_rows, &j);
}

/// p = max(x / 2 - t, 0)^2 for the t at which they sum to one. The sum falls and is convex in t, and is at least one at
/// t = max(x) / 2 - 1, so Newton's steps from there approach t from below and never pass it.
static void entmax_rows(void *context, int64_t index, int worker) {
    (void)worker;
    const softmax_job *j = context;
    for (int64_t r = index * ROWS_A_TASK; r < least((index + 1) * ROWS_A_TASK, j->rows); r++) {
        const float *x = j->x + r * j->columns;
        float *y = j->y + r * j->columns, largest = x[0];
        for (int64_t i = 1; i < j->columns; i++) largest = x[i] > largest ? x[i] : largest;
        // Relative to the largest, so that large values keep their digits.
        double t = -1;
        for (int step = 0; step < 50; step++) {
            double sum = 0, squares = 0;
            for (int64_t i = 0; i < j->columns; i++) {
                const double part = 0.5 * ((double)x[i] - largest) - t;
                if (part > 0) sum += part, squares += part * part;
            }
            const double correction = (squares - 1) / (2 * sum);
            // Not a number if x is none: then neither is y.
            if (!(correction > 1e-12)) break;
            t += correction;
        }
        double total = 0;
        for (int64_t i = 0; i < j->columns; i++) {
            const double part = 0.5 * ((double)x[i] - largest) - t;
            y[i] = part > 0 ? (float)(part * part) : part <= 0 ? 0 : (float)part;
            total += y[i];
        }
        for (int64_t i = 0; i < j->columns; i++) y[i] = (float)(y[i] / total);
    }
}

void tk_entmax(const float *x, float *y, int64_t rows, int64_t columns) {
    softmax_job j = {x, y, rows, columns, false};
    tk_parallel((rows + ROWS_A_TASK - 1) / ROWS_A_TASK, entmax_rows, &j);
}

typedef struct {
    tk_unary function;
    const float *x;
    float *y;
    int64_t count;
} unary_job;

static void unary_piece(void *context, int64_t piece, int worker) {
    (void)worker;
    const unary_job *j = context;
    const int64_t start = piece * PIECE;
    tk_kernels()->unary_range(j->function, j->x + start, j->y + start, least(PIECE, j->count - start));
}

void tk_unary_function(tk_unary function, const float *x, float *y, int64_t count) {
    unary_job j = {function, x, y, count};
    tk_parallel((count + PIECE - 1) / PIECE, unary_piece, &j);
}

typedef struct {
    const float *x, *weight, *bias;
    float epsilon, *y, *mean, *inverse;
    bool y_is_rounded;
    int64_t rows, columns;
} norm_job;

static void layer_norm_rows(void *context, int64_t index, int worker) {
    (void)worker;
    const norm_job *j = context;
    const int64_t first = index * ROWS_A_TASK, rows = least(ROWS_A_TASK, j->rows - first), n = j->columns;
    const float *x = j->x + first * n;
    float *mean = j->mean ? j->mean + first : NULL, *inverse = j->inverse ? j->inverse + first : NULL;
    if (j->y_is_rounded)
        tk_kernels()->rounded_layer_norm_rows(x, n, rows, j->weight, j->bias, j->epsilon,
                                              (uint16_t *)(void *)j->y + first * n, n, mean, inverse, n);
    else
        tk_kernels()->layer_norm_rows(x, n, rows, j->weight, j->bias, j->epsilon, j->y + first * n, n, mean, inverse, n);
}

void tk_layer_norm(const float *x, const float *weight, const float *bias, float epsilon, float *y, bool y_is_rounded,
                   float *mean, float *inverse, int64_t rows, int64_t columns) {
    norm_job j = {x, weight, bias, epsilon, y, mean, inverse, y_is_rounded, rows, columns};
    tk_parallel((rows + ROWS_A_TASK - 1) / ROWS_A_TASK, layer_norm_rows, &j);
}

static void layer_norm_gradient_part(void *context, int64_t part, int worker) {
    (void)worker;
    const row_job *j = context;
    const int64_t n = j->columns, first = part * j->part_rows;
    const void *g = (const char *)j->y_gradient + tk_bytes(j->y_gradient_is_rounded, first * n);
    float *x_gradient = j->x_gradient;
    tk_kernels()->layer_norm_gradient_rows(g, j->y_gradient_is_rounded, (const float *)j->x + first * n,
                                           least(j->part_rows, j->rows - first), j->weight, j->mean + first,
                                           j->inverse + first, x_gradient ? x_gradient + first * n : NULL,
                                           j->weight_sums ? j->weight_sums + part * n : NULL,
                                           j->bias_sums ? j->bias_sums + part * n : NULL, n);
}

void tk_layer_norm_backward(const float *y_gradient, bool y_gradient_is_rounded, const float *x, const float *weight,
                            const float *mean, const float *inverse, float *x_gradient, float *weight_gradient,
                            float *bias_gradient, int64_t rows, int64_t columns) {
    row_job j = {.y_gradient = y_gradient, .y_gradient_is_rounded = y_gradient_is_rounded, .x = x, .weight = weight,
                 .mean = mean, .inverse = inverse, .x_gradient = x_gradient, .rows = rows, .columns = columns,
                 .part_rows = part_rows(rows)};
    const int64_t parts = (rows + j.part_rows - 1) / j.part_rows, size = parts * columns + 1;
    if (weight_gradient) j.weight_sums = memset(tk_allocate(size), 0, (size_t)size * sizeof(float));
    if (bias_gradient) j.bias_sums = memset(tk_allocate(size), 0, (size_t)size * sizeof(float));
    tk_parallel(parts, layer_norm_gradient_part, &j);
    if (weight_gradient) add_parts(j.weight_sums, parts, columns, weight_gradient);
    if (bias_gradient) add_parts(j.bias_sums, parts, columns, bias_gradient);
    if (weight_gradient) tk_release(j.weight_sums, size);
    if (bias_gradient) tk_release(j.bias_sums, size);
}

typedef struct {
    const float *x;
    float *y;
    int64_t count;
    float exponent;
} range_job;

static void accumulate_piece(void *context, int64_t piece, int worker) {
    (void)worker;
    const range_job *j = context;
    const int64_t start = piece * PIECE;
    tk_kernels()->add_scaled(j->x + start, 1, j->y + start, j->y + start, least(PIECE, j->count - start));
}

void tk_accumulate(float *y, const float *x, int64_t count) {
    range_job j = {.x = x, .y = y, .count = count};
    tk_parallel((count + PIECE - 1) / PIECE, accumulate_piece, &j);
}

static void power_piece(void *context, int64_t piece, int worker) {
    (void)worker;
    const range_job *j = context;
    const int64_t start = piece * PIECE;
    tk_kernels()->power_range(j->x + start, j->exponent, j->y + start, least(PIECE, j->count - start));
}

void tk_power(const float *x, float exponent, float *y, int64_t count) {
    range_job j = {.x = x, .y = y, .count = count, .exponent = exponent};
    tk_parallel((count + PIECE - 1) / PIECE, power_piece, &j);
}
