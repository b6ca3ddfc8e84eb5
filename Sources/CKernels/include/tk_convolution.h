// Two-dimensional convolution, channels last.
#pragma once
#include "tk_product.h"

/// x is [batch][height][width][in_channels], y is [batch][out_height][out_width][out_channels], the weight is
/// [out_channels][kernel_height][kernel_width][in_channels / groups]. Input row of output row r and kernel row q:
/// r * stride - pad_top + q * dilation; what lies outside the input counts as zero.
typedef struct {
    int64_t batch, height, width, in_channels;
    int64_t out_height, out_width, out_channels;
    int64_t kernel_height, kernel_width, stride_height, stride_width;
    int64_t pad_top, pad_left, dilation_height, dilation_width, groups;
    tk_precision precision;
} tk_convolution;

/// y = activation(convolution + bias); bias may be NULL. preactivation as in tk_product, or NULL.
void tk_convolution_forward(const tk_convolution *c, const float *x, const float *weight, const float *bias,
                            tk_activation activation, float *preactivation, float *y);
void tk_convolution_backward_input(const tk_convolution *c, const float *y_gradient, const float *weight,
                                   float *x_gradient);
void tk_convolution_backward_weight(const tk_convolution *c, const float *x, const float *y_gradient,
                                    float *weight_gradient);
