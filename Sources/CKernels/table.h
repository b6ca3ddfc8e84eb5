// The table of kernels: one instance for each instruction set, filled in kernels/all.h.
#pragma once
#include "depthwise.h"

/// What an Adam step multiplies by, worked out once.
struct tk_adam_factors {
    float beta1, beta2, epsilon, keep, coupled_decay, gradient_scale, step_size, inverse_root_correction;
};

struct tk_table {
#define X(result, name, arguments) result (*name) arguments;
#include "kernels/elementwise.def"
#include "kernels/axis.def"
#include "kernels/normalization.def"
#include "kernels/pooling.def"
#include "kernels/optimizer.def"
#include "kernels/attention.def"
#include "kernels/depthwise.def"
#undef X
};

extern const struct tk_table tk_table_portable, tk_table_avx2, tk_table_avx512;

/// Kernels of the table where the processor converts to bfloat16.
void tk_round_operand_bfloat16(const float *x, uint16_t *y, int64_t count);
float tk_rounded_numerators_bfloat16(float *scores, float scale, const float *bias, int64_t keys, int64_t columns,
                                     float *sum);

/// The table of the current level.
const struct tk_table *tk_kernels(void);
