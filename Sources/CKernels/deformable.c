// DCNv3: each tap is a bilinear sample at a place of its own, outside of the map zero.
#include "table.h"
#include <string.h>

enum { MOST_TAPS = 64 };

typedef struct {
    const tk_deformable *d;
    float tap_right[MOST_TAPS], tap_down[MOST_TAPS];    // places of the taps from the centre
    const float *x, *offsets, *masks, *y_gradient;
    float *y, *x_gradient, *offset_gradient, *mask_gradient;
} deformable_job;

static int64_t taps_of(const tk_deformable *d) { return d->kernel_height * d->kernel_width - d->removes_center; }

/// Half of what the kernel spans along an axis.
static float half_span(const tk_deformable *d, int64_t kernel) { return (float)(d->dilation * (kernel - 1) / 2); }

/// Tap by tap, column after column, once for all places: divisions of whole numbers are slow.
static void find_taps(deformable_job *j) {
    const tk_deformable *d = j->d;
    const int64_t centre = d->kernel_width / 2 * d->kernel_height + d->kernel_height / 2;
    for (int64_t tap = 0; tap < taps_of(d); tap++) {
        const int64_t place = tap + (d->removes_center && tap >= centre);
        j->tap_right[tap] = (float)(place / d->kernel_height * d->dilation) - half_span(d, d->kernel_width);
        j->tap_down[tap] = (float)(place % d->kernel_height * d->dilation) - half_span(d, d->kernel_height);
    }
}

/// The largest whole number that is at most x, for small x: without a call of the C library.
static int64_t whole(float x) {
    const int64_t towards_zero = (int64_t)x;
    return towards_zero - (x < (float)towards_zero);
}

/// How many of the four neighbours of a sample lie in the map: tap `tap` of the output place (row, column). Their places
/// are in steps of one group's channels from the group's first; `right` and `down` get the slopes of their weights.
__attribute__((always_inline)) static inline int find_neighbours(
    const deformable_job *j, const float *offset, int64_t tap, int64_t row, int64_t column, int32_t *places,
    float *weights, float *right, float *down) {
    const tk_deformable *d = j->d;
    const float x = half_span(d, d->kernel_width) + (float)(column * d->stride - d->padding)
        + d->offset_scale * (j->tap_right[tap] + offset[0]);
    const float y = half_span(d, d->kernel_height) + (float)(row * d->stride - d->padding)
        + d->offset_scale * (j->tap_down[tap] + offset[1]);
    // Also false for NaN: such a sample has no neighbours.
    if (!(x > -1 && y > -1 && x < (float)d->width && y < (float)d->height)) return 0;
    const int64_t left = whole(x), top = whole(y);
    const float fx = x - (float)left, fy = y - (float)top;
    const bool is_inside = left >= 0 && top >= 0 && left + 1 < d->width && top + 1 < d->height;
    int count = 0;
#pragma clang loop unroll(full)
    for (int corner = 0; corner < 4; corner++) {
        const int is_right = corner & 1, is_lower = corner >> 1;
        const int64_t cx = left + is_right, cy = top + is_lower;
        if (!is_inside && (cx < 0 || cy < 0 || cx >= d->width || cy >= d->height)) continue;
        const float wx = is_right ? fx : 1 - fx, wy = is_lower ? fy : 1 - fy;
        places[count] = (int32_t)((cy * d->width + cx) * d->groups);
        weights[count] = wx * wy;
        if (right) right[count] = is_right ? wy : -wy;
        if (down) down[count] = is_lower ? wx : -wx;
        count++;
    }
    return count;
}

static void deform_row(void *context, int64_t index, int worker) {
    (void)worker;
    const deformable_job *j = context;
    const tk_deformable *d = j->d;
    const int64_t row = index % d->out_height, taps = taps_of(d), width = d->groups * d->channels;
    const float *map = j->x + index / d->out_height * d->height * d->width * width;
    for (int64_t column = 0; column < d->out_width; column++) {
        for (int64_t group = 0; group < d->groups; group++) {
            const int64_t at = (index * d->out_width + column) * d->groups + group;
            int32_t places[4 * MOST_TAPS];
            float weights[4 * MOST_TAPS];
            int64_t count = 0;
            for (int64_t tap = 0; tap < taps; tap++) {
                const int64_t sample = at * taps + tap;
                const int found = find_neighbours(j, j->offsets + sample * 2, tap, row, column, places + count,
                                                  weights + count, NULL, NULL);
                for (int i = 0; i < found; i++) weights[count++] *= j->masks[sample];
            }
            tk_kernels()->weighted_sum(map + group * d->channels, places, weights, count,
                                       j->y + at * d->channels, d->channels);
        }
    }
}

void tk_deformable_forward(const tk_deformable *d, const float *x, const float *offsets, const float *masks,
                           float *y) {
    deformable_job j = {.d = d, .x = x, .offsets = offsets, .masks = masks, .y = y};
    find_taps(&j);
    tk_parallel(d->batch * d->out_height, deform_row, &j);
}

/// One group of one image: samples of the same group may share neighbours, so it is never split.
static void deform_group_gradient(void *context, int64_t index, int worker) {
    (void)worker;
    const deformable_job *j = context;
    const tk_deformable *d = j->d;
    const int64_t image = index / d->groups, group = index % d->groups, taps = taps_of(d);
    const int64_t start = image * d->height * d->width * d->groups * d->channels + group * d->channels;
    const float *map = j->x + start;
    float *map_gradient = j->x_gradient + start;
    for (int64_t place = 0; place < d->height * d->width; place++)
        memset(map_gradient + place * d->groups * d->channels, 0, (size_t)d->channels * sizeof(float));
    for (int64_t place = 0; place < d->out_height * d->out_width; place++) {
        const int64_t at = (image * d->out_height * d->out_width + place) * d->groups + group;
        const float *gradient = j->y_gradient + at * d->channels;
        for (int64_t tap = 0; tap < taps; tap++) {
            const int64_t sample = at * taps + tap;
            const float mask = j->masks[sample];
            int32_t places[4];
            float weights[4], slopes_right[4], slopes_down[4], products[4], value = 0, right = 0, down = 0;
            const int found = find_neighbours(j, j->offsets + sample * 2, tap, place / d->out_width,
                                              place % d->out_width, places, weights, slopes_right, slopes_down);
            tk_kernels()->gathered_dots(map, places, found, gradient, products, d->channels);
            for (int i = 0; i < found; i++) {
                value += weights[i] * products[i];
                right += slopes_right[i] * products[i];
                down += slopes_down[i] * products[i];
                float *sum = map_gradient + places[i] * d->channels;
                tk_kernels()->add_scaled(gradient, mask * weights[i], sum, sum, d->channels);
            }
            j->mask_gradient[sample] = value;
            j->offset_gradient[sample * 2] = d->offset_scale * mask * right;
            j->offset_gradient[sample * 2 + 1] = d->offset_scale * mask * down;
        }
    }
}

void tk_deformable_backward(const tk_deformable *d, const float *x, const float *offsets, const float *masks,
                            const float *y_gradient, float *x_gradient, float *offset_gradient, float *mask_gradient) {
    deformable_job j = {.d = d, .x = x, .offsets = offsets, .masks = masks, .y_gradient = y_gradient,
                        .x_gradient = x_gradient, .offset_gradient = offset_gradient,
                        .mask_gradient = mask_gradient};
    find_taps(&j);
    tk_parallel(d->batch * d->groups, deform_group_gradient, &j);
}
