// DCNv3: each tap is a bilinear sample at a place of its own, outside of the map zero.
#include "table.h"
#include <math.h>
#include <string.h>

typedef struct {
    const tk_deformable *d;
    const float *x, *offsets, *masks, *y_gradient;
    float *y, *x_gradient, *offset_gradient, *mask_gradient;
} deformable_job;

/// The four neighbours of a sample that lie in the map.
typedef struct {
    int count;
    int32_t places[4];      // in steps of one group's channels from the group's first
    float weights[4];
    float right[4], down[4];  // the slopes of the weights
} neighbours;

static int64_t taps_of(const tk_deformable *d) { return d->kernel_height * d->kernel_width - d->removes_center; }

/// The neighbours of tap `tap` of the output place (row, column).
static neighbours find_neighbours(const tk_deformable *d, const float *offset, int64_t tap, int64_t row,
                                  int64_t column) {
    if (d->removes_center && tap >= d->kernel_width / 2 * d->kernel_height + d->kernel_height / 2) tap++;
    const float half_width = (float)(d->dilation * (d->kernel_width - 1) / 2);
    const float half_height = (float)(d->dilation * (d->kernel_height - 1) / 2);
    const float right = (float)(tap / d->kernel_height * d->dilation) - half_width + offset[0];
    const float down = (float)(tap % d->kernel_height * d->dilation) - half_height + offset[1];
    const float x = half_width + (float)(column * d->stride - d->padding) + d->offset_scale * right;
    const float y = half_height + (float)(row * d->stride - d->padding) + d->offset_scale * down;
    neighbours n = {0};
    // Also false for NaN: such a sample has no neighbours.
    if (!(x > -1 && y > -1 && x < (float)d->width && y < (float)d->height)) return n;
    const float left_x = floorf(x), top_y = floorf(y), fx = x - left_x, fy = y - top_y;
    for (int corner = 0; corner < 4; corner++) {
        const int is_right = corner & 1, is_lower = corner >> 1;
        const int64_t cx = (int64_t)left_x + is_right, cy = (int64_t)top_y + is_lower;
        if (cx < 0 || cy < 0 || cx >= d->width || cy >= d->height) continue;
        const float wx = is_right ? fx : 1 - fx, wy = is_lower ? fy : 1 - fy;
        n.places[n.count] = (int32_t)((cy * d->width + cx) * d->groups);
        n.weights[n.count] = wx * wy;
        n.right[n.count] = is_right ? wy : -wy;
        n.down[n.count++] = is_lower ? wx : -wx;
    }
    return n;
}

enum { TAPS_AT_ONCE = 64 };

static void deform_row(void *context, int64_t index, int worker) {
    (void)worker;
    const deformable_job *j = context;
    const tk_deformable *d = j->d;
    const int64_t row = index % d->out_height, taps = taps_of(d), width = d->groups * d->channels;
    const float *map = j->x + index / d->out_height * d->height * d->width * width;
    for (int64_t column = 0; column < d->out_width; column++) {
        for (int64_t group = 0; group < d->groups; group++) {
            const int64_t at = (index * d->out_width + column) * d->groups + group;
            int32_t places[4 * TAPS_AT_ONCE];
            float weights[4 * TAPS_AT_ONCE];
            int64_t count = 0;
            for (int64_t tap = 0; tap < taps; tap++) {
                const neighbours n = find_neighbours(d, j->offsets + (at * taps + tap) * 2, tap, row, column);
                for (int i = 0; i < n.count; i++) {
                    places[count] = n.places[i];
                    weights[count++] = n.weights[i] * j->masks[at * taps + tap];
                }
            }
            tk_kernels()->weighted_sum(map + group * d->channels, places, weights, count,
                                       j->y + at * d->channels, d->channels);
        }
    }
}

void tk_deformable_forward(const tk_deformable *d, const float *x, const float *offsets, const float *masks,
                           float *y) {
    deformable_job j = {.d = d, .x = x, .offsets = offsets, .masks = masks, .y = y};
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
            const neighbours n =
                find_neighbours(d, j->offsets + sample * 2, tap, place / d->out_width, place % d->out_width);
            float products[4], value = 0, right = 0, down = 0;
            tk_kernels()->gathered_dots(map, n.places, n.count, gradient, products, d->channels);
            for (int i = 0; i < n.count; i++) {
                value += n.weights[i] * products[i];
                right += n.right[i] * products[i];
                down += n.down[i] * products[i];
                tk_kernels()->add_scaled(gradient, mask * n.weights[i], map_gradient + n.places[i] * d->channels,
                                         d->channels);
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
    tk_parallel(d->batch * d->groups, deform_group_gradient, &j);
}
