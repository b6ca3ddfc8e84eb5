// Normalisation over positions and channels, channels last.
#pragma once
#include <stdbool.h>
#include <stdint.h>

/// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, where the statistics of a sample are taken over all
/// positions and the channels of one group: x is [samples][positions][channels]. BatchNorm is one sample with a group
/// for each channel. weight and bias are [channels], or NULL. statistics is [2][samples][groups], and always written:
/// the means, then the (biased) variances.
void tk_group_norm(const float *x, const float *weight, const float *bias, float epsilon, float *y, float *statistics,
                   int64_t samples, int64_t positions, int64_t channels, int64_t groups);

/// The same once more, with the statistics that were written: the same bits.
void tk_group_norm_given(const float *x, const float *weight, const float *bias, float epsilon, float *y,
                         const float *statistics, int64_t samples, int64_t positions, int64_t channels,
                         int64_t groups);

/// The gradients; any may be NULL. `is_constant`: the statistics were given and do not depend on x.
void tk_group_norm_backward(const float *y_gradient, const float *x, const float *weight, const float *statistics,
                            float epsilon, bool is_constant, float *x_gradient, float *weight_gradient,
                            float *bias_gradient, int64_t samples, int64_t positions, int64_t channels,
                            int64_t groups);

/// y = x * scale + shift, both [channels].
void tk_scale_and_shift(const float *x, const float *scale, const float *shift, float *y, int64_t rows,
                        int64_t channels);
