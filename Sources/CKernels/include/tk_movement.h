// Elements picked and mixed along one axis.
#pragma once
#include <stdbool.h>
#include <stdint.h>

/// y[o][i] = x[o][indices[i]], in runs of `inner` floats: x is [outer][extent][inner], y is [outer][count][inner].
void tk_gather(const float *x, const int32_t *indices, float *y, int64_t outer, int64_t extent, int64_t count,
               int64_t inner);
/// The gradient: y_gradient is added to x_gradient in the order of the indices, or, unless `adds`, to zeros there.
void tk_gather_backward(const float *y_gradient, const int32_t *indices, bool adds, float *x_gradient, int64_t outer,
                        int64_t extent, int64_t count, int64_t inner);

/// y = x of [extent][inner], and scale times branch of [count][inner] added to the entries with these indices, which
/// ascend.
void tk_add_entries(const float *x, const float *branch, const int32_t *indices, float scale, float *y, int64_t extent,
                    int64_t count, int64_t inner);
/// The gradient of the branch: scale times those entries of y_gradient.
void tk_add_entries_backward(const float *y_gradient, const int32_t *indices, float scale, float *branch_gradient,
                             int64_t count, int64_t inner);

/// `count` channels from `first` that are read `rows` below and `columns` to the right of where they are written.
typedef struct {
    int64_t first, count, rows, columns;
} tk_channel_shift;

typedef struct {
    int64_t batch, height, width, channels, shift_count;
    const tk_channel_shift *shifts;     // every channel once
    bool clamps;                        // beyond the border: the nearest place of the map, else zero
} tk_shift;

/// Maps [batch][height][width][channels] whose channels are read from other places.
void tk_shift_forward(const tk_shift *shift, const float *x, float *y);
/// The gradient: x_gradient is zeroed, then y_gradient is added to it in the order of the places of y.
void tk_shift_backward(const tk_shift *shift, const float *y_gradient, float *x_gradient);

/// A sparse matrix: row r holds weights[t] at columns[t], for t from starts[r] up to starts[r + 1].
typedef struct {
    int64_t rows, extent;
    const int32_t *starts, *columns;
    const float *weights;
} tk_sparse;

/// The matrix applied along the middle axis: x is [outer][extent][inner], y is [outer][rows][inner].
void tk_resample(const tk_sparse *matrix, const float *x, float *y, int64_t outer, int64_t inner);

/// The greatest along the middle axis of [outer][count][inner]; of no elements, -infinity. A NaN wins.
void tk_greatest(const float *x, float *y, int64_t outer, int64_t count, int64_t inner);
/// The gradient: all of it goes to the first element that equals y.
void tk_greatest_backward(const float *x, const float *y, const float *y_gradient, float *x_gradient, int64_t outer,
                          int64_t count, int64_t inner);
