// Losses over rows of logits.
#pragma once
#include <stdbool.h>
#include <stdint.h>

/// Cross-entropy against class probabilities, row by row: losses[r] = -sum_c targets[r][c] log softmax(logits[r])[c].
/// `probabilities` (softmax of the logits, [rows][classes]) is kept for the gradient unless NULL.
void tk_cross_entropy(const float *logits, const float *targets, float *losses, float *probabilities, int64_t rows,
                      int64_t classes);

/// gradient[r][c] = scale * (probabilities[r][c] * sum_c targets[r] - targets[r][c]).
void tk_cross_entropy_backward(const float *probabilities, const float *targets, float scale, float *gradient,
                               int64_t rows, int64_t classes);

/// y = x * mask / (1 - rate), where the mask of element i is drawn from a counter-based hash of (seed, i): the same
/// call on a gradient is the backward pass. Both may hold bfloat16 numbers.
void tk_dropout(const float *x, float *y, bool are_rounded, int64_t count, float rate, uint64_t seed);

/// The sum of -t log s(x) - (1 - t) log(1 - s(x)) over all elements, where s is the logistic function and t the target.
double tk_binary_cross_entropy(const float *logits, const float *targets, int64_t count);
/// gradient = scale * (s(x) - t).
void tk_binary_cross_entropy_backward(const float *logits, const float *targets, float scale, float *gradient,
                                      int64_t count);
