// Elementwise kernels, on whole vectors with a partial one at the end.

#include "layer_norm.h"

static void TK_KERNEL(activate_range)(const float *x, float *y, int64_t count, tk_activation kind) {
    TK_FOR_ACTIVATION(kind, {
        int64_t i = 0;
        for (; i + TOGETHER <= count; i += TOGETHER) store_together(y + i, activate(activation, load_together(x + i)));
        for (; i < count; i += TK_WIDTH)
            store_up_to(y + i, activate(activation, load_up_to(x + i, count - i)), count - i);
    })
}

static void TK_KERNEL(halve_range)(const float *x, uint16_t *y, int64_t count) { halve(x, y, count); }

static void TK_KERNEL(round_operand)(const float *x, uint16_t *y, int64_t count) { halve(x, y, count); }

static void TK_KERNEL(widen_range)(const uint16_t *x, float *y, int64_t count) { widen(x, y, count); }

/// x_gradient = y_gradient * the derivative at the preactivation, added to column_sums where there are any.
TK_INLINE void activation_gradient_row(const float *y_gradient, const float *preactivation, tk_activation activation,
                                       float *x_gradient, float *column_sums, int64_t columns) {
    int64_t i = 0;
    for (; i + TOGETHER <= columns; i += TOGETHER) {
        const vfloats slope = activation_derivative(activation, load_together(preactivation + i));
        const vfloats v = load_together(y_gradient + i) * slope;
        store_together(x_gradient + i, v);
        if (column_sums) store_together(column_sums + i, load_together(column_sums + i) + v);
    }
    for (; i < columns; i += TK_WIDTH) {
        const int64_t lanes = columns - i;
        const vfloat v = load_up_to(y_gradient + i, lanes) *
                         activation_derivative(activation, load_up_to(preactivation + i, lanes));
        store_up_to(x_gradient + i, v, lanes);
        if (column_sums) store_up_to(column_sums + i, load_up_to(column_sums + i, lanes) + v, lanes);
    }
}

static void TK_KERNEL(activation_gradient_rows)(const float *y_gradient, const float *preactivation, tk_activation kind,
                                                float *x_gradient, float *column_sums, int64_t rows, int64_t columns) {
    TK_FOR_ACTIVATION(kind, for (int64_t i = 0; i < rows * columns; i += columns)
        activation_gradient_row(y_gradient + i, preactivation + i, activation, x_gradient + i, column_sums, columns))
}

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

/// `n` neighbouring rows, which add to the sums of weight and bias in order.
TK_INLINE void normalize_gradient(const int n, const float *y_gradient, const float *x, const float *weight,
                                  const float *means, const float *inverses, float *x_gradient, float *weight_sums,
                                  float *bias_sums, int64_t columns) {
    vfloat sums[NORM_TOGETHER];
    vfloat products[NORM_TOGETHER];
    for (int r = 0; r < n; r++) sums[r] = products[r] = 0;
    FOR_VECTORS(i, columns,
        const vfloat slope = weight ? load_lanes(weight + i, lanes) : (vfloat)1.0f;
        vfloat weight_sum = weight_sums ? load_lanes(weight_sums + i, lanes) : (vfloat)0.0f;
        vfloat bias_sum = bias_sums ? load_lanes(bias_sums + i, lanes) : (vfloat)0.0f;
        for (int r = 0; r < n; r++) {
            const vfloat g = load_lanes(y_gradient + r * columns + i, lanes);
            const vfloat normal = (load_lanes(x + r * columns + i, lanes) - means[r]) * inverses[r];
            sums[r] += g * slope;
            products[r] += g * slope * normal;
            weight_sum += g * normal;
            bias_sum += g;
        }
        if (weight_sums) store_lanes(weight_sums + i, weight_sum, lanes);
        if (bias_sums) store_lanes(bias_sums + i, bias_sum, lanes);)
    if (!x_gradient) return;
    float a[NORM_TOGETHER];
    float b[NORM_TOGETHER];
    for (int r = 0; r < n; r++) {
        a[r] = vsum(sums[r]) / (float)columns;
        b[r] = vsum(products[r]) / (float)columns;
    }
    FOR_VECTORS(i, columns,
        const vfloat slope = weight ? load_lanes(weight + i, lanes) : (vfloat)1.0f;
        for (int r = 0; r < n; r++) {
            const vfloat g = load_lanes(y_gradient + r * columns + i, lanes);
            const vfloat normal = (load_lanes(x + r * columns + i, lanes) - means[r]) * inverses[r];
            store_lanes(x_gradient + r * columns + i, (g * slope - a[r] - normal * b[r]) * inverses[r], lanes);
        })
}

static void TK_KERNEL(layer_norm_gradient_rows)(const float *y_gradient, const float *x, int64_t rows,
                                                const float *weight, const float *means, const float *inverses,
                                                float *x_gradient, float *weight_sums, float *bias_sums,
                                                int64_t columns) {
    for (int64_t i = 0, count; i < rows; i += count) {
        count = rows - i >= NORM_TOGETHER ? NORM_TOGETHER : 1;
        const float *g = y_gradient + i * columns, *from = x + i * columns;
        float *to = x_gradient ? x_gradient + i * columns : NULL;
        if (count == NORM_TOGETHER)
            normalize_gradient(NORM_TOGETHER, g, from, weight, means + i, inverses + i, to, weight_sums, bias_sums,
                               columns);
        else normalize_gradient(1, g, from, weight, means + i, inverses + i, to, weight_sums, bias_sums, columns);
    }
}

static void TK_KERNEL(add_scaled)(const float *x, float scale, float *sum, int64_t count) {
    FOR_VECTORS(i, count,
        const vfloat v = fma_((vfloat)scale, load_lanes(x + i, lanes), load_lanes(sum + i, lanes));
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
