// Short measurements of the machine's limits. The best of several tries: what disturbs only ever slows down.
#include "tk_peak.h"
#include "product.h"
#include "table.h"
#include "tk_memory.h"
#include "tk_parallel.h"
#include "tk_program.h"

enum { TRIES = 8, ROWS_OF_A = 96, COLUMNS_OF_B = 64, MORE_COLUMNS = 384, REPEATS = 100, READ_FLOATS = 4 << 20 };

/// Rows that are not float32 are rounded anew for each block: as many columns as hide that.
static int64_t columns_of_b(tk_precision precision) {
    return precision == TK_FLOAT32 ? COLUMNS_OF_B : MORE_COLUMNS;
}

typedef struct {
    tk_precision precision;
    const float *values;
    float *sums;                                // one a thread, so that nothing is optimised away
} job;

static void multiply_task(void *context, int64_t index, int worker) {
    (void)index;
    (void)worker;
    const job *j = context;
    const int64_t columns = columns_of_b(j->precision);
    tk_block t = {
        .m = ROWS_OF_A, .n = columns, .k = TK_K_BLOCK, .packed_columns = columns, .c_row = columns,
        .a = {.data = j->values, .row = TK_K_BLOCK, .column = 1}, .packed_b = j->values, .alpha = 1,
        .precision = j->precision,
    };
    const int64_t own = (tk_block_scratch(&t) + 15) / 16 * 16;
    float *scratch = tk_scratch(own + ROWS_OF_A * columns);
    t.c = scratch + own;
    for (int repeat = 0; repeat < REPEATS; repeat++) tk_products(t.precision)->product_block(&t, scratch);
}

static void read_task(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    j->sums[index] = tk_kernels()->run_sum(j->values + index * READ_FLOATS, READ_FLOATS);
}

/// The shortest time that all threads together take for `count` tasks.
static double shortest(int64_t count, tk_task task, job *j) {
    double best = 1e9;
    for (int attempt = 0; attempt < TRIES; attempt++) {
        const double start = tk_seconds();
        tk_parallel(count, task, j);
        const double seconds = tk_seconds() - start;
        if (seconds < best) best = seconds;
    }
    return best;
}

double tk_measure_multiply_adds(tk_precision precision) {
    const int64_t columns = columns_of_b(precision), left = ROWS_OF_A * TK_K_BLOCK, threads = tk_thread_count();
    const int64_t right = tk_products(precision)->packed_right_size(columns, TK_K_BLOCK);
    const int64_t count = left > right ? left : right;
    float *values = tk_allocate_zeroed(count);
    job j = {.precision = precision, .values = values};
    const double seconds = shortest(threads, multiply_task, &j);
    tk_release(values, count);
    return (double)(threads * REPEATS) * ROWS_OF_A * columns * TK_K_BLOCK / seconds;
}

double tk_measure_bandwidth(void) {
    const int64_t threads = tk_thread_count(), count = threads * READ_FLOATS;
    float *values = tk_allocate(count), sums[threads];
    for (int64_t i = 0; i < count; i++) values[i] = 1;
    job j = {.values = values, .sums = sums};
    const double seconds = shortest(threads, read_task, &j);
    tk_release(values, count);
    return (double)count * sizeof(float) / seconds;
}
