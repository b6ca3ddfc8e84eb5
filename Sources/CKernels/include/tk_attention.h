// Scaled dot-product attention, fused: scores and probabilities exist only blockwise.
#pragma once
#include "tk_product.h"

typedef struct {
    int64_t row, head, batch;   // distances in floats between tokens, heads and images; channels are contiguous
} tk_strides;

/// out = dropout(softmax(scale * q k^T + bias)) v for each image and head.
typedef struct {
    int64_t batch, heads, queries, keys, head_size, value_size;
    const float *q, *k, *v;
    tk_strides q_strides, k_strides, v_strides;
    float *out;
    tk_strides out_strides;
    bool q_is_rounded, k_is_rounded, v_is_rounded;      // bfloat16 numbers, which the strides count
    bool out_is_rounded;                                // the same, of the forward pass
    const float *bias;          // additive, keys contiguous, or NULL; a stride of 0 shares it between images or heads
    tk_strides bias_strides;
    float scale;
    float *log_sum_exp;         // [batch][heads][queries]: kept for the backward pass; may be NULL in the forward pass
    float dropout;              // probability of dropping a weight; 0 outside training
    uint64_t seed;              // of the counter-based generator that both passes draw the same mask from
    tk_precision precision;
} tk_attention;

void tk_attention_forward(const tk_attention *attention);

/// Pairs first ..< first + count of all batch * heads pairs of image and head, in the calling thread.
void tk_attention_heads(const tk_attention *attention, int64_t first, int64_t count);

/// Gradients with the strides of q, k and v. `out_gradient` has the strides of out. Scores are computed again.
/// `bias_gradient` (NULL: not wanted) has the strides of bias, and is summed over what shares an entry. The gradient of
/// out and those of q, k and v may hold bfloat16 numbers.
void tk_attention_backward(const tk_attention *attention, const float *out_gradient, bool out_gradient_is_rounded,
                           float *q_gradient, float *k_gradient, float *v_gradient, bool gradients_are_rounded,
                           float *bias_gradient);
