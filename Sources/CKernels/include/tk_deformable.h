// DCNv3: a convolution that reads learned places with learned weights.
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int64_t batch, height, width, groups, channels;         // channels of one group
    int64_t out_height, out_width;
    int64_t kernel_height, kernel_width, stride, padding, dilation;
    float offset_scale;                                      // of the kernel's own grid as well as of the offsets
    bool removes_center;
} tk_deformable;

/// x is [batch][height][width][groups * channels]. For each place of y there are, group after group and tap after tap
/// (kernel columns outermost), offsets [groups][taps][2] (right, then down) and masks [groups][taps].
void tk_deformable_forward(const tk_deformable *d, const float *x, const float *offsets, const float *masks, float *y);
/// All three gradients.
void tk_deformable_backward(const tk_deformable *d, const float *x, const float *offsets, const float *masks,
                            const float *y_gradient, float *x_gradient, float *offset_gradient, float *mask_gradient);
