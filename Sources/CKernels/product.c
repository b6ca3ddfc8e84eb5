// Splits products over threads. Where sums are split depends on the shape alone, and so does every bit of the result.
#include "product.h"
#include "table.h"
#include <stdlib.h>
#include <string.h>

enum {
    ROW_STEP = 24,              // a multiple of the rows that kernels on vectors take at a time, at every level
    MOST_ROWS = 384,            // of a task
    TASKS_OF_THREAD = 16,       // enough of them for threads of unequal speed
    LEAST_COLUMNS = 192, MOST_COLUMNS = 768, SECOND_CACHE_FLOATS = 160 << 10,
    PACK_COLUMNS = TK_COLUMN_STEP,              // of a packing task
    MOST_SPLIT_RESULT = 256 << 10, MOST_SPLIT_ROWS = 192, MORE_SPLIT_ROWS = 384, LEAST_SPLIT_DEPTH = 384,
    SPLIT_TASKS = 16,           // of a product whose sums are split
};

typedef struct {
    float *memory;
    int64_t capacity;
} buffer;

static float *at_least(buffer *b, int64_t count) {
    enum { least = 512 << 10 };                 // one huge page
    if (count < least) count = least;
    if (count > b->capacity) {
        if (b->memory) tk_release(b->memory, b->capacity);
        b->memory = tk_allocate(count);
        b->capacity = count;
    }
    return b->memory;
}

float *tk_scratch(int64_t count) {
    static _Thread_local buffer own;
    return at_least(&own, count);
}

float *tk_shared_scratch(int64_t count) {
    static _Thread_local buffer shared;
    return at_least(&shared, count);
}

int64_t tk_block_scratch(const tk_block *block) {
    const int64_t others = TK_LEFT_SCRATCH + tk_partial_sums(block);
    if (block->packed_b) return others;
    return others + tk_products(block->precision)->packed_right_size(block->n, tk_k_block(block->k));
}

typedef struct {
    tk_block whole;
    int64_t rows, columns;              // of a task
    int64_t row_tasks, column_tasks;
    float *packed;
    int64_t a_batch, b_batch, c_batch, residual_batch;
    int64_t splits, split_depth;
    float *partial;                     // [splits][m][n]
    float *row_parts;                   // [splits][m]
} job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// What lies `count` numbers behind.
static void *behind(const void *numbers, bool is_rounded, int64_t count) {
    return (char *)numbers + tk_bytes(is_rounded, count);
}

static tk_operand shifted(tk_operand o, int64_t rows, int64_t columns) {
    if (o.patches) {
        o.first_row += rows;
        o.first_column += columns;
    } else {
        o.data = tk_element(&o, rows, columns);
    }
    return o;
}

/// Some columns of one k block of the right operand.
static void pack_task(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t n = j->whole.n, column_tasks = (n + PACK_COLUMNS - 1) / PACK_COLUMNS;
    const int64_t column = index % column_tasks * PACK_COLUMNS, columns = least(n - column, PACK_COLUMNS);
    const int64_t k_block = tk_k_block(j->whole.k), k = index / column_tasks * k_block;
    const int64_t ks = least(j->whole.k - k, k_block);
    const tk_operand b = shifted(j->whole.b, 0, column);
    const struct tk_products *kernels = tk_products(j->whole.precision);
    float *out = j->packed + kernels->packed_right_size(n, k) + kernels->packed_right_size(column, ks);
    kernels->pack_right(&b, columns, k, ks, j->whole.precision, out);
}

/// One block of rows and columns of one matrix of the batch, or of one part of its sums.
static void product_task(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    tk_block t = j->whole;
    // Rows change fastest: the tasks that a thread takes one after the other share their part of b in its caches.
    const int64_t row = index % j->row_tasks * j->rows;
    const int64_t column = index / j->row_tasks % j->column_tasks * j->columns;
    const int64_t matrix_or_split = index / j->row_tasks / j->column_tasks;
    const int64_t matrix = j->splits > 1 ? 0 : matrix_or_split, split = j->splits > 1 ? matrix_or_split : 0;
    const int64_t first_k = split * j->split_depth;
    t.m = least(t.m - row, j->rows);
    t.n = least(t.n - column, j->columns);
    t.k = least(t.k - first_k, j->split_depth);
    t.a = shifted(t.a, row, first_k);
    t.b = shifted(t.b, first_k, column);
    if (!t.a.patches) t.a.data = behind(t.a.data, t.a.is_rounded, matrix * j->a_batch);
    if (!t.b.patches) t.b.data = behind(t.b.data, t.b.is_rounded, matrix * j->b_batch);
    if (j->splits > 1) {
        t.c = j->partial + (split * j->whole.m + row) * j->whole.n + column;
        t.c_row = j->whole.n;
        t.accumulate = false;
    } else {
        const int64_t offset = matrix * j->c_batch + row * t.c_row + column;
        t.c = behind(t.c, t.c_is_rounded, offset);
        if (t.preactivation) t.preactivation += offset;
        if (t.rounded_preactivation) t.rounded_preactivation += offset;
    }
    if (t.row_sums) t.row_sums = column == 0 ? j->row_parts + split * j->whole.m + row : NULL;
    if (t.bias) t.bias += column;
    if (t.residual) t.residual += matrix * j->residual_batch + row * t.residual_row + column;
    t.packed_b = j->packed;
    t.packed_columns = j->whole.n;
    t.packed_first = column;
    tk_products(t.precision)->product_block(&t, tk_scratch(tk_block_scratch(&t)));
}

