// Products of 8-bit integers: exact sums in 32 bits, scaled to float32. The same bits on every instruction set, but for
// the activation.
#pragma once
#include "tk_product.h"

/// How whole numbers stand for floats: x is about scale * code.
///
/// TK_UNIFORM: code = clamp(round(x / scale), -greatest, greatest).
/// The others have a fine and a coarse region, whose steps are scale and 2^shift scale; codes of the coarse region are
/// multiples of 2^shift. TK_SPLIT_SIGNS (values after GELU): the negative numbers are the fine region. TK_SPLIT_SIZES
/// (weights of attention): what `greatest` fine steps reach is the fine region; nothing is negative.
typedef enum { TK_UNIFORM, TK_SPLIT_SIGNS, TK_SPLIT_SIZES } tk_code_kind;

typedef struct {
    tk_code_kind kind;
    int32_t greatest, shift;
    float scale;
} tk_quantizer;

/// y = scale * code of x, on all threads; y may be x.
void tk_round_to_codes(const float *x, float *y, int64_t count, const tk_quantizer *quantizer);

/// The sum of the squares of what tk_round_to_codes changes.
double tk_rounding_error(const float *x, int64_t count, const tk_quantizer *quantizer);

/// The bytes from row to row of a left operand of depth k.
int64_t tk_int8_row(int64_t k);

/// The rows of a left operand as bytes code + 128, for codes within -128 ... 127; what fills a row up is unspecified.
void tk_int8_quantize(const float *x, int64_t x_row, int64_t rows, int64_t k, const tk_quantizer *quantizer,
                      uint8_t *codes);

/// The scale of each row of a matrix [n][k] that makes `greatest` the code of the row's greatest magnitude.
void tk_int8_row_scales(const float *weight, int64_t n, int64_t k, int32_t greatest, float *scales);

/// The bytes of a packed right operand, the transpose of a matrix [n][k].
int64_t tk_int8_packed_bytes(int64_t n, int64_t k);

/// Packs round(weight / scales) of a matrix [n][k], within -127 ... 127, once for many products.
void tk_int8_pack(const float *weight, int64_t n, int64_t k, const float *scales, void *packed);

/// c[i][j] = residual[i][j] + activation(scales[j] * sum over p of a[i][p] * b[j][p] + bias[j]).
typedef struct {
    int64_t m, n, k;                // k at most 65,536: no sum overflows
    const uint8_t *a;               // as tk_int8_quantize writes it
    const void *b;                  // as tk_int8_pack writes it
    const float *scales;            // [n]: of the products of codes
    float *c;
    int64_t c_row;
    const float *bias;              // [n] or NULL
    tk_activation activation;
    const float *residual;          // or NULL; must not overlap c
    int64_t residual_row;
} tk_int8_product;

void tk_int8_multiply(const tk_int8_product *product);
