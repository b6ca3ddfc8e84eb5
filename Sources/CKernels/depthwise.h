// Depthwise convolution (groups == in_channels == out_channels): what tk_convolution_* hand over.
#pragma once
#include "product.h"

/// The longest side of a kernel that is handled here.
enum { TK_MOST_DEPTHWISE = 64 };

bool tk_is_depthwise(const tk_convolution *c);
void tk_depthwise_forward(const tk_convolution *c, const float *x, const float *weight, const float *bias,
                          tk_activation activation, float *preactivation, float *y);
void tk_depthwise_backward_input(const tk_convolution *c, const float *y_gradient, const float *weight,
                                 float *x_gradient);
void tk_depthwise_backward_weight(const tk_convolution *c, const float *x, const float *y_gradient,
                                  float *weight_gradient);
