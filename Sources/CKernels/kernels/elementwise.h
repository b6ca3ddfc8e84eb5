// Elementwise kernels, on whole vectors with a partial one at the end.

#include "activations.h"
#include "layer_norm.h"

static void TK_KERNEL(halve_range)(const float *x, uint16_t *y, int64_t count) { halve(x, y, count); }

static void TK_KERNEL(round_operand)(const float *x, uint16_t *y, int64_t count) { halve(x, y, count); }

static void TK_KERNEL(widen_range)(const uint16_t *x, float *y, int64_t count) { widen(x, y, count); }

TK_INLINE vfloat combine(tk_binary operation, vfloat a, vfloat b) {
    switch (operation) {
    case TK_ADD: return a + b;
    case TK_SUBTRACT: return a - b;
    case TK_MULTIPLY: return a * b;
    case TK_DIVIDE: return a / b;
    case TK_MAXIMUM: return a >= b ? a : b;
    case TK_MINIMUM: return a <= b ? a : b;
    }
    return a;
}

/// Steps are 1 or 0.
static void TK_KERNEL(binary_range)(tk_binary operation, const float *a, int64_t a_step, const float *b, int64_t b_step,
                                    float *y, int64_t count) {
#define RANGE(op) FOR_VECTORS(i, count, \
        const vfloat left = a_step ? load_lanes(a + i, lanes) : (vfloat)a[0]; \
        const vfloat right = b_step ? load_lanes(b + i, lanes) : (vfloat)b[0]; \
        store_lanes(y + i, combine(op, left, right), lanes);)
    switch (operation) {
    case TK_ADD: RANGE(TK_ADD) break;
    case TK_SUBTRACT: RANGE(TK_SUBTRACT) break;
    case TK_MULTIPLY: RANGE(TK_MULTIPLY) break;
    case TK_DIVIDE: RANGE(TK_DIVIDE) break;
    case TK_MAXIMUM: RANGE(TK_MAXIMUM) break;
    case TK_MINIMUM: RANGE(TK_MINIMUM) break;
    }
#undef RANGE
}

static void TK_KERNEL(add_scaled)(const float *x, float scale, const float *before, float *sum, int64_t count) {
    FOR_VECTORS(i, count,
        const vfloat v = fma_((vfloat)scale, load_lanes(x + i, lanes), load_lanes(before + i, lanes));
        store_lanes(sum + i, v, lanes);)
}

typedef int8_t vbyte __attribute__((ext_vector_type(TK_WIDTH)));

/// Sines, or cosines of what is a quarter of the circle before.
TK_INLINE void sine_range(const float *x, float *y, int64_t count, int quarters) {
    FOR_VECTORS(i, count,
        const vfloat v = load_lanes(x + i, lanes);
        const vint is_large = ~(vabs(v) <= 0x1p13f);        // or not a number
        bool any_large = false;
        for (int lane = 0; lane < TK_WIDTH; lane++) any_large |= is_large[lane] != 0;
        if (any_large)
            for (int lane = 0; lane < lanes; lane++) y[i + lane] = quarters ? cosf(x[i + lane]) : sinf(x[i + lane]);
        else store_lanes(y + i, vsine(v, quarters), lanes);)
}

static void TK_KERNEL(unary_range)(tk_unary function, const float *x, float *y, int64_t count) {
    switch (function) {
    case TK_EXP: FOR_VECTORS(i, count, store_lanes(y + i, vexp(load_lanes(x + i, lanes)), lanes);) break;
    case TK_LOG: FOR_VECTORS(i, count, store_lanes(y + i, vlog(load_lanes(x + i, lanes)), lanes);) break;
    case TK_SQUARE_ROOT:
        FOR_VECTORS(i, count, store_lanes(y + i, __builtin_elementwise_sqrt(load_lanes(x + i, lanes)), lanes);)
        break;
    case TK_SINE: sine_range(x, y, count, 0); break;
    case TK_COSINE: sine_range(x, y, count, 1); break;
    }
}
