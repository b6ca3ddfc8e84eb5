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
#include "../kernels/softmax.h"

void tk_round_operand_bfloat16(const float *x, uint16_t *y, int64_t count) { halve(x, y, count); }

float tk_rounded_numerators_bfloat16(float *scores, float scale, const float *bias, int64_t keys, int64_t columns,
                                     float *sum) {
    return numerators(true, scores, scale, bias, keys, columns, sum);
}
#pragma clang attribute pop
#endif
