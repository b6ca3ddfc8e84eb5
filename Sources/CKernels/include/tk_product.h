// Matrix products.
#pragma once
#include <stdbool.h>
#include <stdint.h>

/// Arithmetic of products. TK_BFLOAT16 rounds both operands to bfloat16 (to nearest, ties to even) and accumulates in
/// float32: on AMX tiles or, with AVX-512 BF16, on vectors (both take subnormal numbers for zero), otherwise with the same
/// rounding at float32 speed.
///
/// TK_SPLIT3 and TK_SPLIT6 are for float32 on tiles: both operands are split into sums of two or three bfloat16
/// numbers, and three or six of the products of their parts are added up, the small ones first. Errors are about 1e-5 of
/// the result's scale with three, and those of float32 with six; infinities become NaN. Without tiles both are
/// TK_FLOAT32.
///
/// TK_INT16 is for processors without tiles: each row of a and each column of b, at most 512 values of k at a time, is
/// rounded to multiples of its own scale, of which the greatest magnitude has 2047 or more. Their products are added up
/// without rounding in 32 bits, and those sums in float32. With VNNI that is twice as many multiply-adds as of floats;
/// values far below their row's greatest lose what bfloat16 would keep of them. A row with an infinity becomes NaN.
///
/// TK_INT8 is the same with codes up to 127, and four times as many multiply-adds as of floats with VNNI. Without it, it
/// is TK_INT16.
typedef enum { TK_FLOAT32, TK_BFLOAT16, TK_SPLIT3, TK_SPLIT6, TK_INT16, TK_INT8 } tk_precision;

/// The fastest arithmetic with the errors of float32: TK_SPLIT6 with tiles, otherwise TK_FLOAT32.
tk_precision tk_float32_grade(void);

/// Whether TK_INT8 multiplies faster than anything else here: with VNNI, and without tiles.
bool tk_has_fast_int8(void);

typedef enum {
    TK_IDENTITY, TK_RELU, TK_GELU, TK_GELU_TANH, TK_QUICK_GELU, TK_SILU, TK_SIGMOID, TK_TANH, TK_HARD_SWISH,
    TK_HARD_SIGMOID, TK_RELU6
} tk_activation;

/// c[b] = residual[b] + activation(alpha * a[b] x b[b] + bias), for each b below `batch`.
///
/// Element (i, p) of a is a[i * a_row + p * a_column], element (p, j) of b is b[p * b_row + j * b_column]: any
/// transposition is a choice of strides. c, preactivation and residual have contiguous columns.
typedef struct {
    int64_t m, n, k, batch;
    const float *a;
    int64_t a_row, a_column, a_batch;
    const float *b;
    int64_t b_row, b_column, b_batch;
    float *c;
    int64_t c_row, c_batch;
    bool a_is_rounded, b_is_rounded;        // holds bfloat16 numbers instead of floats
    bool c_is_rounded;                      // gets them; not with accumulate
    float alpha;
    bool accumulate;             // c += instead of c = (then no activation, bias, residual)
    const float *bias;           // [n] or NULL
    tk_activation activation;
    float *preactivation;        // as c, or NULL: the value before the activation, kept for the backward pass
    uint16_t *rounded_preactivation;        // the same in bfloat16
    const float *residual;       // added last, or NULL; must not overlap c
    int64_t residual_row, residual_batch;
    tk_precision precision;
    float *row_sums;             // [m] or NULL: the sums of a's rows, which are read in any case; of a batch of one
} tk_product;

void tk_multiply(const tk_product *product);
