// Products of bfloat16 numbers on AVX-512 with its extension for them.
#if defined(__x86_64__)
#include "../table.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((                                                                           \
    target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"))), apply_to = function)
#define TK_LEVEL bfloat16
#define TK_HAS_MASKS
#define TK_HAS_BFLOAT16
#define TK_WIDTH 16
#include "../kernels/vector.h"
#include "../kernels/bfloat16.h"
#include "../kernels/activations.h"
#include "../kernels/dropout.h"
#include "../kernels/layer_norm.h"
#include "../kernels/softmax.h"

static void round_operand(const float *x, uint16_t *y, int64_t count) { halve(x, y, count); }

void tk_use_bfloat16(struct tk_table *table) {
    table->round_operand = round_operand;
    table->activate_rounded_range = TK_KERNEL(activate_rounded_range);
    table->dropout = TK_KERNEL(dropout);
    table->masked = TK_KERNEL(masked);
    table->attention_gradient = TK_KERNEL(attention_gradient);
    table->divide_rows = TK_KERNEL(divide_rows);
    table->rounded_numerators = TK_KERNEL(rounded_numerators);
    table->rounded_layer_norm_rows = TK_KERNEL(rounded_layer_norm_rows);
    table->rounded_activation_gradient_rows = TK_KERNEL(rounded_activation_gradient_rows);
}
#pragma clang attribute pop
#endif
