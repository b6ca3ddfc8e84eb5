// Optimizer steps over fixed blocks of elements.
#include "table.h"
#include <math.h>

enum { BLOCK = 1 << 14 };

typedef struct {
    float *weight, *first, *second;
    const float *gradient;
    int64_t count;
    struct tk_adam_factors adam;
    float rate, momentum, decay, scale;
    bool nesterov;
} job;

static int64_t blocks(int64_t count) { return (count + BLOCK - 1) / BLOCK; }
static int64_t length(int64_t count, int64_t block) {
    return count - block * BLOCK < BLOCK ? count - block * BLOCK : BLOCK;
}

static void adam_block(void *context, int64_t block, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t start = block * BLOCK;
    tk_kernels()->adam(j->weight + start, j->first + start, j->second + start, j->gradient + start,
                       length(j->count, block), &j->adam);
}

void tk_adam(float *weight, float *first, float *second, const float *gradient, int64_t count, float rate, float beta1,
             float beta2, float epsilon, float decay, bool couples_decay, float gradient_scale, int64_t step) {
    const double correction1 = 1 - pow(beta1, (double)step), correction2 = 1 - pow(beta2, (double)step);
    job j = {.weight = weight, .first = first, .second = second, .gradient = gradient, .count = count};
    j.adam = (struct tk_adam_factors){
        .beta1 = beta1,
        .beta2 = beta2,
        .epsilon = epsilon,
        .keep = couples_decay ? 1 : (float)(1 - (double)rate * decay),
        .coupled_decay = couples_decay ? decay : 0,
        .gradient_scale = gradient_scale,
        .step_size = (float)(rate / correction1),
        .inverse_root_correction = (float)(1 / sqrt(correction2)),
    };
    tk_parallel(blocks(count), adam_block, &j);
}

static void sgd_block(void *context, int64_t block, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t start = block * BLOCK;
    tk_kernels()->sgd(j->weight + start, j->first + start, j->gradient + start, length(j->count, block), j->rate,
                      j->momentum, j->nesterov, j->decay, j->scale);
}

void tk_sgd(float *weight, float *momentum_buffer, const float *gradient, int64_t count, float rate, float momentum,
            bool nesterov, float decay, float gradient_scale) {
    job j = {.weight = weight, .first = momentum_buffer, .gradient = gradient, .count = count, .rate = rate,
             .momentum = momentum, .nesterov = nesterov, .decay = decay, .scale = gradient_scale};
    tk_parallel(blocks(count), sgd_block, &j);
}

static void moving_average_block(void *context, int64_t block, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t start = block * BLOCK;
    tk_kernels()->moving_average(j->first + start, j->gradient + start, length(j->count, block), j->decay);
}

void tk_moving_average(float *average, const float *weight, int64_t count, float decay) {
    job j = {.first = average, .gradient = weight, .count = count, .decay = decay};
    tk_parallel(blocks(count), moving_average_block, &j);
}

typedef struct {
    const float *values;
    int64_t count;
    double *sums;
} squares_job;

static void squares_block(void *context, int64_t block, int worker) {
    (void)worker;
    const squares_job *j = context;
    j->sums[block] = tk_kernels()->squares_range(j->values + block * BLOCK, length(j->count, block));
}

double tk_sum_of_squares(const float *values, int64_t count) {
    float *memory = tk_allocate(2 * blocks(count) + 1);
    squares_job j = {values, count, (double *)memory};
    tk_parallel(blocks(count), squares_block, &j);
    double sum = 0;
    for (int64_t block = 0; block < blocks(count); block++) sum += j.sums[block];
    tk_release(memory, 2 * blocks(count) + 1);
    return sum;
}