/// Adds the parts of some rows in the order of k.
static void sum_task(void *context, int64_t row, int worker) {
    (void)worker;
    const job *j = context;
    const tk_block *t = &j->whole;
    float *out = t->c + row * t->c_row;
    const float *parts = j->partial + row * t->n, *before = t->accumulate ? out : parts;
    for (int64_t s = t->accumulate ? 0 : 1; s < j->splits; s++, before = out)
        tk_kernels()->add_scaled(parts + s * t->m * t->n, 1, before, out, t->n);
}

static int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Adds up `parts` rows of `count` floats in their order.
static void add_parts(const float *parts, int64_t rows, int64_t count, float *sums) {
    memset(sums, 0, (size_t)count * sizeof(float));
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < count; i++) sums[i] += parts[row * count + i];
}

/// Divides the result into tasks: columns so that a k block of their part of b stays in the second cache, rows so that
/// there are enough tasks. That changes no bit of c, so it may depend on the number of threads. A small result of long
/// sums, such as a weight's gradient, is divided by ranges of k as well, which must not.
static void divide(job *j, int64_t batch) {
    const tk_block *t = &j->whole;
    int64_t columns = t->k > 0 ? SECOND_CACHE_FLOATS / tk_k_block(t->k) : MOST_COLUMNS;
    columns = columns < LEAST_COLUMNS ? LEAST_COLUMNS : least(columns, MOST_COLUMNS);
    j->columns = quotient_up(quotient_up(t->n, quotient_up(t->n, columns)), TK_COLUMN_STEP) * TK_COLUMN_STEP;
    j->column_tasks = quotient_up(t->n, j->columns);

    const bool splits = batch == 1 && !tk_has_epilogue(t) && !t->c_is_rounded && t->k >= 3 * LEAST_SPLIT_DEPTH
                     && t->m * t->n <= MOST_SPLIT_RESULT;
    int64_t row_tasks;
    if (splits) {
        // Every row task packs its part of b, which for codes is more work and for tiles more of it; patches are too
        // expensive for that.
        const bool packs_long = t->precision >= TK_INT16 || tk_uses_tiles(t->precision);
        const int64_t most = packs_long ? MORE_SPLIT_ROWS : MOST_SPLIT_ROWS;
        row_tasks = t->b.patches ? 1 : quotient_up(t->m, most);
    } else {
        row_tasks = quotient_up(TASKS_OF_THREAD * tk_thread_count(), batch * j->column_tasks);
        if (row_tasks * MOST_ROWS < t->m) row_tasks = quotient_up(t->m, MOST_ROWS);
    }
    const int64_t row_step = tk_uses_tiles(t->precision) ? 3 * TK_TILE_ROWS : ROW_STEP;
    j->rows = quotient_up(quotient_up(t->m, row_tasks), row_step) * row_step;
    j->row_tasks = quotient_up(t->m, j->rows);

    const int64_t wanted = quotient_up(SPLIT_TASKS, j->row_tasks * j->column_tasks);
    j->splits = splits ? least((wanted + 1) / 2 * 2, t->k / LEAST_SPLIT_DEPTH) : 1;
    j->split_depth = quotient_up(t->k, j->splits);
}

/// Whether the right operand is packed before, for all tasks.
static bool shares_packing(const job *j, int64_t batch) {
    return j->splits == 1 && (batch == 1 || j->b_batch == 0) && j->row_tasks * batch > 1 && j->whole.k > 0;
}

/// A product of `batch` pairs of matrices; the job's operands and batch strides are set.
static void run(job *j, int64_t batch) {
    const tk_block *t = &j->whole;
    if (t->m == 0 || t->n == 0 || batch == 0) return;
    divide(j, batch);
    const int64_t packed = shares_packing(j, batch) ? tk_products(t->precision)->packed_right_size(t->n, t->k) : 0;
    const int64_t partial = j->splits > 1 ? j->splits * t->m * t->n : 0;
    const int64_t row_parts = t->row_sums ? j->splits * t->m : 0;
    if (packed > 0) {
        j->packed = tk_allocate(packed);
        tk_parallel(quotient_up(t->k, tk_k_block(t->k)) * quotient_up(t->n, PACK_COLUMNS), pack_task, j);
    }
    if (partial > 0) j->partial = tk_allocate(partial);
    if (row_parts > 0) j->row_parts = tk_allocate_zeroed(row_parts);

    tk_parallel(batch * j->splits * j->row_tasks * j->column_tasks, product_task, j);

    if (partial > 0) tk_parallel(t->m, sum_task, j);
    if (t->row_sums) add_parts(j->row_parts, j->splits, t->m, t->row_sums);
    tk_release(j->packed, packed);
    tk_release(j->partial, partial);
    tk_release(j->row_parts, row_parts);
}

void tk_multiply(const tk_product *p) {
    job j = {
        .whole = {
            .m = p->m, .n = p->n, .k = p->k,
            .a = {.data = p->a, .row = p->a_row, .column = p->a_column, .is_rounded = p->a_is_rounded},
            .b = {.data = p->b, .row = p->b_row, .column = p->b_column, .is_rounded = p->b_is_rounded},
            .c = p->c, .c_row = p->c_row, .c_is_rounded = p->c_is_rounded, .alpha = p->alpha,
            .accumulate = p->accumulate, .bias = p->bias, .activation = p->activation, .preactivation = p->preactivation,
            .rounded_preactivation = p->rounded_preactivation, .residual = p->residual,
            .residual_row = p->residual_row, .row_sums = p->row_sums, .precision = p->precision,
        },
        .a_batch = p->a_batch, .b_batch = p->b_batch, .c_batch = p->c_batch, .residual_batch = p->residual_batch,
    };
    run(&j, p->batch);
}

void tk_multiply_block(const tk_block *block) {
    job j = {.whole = *block};
    run(&j, 1);
}
