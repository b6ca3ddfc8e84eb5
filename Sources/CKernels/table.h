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

/// Puts the kernels that convert to bfloat16 by the processor's instruction into a table.
void tk_use_bfloat16(struct tk_table *table);

/// The table of the current level.
const struct tk_table *tk_kernels(void);
