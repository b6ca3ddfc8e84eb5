// Products of 8-bit integers, once a kernel for one block has been chosen: multiply_int8_panel of int8_vectors.h or of
// tiles.h, 32 rows by a panel into sums[32][TK_INT8_PANEL].

typedef int8_t vbytes __attribute__((ext_vector_type(TK_WIDTH)));

/// Rounds to nearest, ties to even. Each step is a statement of its own, so that no instruction set fuses two of them.
static float TK_KERNEL(quantize_row)(const float *x, int64_t count, int8_t *q) {
    // As integers, the bits of a NaN are greater than those of any number.
    vint greatest = 0;
    for (int64_t i = 0; i < count; i += TK_WIDTH) {
        const vint bits = vbits(load_up_to(x + i, count - i)) & 0x7FFFFFFF;
        greatest = bits > greatest ? bits : greatest;
    }
    int32_t bits = 0;
    for (int i = 0; i < TK_WIDTH; i++) bits = greatest[i] > bits ? greatest[i] : bits;
    float magnitude;
    memcpy(&magnitude, &bits, sizeof magnitude);
    if (!(magnitude >= 1e-30f && magnitude < INFINITY)) {       // zero as well, which has no inverse
        memset(q, 0, (size_t)count);
        return magnitude < INFINITY ? 0 : NAN;
    }
    const float inverse = 127 / magnitude, rounding = 0x1.8p23f;
    for (int64_t i = 0; i < count; i += TK_WIDTH) {
        const vfloat scaled = load_up_to(x + i, count - i) * inverse;
        const vfloat shifted = scaled + rounding;
        const vbytes bytes = __builtin_convertvector(vbits(shifted), vbytes);
        memcpy(q + i, &bytes, (size_t)(count - i < TK_WIDTH ? count - i : TK_WIDTH));
    }
    return magnitude / 127;
}

static void TK_KERNEL(multiply_int8)(const tk_int8_block *t) {
    enum { width = TK_INT8_PANEL };
    _Alignas(64) int32_t sums[TK_INT8_ROWS * width];
    _Alignas(64) float tile[TK_INT8_ROWS * width];
    const tile_end end = {.finishes = true};
    begin_int8();
    for (int64_t panel = 0; panel < t->panels; panel++) {
        const int64_t column = panel * width, columns = t->end.n - column < width ? t->end.n - column : width;
        multiply_int8_panel(t, t->b + column * t->depth, sums);
        float scales[width] = {0};
        memcpy(scales, t->b_scales + column, (size_t)columns * sizeof(float));
        for (int64_t j = 0; j < width; j += TK_WIDTH) {
            vint too_much;
            memcpy(&too_much, t->b_sums + column + j, sizeof too_much);
            too_much *= INT8_OFFSET;
            for (int64_t i = 0; i < t->rows; i++) {
                vint sum;
                memcpy(&sum, sums + i * width + j, sizeof sum);
                const vfloat scale = load(scales + j) * t->a_scales[i];
                store(tile + i * width + j, __builtin_convertvector(sum - too_much, vfloat) * scale);
            }
        }
        store_tile(&t->end, end, tile, width, 0, t->rows, column, columns);
    }
    end_int8();
}

const struct tk_int8_kernels TK_KERNEL(tk_int8_kernels) = {
#define X(result, name, arguments) .name = TK_KERNEL(name),
#include "int8.def"
#undef X
};
