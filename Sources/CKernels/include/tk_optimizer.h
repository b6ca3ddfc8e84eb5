// Optimizer steps: one pass over memory each, all threads. Weights and moments are changed in place.
#pragma once
#include <stdbool.h>
#include <stdint.h>

/// Adam. Gradients are multiplied by `gradient_scale` first. Decay is decoupled (w -= rate * decay * w before the step)
/// or, with couples_decay, added to the gradient. `step` counts from 1.
void tk_adam(float *weight, float *first, float *second, const float *gradient, int64_t count, float rate, float beta1,
             float beta2, float epsilon, float decay, bool couples_decay, float gradient_scale, int64_t step);

/// g += decay * w; b = momentum * b + g; w -= rate * (nesterov ? g + momentum * b : b).
void tk_sgd(float *weight, float *momentum_buffer, const float *gradient, int64_t count, float rate, float momentum,
            bool nesterov, float decay, float gradient_scale);

/// average = decay * average + (1 - decay) * weight.
void tk_moving_average(float *average, const float *weight, int64_t count, float decay);

/// The sum of squares, accumulated in double over fixed blocks.
double tk_sum_of_squares(const float *values, int64_t count);
