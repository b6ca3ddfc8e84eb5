// Max-pooling, split by rows. What lies outside the image does not count.
#include "table.h"

enum { MAXIMUM_TAPS = 256 };

typedef struct {
    const tk_pooling *p;
    const float *x;
    float *y;
    uint8_t *places;
} pool_job;

/// One row of the output of one image.
static void pool_row(void *context, int64_t index, int worker) {
    (void)worker;
    const pool_job *j = context;
    const tk_pooling *p = j->p;
    const int64_t image = index / p->out_height, top = index % p->out_height * p->stride - p->padding;
    for (int64_t column = 0; column < p->out_width; column++) {
        const float *taps[MAXIMUM_TAPS];
        uint8_t places[MAXIMUM_TAPS];
        int count = 0;
        const int64_t left = column * p->stride - p->padding;
        for (int64_t q = 0; q < p->kernel; q++) {
            if (top + q < 0 || top + q >= p->height) continue;
            for (int64_t s = 0; s < p->kernel; s++) {
                if (left + s < 0 || left + s >= p->width) continue;
                taps[count] = j->x + ((image * p->height + top + q) * p->width + left + s) * p->channels;
                places[count++] = (uint8_t)(q * p->kernel + s);
            }
        }
        const int64_t at = (index * p->out_width + column) * p->channels;
        tk_kernels()->max_of_taps(taps, places, count, p->channels, j->y + at, j->places ? j->places + at : NULL);
    }
}

void tk_max_pool(const tk_pooling *p, const float *x, float *y, uint8_t *places) {
    pool_job j = {p, x, y, places};
    tk_parallel(p->batch * p->out_height, pool_row, &j);
}

/// One row of the input of one image. Every pixel collects from the windows that cover it, so no two tasks write to the
/// same place.
static void pool_gradient_row(void *context, int64_t index, int worker) {
    (void)worker;
    const pool_job *j = context;
    const tk_pooling *p = j->p;
    const int64_t image = index / p->height, row = index % p->height;
    for (int64_t column = 0; column < p->width; column++) {
        const float *gradients[MAXIMUM_TAPS];
        const uint8_t *choices[MAXIMUM_TAPS];
        uint8_t places[MAXIMUM_TAPS];
        int count = 0;
        // Windows start every `stride` pixels, so going back by `stride` goes to the window before.
        const int64_t below = row + p->padding, right = column + p->padding;
        int64_t y = below / p->stride;
        for (int64_t q = below - y * p->stride; q < p->kernel && y >= 0; q += p->stride, y--) {
            if (y >= p->out_height) continue;
            int64_t x = right / p->stride;
            for (int64_t s = right - x * p->stride; s < p->kernel && x >= 0; s += p->stride, x--) {
                if (x >= p->out_width) continue;
                const int64_t window = ((image * p->out_height + y) * p->out_width + x) * p->channels;
                gradients[count] = j->x + window;
                choices[count] = j->places + window;
                places[count++] = (uint8_t)(q * p->kernel + s);
            }
        }
        tk_kernels()->gradient_of_choosers(gradients, choices, places, count, p->channels,
                                           j->y + (index * p->width + column) * p->channels);
    }
}

void tk_max_pool_backward(const tk_pooling *p, const float *y_gradient, const uint8_t *places, float *x_gradient) {
    pool_job j = {p, y_gradient, x_gradient, (uint8_t *)places};
    tk_parallel(p->batch * p->height, pool_gradient_row, &j);
}
