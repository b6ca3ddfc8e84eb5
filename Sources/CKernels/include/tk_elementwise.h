// Everything that touches each element a few times: activations, normalisation, reductions, pooling.
#pragma once
#include "tk_product.h"

/// y = activation(x).
void tk_activate(const float *x, float *y, int64_t count, tk_activation activation);

/// The same of bfloat16 numbers, to floats or, with y_is_rounded, to bfloat16 numbers again, with errors that rounding
/// hides.
void tk_activate_rounded(const uint16_t *x, float *y, bool y_is_rounded, int64_t count, tk_activation activation);

/// x_gradient = y_gradient * activation'(preactivation) over [rows][columns]; the column sums of x_gradient go into
/// bias_gradient unless it is NULL. Each of the first three may hold bfloat16 numbers; if all do, the derivative has
/// errors that rounding hides.
void tk_activation_backward(const float *y_gradient, bool y_gradient_is_rounded, const float *preactivation,
                            bool preactivation_is_rounded, tk_activation activation, float *x_gradient,
                            bool x_gradient_is_rounded, float *bias_gradient, int64_t rows, int64_t columns);

/// To bfloat16, to nearest with ties to even, and back.
void tk_halve(const float *x, uint16_t *y, int64_t count);
void tk_widen(const uint16_t *x, float *y, int64_t count);

typedef enum { TK_ADD, TK_SUBTRACT, TK_MULTIPLY, TK_DIVIDE, TK_MAXIMUM, TK_MINIMUM } tk_binary;

/// y[o][i] = a op b, where a and b are read at strides over (outer, inner): 0 repeats a value.
void tk_binary_operation(tk_binary operation, const float *a, int64_t a_outer, int64_t a_inner, const float *b,
                         int64_t b_outer, int64_t b_inner, float *y, int64_t outer, int64_t inner);

/// Sums over the middle axis of [outer][middle][inner], each in the order of the axis.
void tk_sum(const float *x, float *y, int64_t outer, int64_t middle, int64_t inner, float scale);

/// Softmax over rows of [rows][columns].
void tk_softmax(const float *x, float *y, int64_t rows, int64_t columns);
/// x - log sum exp(x) over rows.
void tk_log_softmax(const float *x, float *y, int64_t rows, int64_t columns);
/// 1.5-entmax over rows: max(x / 2 - t, 0)^2 with the t that makes them sum to one.
void tk_entmax(const float *x, float *y, int64_t rows, int64_t columns);

typedef enum { TK_EXP, TK_LOG, TK_SQUARE_ROOT, TK_SINE, TK_COSINE } tk_unary;
void tk_unary_function(tk_unary function, const float *x, float *y, int64_t count);

/// y = (x - mean) * inverse * weight + bias over rows; mean and 1 / sqrt(variance + epsilon) are kept unless NULL. A y
/// for products alone may get bfloat16 numbers.
void tk_layer_norm(const float *x, const float *weight, const float *bias, float epsilon, float *y, bool y_is_rounded,
                   float *mean, float *inverse, int64_t rows, int64_t columns);
/// The gradients; x_gradient, weight_gradient and bias_gradient may be NULL.
void tk_layer_norm_backward(const float *y_gradient, bool y_gradient_is_rounded, const float *x, const float *weight,
                            const float *mean, const float *inverse, float *x_gradient, float *weight_gradient,
                            float *bias_gradient, int64_t rows, int64_t columns);

/// Maximum over windows of [batch][height][width][channels]; `places` keeps where in its window each maximum was, one
/// byte an output, unless NULL. What lies outside the image does not count.
typedef struct {
    int64_t batch, height, width, channels, out_height, out_width, kernel, stride, padding;
} tk_pooling;
void tk_max_pool(const tk_pooling *p, const float *x, float *y, uint8_t *places);
void tk_max_pool_backward(const tk_pooling *p, const float *y_gradient, const uint8_t *places, float *x_gradient);

/// y = x with its axes in another order: y's axis i is x's axis order[i]. At most 8 axes; `steps` from element to element
/// along each of x's.
void tk_permute(const float *x, float *y, const int64_t *extents, const int64_t *steps, const int *order, int rank);

/// y += x.
void tk_accumulate(float *y, const float *x, int64_t count);

/// y = x^exponent.
void tk_power(const float *x, float exponent, float *y, int64_t count);
