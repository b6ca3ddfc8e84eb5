// Splits products over threads. The split depends on the shape alone, and so does every bit of the result.
#include "product.h"
#include "table.h"
#include <stdlib.h>
#include <string.h>

enum { TASK_ROWS = 192, TASK_COLUMNS = 512, SPLIT_DEPTH = 2048, MOST_SPLITS = 32, PACK_ROWS = 256 };

float *tk_scratch(int64_t count) {
    static _Thread_local float *memory;
    static _Thread_local int64_t capacity;
    if (count > capacity) {
        if (memory) tk_release(memory, capacity);
        memory = tk_allocate(count);
        capacity = count;
    }
    return memory;
}

int64_t tk_block_scratch(const tk_block *block) {
    const int64_t left = 128 * 256;
    return left + (block->packed_b ? 0 : tk_kernels()->packed_right_size(block->n, 256));
}

typedef struct {
    tk_block whole;
    int64_t rows, columns;              // of a task
    int64_t row_tasks, column_tasks;
    float *packed;
    int64_t a_batch, b_batch, c_batch, residual_batch;
    int64_t splits, split_depth;
    float *partial;                     // [splits][m][n]
} job;

static tk_operand shifted(tk_operand o, int64_t rows, int64_t columns) {
    if (o.patches) {
        o.first_row += rows;
        o.first_column += columns;
    } else {
        o.data += rows * o.row + columns * o.column;
    }
    return o;
}

static void pack_task(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t first = index * PACK_ROWS;
    const int64_t ks = j->whole.k - first < PACK_ROWS ? j->whole.k - first : PACK_ROWS;
    float *out = j->packed + tk_kernels()->packed_right_size(j->whole.n, 1) * first;
    tk_kernels()->pack_right(&j->whole.b, j->whole.n, first, ks, j->whole.precision, out);
}

/// One block of rows and columns of one matrix of the batch.
static void product_task(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    tk_block t = j->whole;
    const int64_t column = index % j->column_tasks * j->columns;
    const int64_t row = index / j->column_tasks % j->row_tasks * j->rows;
    const int64_t matrix = index / j->column_tasks / j->row_tasks;
    t.m = t.m - row < j->rows ? t.m - row : j->rows;
    t.n = t.n - column < j->columns ? t.n - column : j->columns;
    t.a = shifted(t.a, row, 0);
    t.b = shifted(t.b, 0, column);
    if (!t.a.patches) t.a.data += matrix * j->a_batch;
    if (!t.b.patches) t.b.data += matrix * j->b_batch;
    const int64_t offset = matrix * j->c_batch + row * t.c_row + column;
    t.c += offset;
    if (t.preactivation) t.preactivation += offset;
    if (t.bias) t.bias += column;
    if (t.residual) t.residual += matrix * j->residual_batch + row * t.residual_row + column;
    t.packed_b = j->packed;
    tk_kernels()->product_block(&t, tk_scratch(tk_block_scratch(&t)));
}

/// One range of k, over all rows and columns.
static void split_task(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    tk_block t = j->whole;
    const int64_t first = index * j->split_depth;
    t.k = t.k - first < j->split_depth ? t.k - first : j->split_depth;
    t.a = shifted(t.a, 0, first);
    t.b = shifted(t.b, first, 0);
    t.c = j->partial + index * t.m * t.n;
    t.c_row = t.n;
    t.accumulate = false;
    tk_kernels()->product_block(&t, tk_scratch(tk_block_scratch(&t)));
}

/// Adds the parts of some rows in the order of k.
static void sum_task(void *context, int64_t row, int worker) {
    (void)worker;
    const job *j = context;
    const tk_block *t = &j->whole;
    float *out = t->c + row * t->c_row;
    for (int64_t s = 0; s < j->splits; s++) {
        const float *part = j->partial + (s * t->m + row) * t->n;
        if (s == 0 && !t->accumulate) memcpy(out, part, (size_t)t->n * sizeof(float));
        else for (int64_t i = 0; i < t->n; i++) out[i] += part[i];
    }
}

static bool has_epilogue(const tk_block *t) {
    return t->bias || t->activation != TK_IDENTITY || t->residual || t->preactivation;
}

/// A product of `batch` pairs of matrices; the job's operands and batch strides are set.
static void run(job *j, int64_t batch) {
    tk_block *t = &j->whole;
    if (t->m == 0 || t->n == 0 || batch == 0) return;
    j->rows = TASK_ROWS;
    j->columns = t->n;
    // Few rows: divide the columns instead, so that all threads have something to do.
    if (t->m < 4 * TASK_ROWS && t->n >= 2 * TASK_COLUMNS) j->columns = TASK_COLUMNS;
    if (batch == 1 && t->m <= 4 * TASK_ROWS && t->m >= 24) j->rows = (t->m + 95) / 96 * 24;
    j->row_tasks = (t->m + j->rows - 1) / j->rows;
    j->column_tasks = (t->n + j->columns - 1) / j->columns;
    if (batch == 1 && !has_epilogue(t) && t->k >= 2 * SPLIT_DEPTH && t->m * t->n <= 1 << 21) {
        j->splits = t->k / SPLIT_DEPTH < MOST_SPLITS ? t->k / SPLIT_DEPTH : MOST_SPLITS;
        j->split_depth = (t->k + j->splits - 1) / j->splits;
        j->splits = (t->k + j->split_depth - 1) / j->split_depth;
        j->partial = tk_allocate(j->splits * t->m * t->n);
        tk_parallel(j->splits, split_task, j);
        tk_parallel(t->m, sum_task, j);
        tk_release(j->partial, j->splits * t->m * t->n);
        return;
    }
    int64_t packed = 0;
    if (batch == 1 && j->column_tasks == 1 && j->row_tasks > 1) {
        packed = tk_kernels()->packed_right_size(t->n, t->k);
        j->packed = tk_allocate(packed > 0 ? packed : 1);
        tk_parallel((t->k + PACK_ROWS - 1) / PACK_ROWS, pack_task, j);
    }
    tk_parallel(batch * j->row_tasks * j->column_tasks, product_task, j);
    if (j->packed) tk_release(j->packed, packed > 0 ? packed : 1);
}

void tk_multiply(const tk_product *p) {
    job j = {
        .whole = {
            .m = p->m, .n = p->n, .k = p->k,
            .a = {.data = p->a, .row = p->a_row, .column = p->a_column},
            .b = {.data = p->b, .row = p->b_row, .column = p->b_column},
            .c = p->c, .c_row = p->c_row, .alpha = p->alpha, .accumulate = p->accumulate, .bias = p->bias,
            .activation = p->activation, .preactivation = p->preactivation, .residual = p->residual,
            .residual_row = p->residual_row, .precision = p->precision,
        },
        .a_batch = p->a_batch, .b_batch = p->b_batch, .c_batch = p->c_batch, .residual_batch = p->residual_batch,
    };
    run(&j, p->batch);
}

void tk_multiply_block(const tk_block *block) {
    job j = {.whole = *block};
    run(&j, 1);
}
