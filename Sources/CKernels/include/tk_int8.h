// Products of 8-bit integers: exact sums in 32 bits, scaled to float32. The same bits on every instruction set, but for
// the activation.
#pragma once
#include "tk_product.h"

/// The bytes of a quantised matrix [rows][k]: whole blocks of rows, and rows of whole cache lines.
int64_t tk_int8_bytes(int64_t rows, int64_t k);

/// x[i][p] is about scales[i] * q[i][p], with q in -127 ... 127 and each row's scale from its greatest magnitude. A row
/// with a value that is not finite gets NaN for its scale.
void tk_int8_quantize(const float *x, int64_t x_row, int64_t rows, int64_t k, int8_t *q, float *scales);

/// The bytes of a packed right operand, the transpose of a matrix [n][k].
int64_t tk_int8_packed_bytes(int64_t n, int64_t k);

/// Packs a quantised matrix [n][k], such as the weight of a linear layer, once for many products.
void tk_int8_pack(const int8_t *q, int64_t n, int64_t k, void *packed);

/// c[i][j] = residual[i][j] + activation(a_scales[i] * b_scales[j] * sum over p of a[i][p] * b[j][p] + bias[j]).
typedef struct {
    int64_t m, n, k;                // k at most 131,072: no sum overflows
    const int8_t *a;                // as tk_int8_quantize writes it
    const float *a_scales;
    const void *b;                  // as tk_int8_pack writes it
    const float *b_scales;
    float *c;
    int64_t c_row;
    const float *bias;              // [n] or NULL
    tk_activation activation;
    const float *residual;          // or NULL; must not overlap c
    int64_t residual_row;
} tk_int8_product;

void tk_int8_multiply(const tk_int8_product *product);
