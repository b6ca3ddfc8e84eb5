// Scaled dot-product attention whose two products are of 8-bit integers.
#pragma once
#include "tk_attention.h"
#include "tk_int8.h"

/// out = softmax(scale * q k^T + bias) v, with q, k, v and the softmax rounded to codes. Without dropout, and nothing is
/// kept for a backward pass.
typedef struct {
    tk_attention attention;
    tk_quantizer q, k, v, weights;
} tk_int8_attention;

void tk_int8_attention_forward(const tk_int8_attention *attention);

/// All heads of all images, in the calling thread.
void tk_int8_attention_heads(const tk_int8_attention *attention);
