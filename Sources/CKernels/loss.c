// Losses and random masks.
#include "table.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    const float *logits, *targets;
    float *losses, *probabilities;
    int64_t rows, classes;
    float scale;
} job;

enum { ROWS = 32, BLOCK = 1 << 14 };

static int64_t row_blocks(int64_t rows) { return (rows + ROWS - 1) / ROWS; }

static void forward_rows(void *context, int64_t block, int worker) {
    (void)worker;
    const job *j = context;
    float *scratch = j->probabilities ? NULL : tk_allocate(j->classes);
    const int64_t end = (block + 1) * ROWS < j->rows ? (block + 1) * ROWS : j->rows;
    for (int64_t r = block * ROWS; r < end; r++) {
        const float *logits = j->logits + r * j->classes, *targets = j->targets + r * j->classes;
        float log_sum_exp, loss = 0;
        float *probabilities = scratch ? scratch : j->probabilities + r * j->classes;
        memcpy(probabilities, logits, (size_t)j->classes * sizeof(float));
        tk_kernels()->softmax_in_place(probabilities, j->classes, &log_sum_exp);
        for (int64_t c = 0; c < j->classes; c++) loss += targets[c] * (log_sum_exp - logits[c]);
        j->losses[r] = loss;
    }
    if (scratch) tk_release(scratch, j->classes);
}

void tk_cross_entropy(const float *logits, const float *targets, float *losses, float *probabilities, int64_t rows,
                      int64_t classes) {
    job j = {.logits = logits, .targets = targets, .losses = losses, .probabilities = probabilities, .rows = rows,
             .classes = classes};
    tk_parallel(row_blocks(rows), forward_rows, &j);
}

static void backward_rows(void *context, int64_t block, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t end = (block + 1) * ROWS < j->rows ? (block + 1) * ROWS : j->rows;
    for (int64_t r = block * ROWS; r < end; r++) {
        const int64_t start = r * j->classes;
        float weight = 0;
        for (int64_t c = 0; c < j->classes; c++) weight += j->targets[start + c];
        for (int64_t c = 0; c < j->classes; c++)
            j->losses[start + c] = j->scale * (j->logits[start + c] * weight - j->targets[start + c]);
    }
}

void tk_cross_entropy_backward(const float *probabilities, const float *targets, float scale, float *gradient,
                               int64_t rows, int64_t classes) {
    job j = {.logits = probabilities, .targets = targets, .losses = gradient, .rows = rows, .classes = classes,
             .scale = scale};
    tk_parallel(row_blocks(rows), backward_rows, &j);
}

typedef struct {
    const float *x;
    float *y;
    bool are_rounded;
    int64_t count;
    uint64_t seed;
    uint32_t threshold;
    float scale;
} mask_job;

static void mask_block(void *context, int64_t block, int worker) {
    (void)worker;
    const mask_job *j = context;
    const int64_t start = block * BLOCK, left = j->count - start;
    // The key changes with the upper half of the index, so that masks beyond 2^32 elements do not repeat.
    const uint32_t key = (uint32_t)(j->seed ^ j->seed >> 32) + (uint32_t)(start >> 32) * 0x85EBCA6Bu;
    const int64_t bytes = tk_bytes(j->are_rounded, start);
    tk_kernels()->dropout((const char *)j->x + bytes, (char *)j->y + bytes, j->are_rounded,
                          left < BLOCK ? left : BLOCK, (uint32_t)start, key, j->threshold, j->scale);
}

void tk_dropout(const float *x, float *y, bool are_rounded, int64_t count, float rate, uint64_t seed) {
    mask_job j = {.x = x, .y = y, .are_rounded = are_rounded, .count = count, .seed = seed, .threshold = (uint32_t)((double)rate * 4294967296.0),
                  .scale = 1 / (1 - rate)};
    tk_parallel((count + BLOCK - 1) / BLOCK, mask_block, &j);
}

typedef struct {
    const float *logits, *targets;
    float *gradient, scale;
    int64_t count;
    double *sums;
} binary_job;

static void binary_block(void *context, int64_t block, int worker) {
    (void)worker;
    const binary_job *j = context;
    const int64_t start = block * BLOCK, left = j->count - start, count = left < BLOCK ? left : BLOCK;
    j->sums[block] = tk_kernels()->binary_cross_entropy_range(j->logits + start, j->targets + start, count);
}

double tk_binary_cross_entropy(const float *logits, const float *targets, int64_t count) {
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
    float *memory = tk_allocate(2 * blocks + 1);
    binary_job j = {.logits = logits, .targets = targets, .count = count, .sums = (double *)memory};
    tk_parallel(blocks, binary_block, &j);
    double sum = 0;
    for (int64_t block = 0; block < blocks; block++) sum += j.sums[block];
    tk_release(memory, 2 * blocks + 1);
    return sum;
}

static void binary_gradient_block(void *context, int64_t block, int worker) {
    (void)worker;
    const binary_job *j = context;
    const int64_t start = block * BLOCK, left = j->count - start;
    tk_kernels()->binary_cross_entropy_gradient_range(j->logits + start, j->targets + start, j->scale,
                                                      j->gradient + start, left < BLOCK ? left : BLOCK);
}

void tk_binary_cross_entropy_backward(const float *logits, const float *targets, float scale, float *gradient,
                                      int64_t count) {
    binary_job j = {.logits = logits, .targets = targets, .gradient = gradient, .scale = scale, .count = count};
    tk_parallel((count + BLOCK - 1) / BLOCK, binary_gradient_block, &j);
}
