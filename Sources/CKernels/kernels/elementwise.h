// Elementwise kernels, on whole vectors with a partial one at the end.

#define FOR_VECTORS(i, count, ...) \
    { int64_t i = 0; for (; i + TK_WIDTH <= (count); i += TK_WIDTH) { const int64_t lanes = TK_WIDTH; __VA_ARGS__ } \
      if (i < (count)) { const int64_t lanes = (count) - i; __VA_ARGS__ } }

TK_INLINE vfloat load_lanes(const float *p, int64_t lanes) {
    return lanes == TK_WIDTH ? load(p) : load_first(p, lanes);
}
TK_INLINE void store_lanes(float *p, vfloat v, int64_t lanes) {
    if (lanes == TK_WIDTH) store(p, v);
    else store_first(p, v, lanes);
}


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

TK_INLINE vfloat lane_mask(int64_t lanes, vfloat v) { return vselect(lanes_before(lanes), v, (vfloat)0.0f); }

/// Four accumulators hide the latency of the addition.
static float TK_KERNEL(run_sum)(const float *x, int64_t count) {
    vfloat sums[4] = {0, 0, 0, 0};
    int64_t start = 0;
    for (; start + 4 * TK_WIDTH <= count; start += 4 * TK_WIDTH)
        for (int j = 0; j < 4; j++) sums[j] += load(x + start + j * TK_WIDTH);
    FOR_VECTORS(i, count - start, sums[0] += load_lanes(x + start + i, lanes);)
    return vsum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

static void TK_KERNEL(layer_norm_row)(const float *x, const float *weight, const float *bias, float epsilon, float *y,
                                      float *mean_out, float *inverse_out, int64_t columns) {
    const float share = 1 / (float)columns;
    const float mean = share * TK_KERNEL(run_sum)(x, columns);
    // Two accumulators: a row is short, and a chain of additions would take most of its time.
    vfloat squares[2] = {0, 0};
    int64_t start = 0;
    for (; start + 2 * TK_WIDTH <= columns; start += 2 * TK_WIDTH)
        for (int j = 0; j < 2; j++) {
            const vfloat d = load(x + start + j * TK_WIDTH) - mean;
            squares[j] += d * d;
        }
    FOR_VECTORS(i, columns - start,
        const vfloat d = lane_mask(lanes, load_lanes(x + start + i, lanes) - mean);
        squares[0] += d * d;)
    const float inverse = 1 / sqrtf(share * vsum(squares[0] + squares[1]) + epsilon);
    FOR_VECTORS(i, columns,
        vfloat v = (load_lanes(x + i, lanes) - mean) * inverse;
        if (weight) v *= load_lanes(weight + i, lanes);
        if (bias) v += load_lanes(bias + i, lanes);
        store_lanes(y + i, v, lanes);)
    if (mean_out) *mean_out = mean;
    if (inverse_out) *inverse_out = inverse;
}

static void TK_KERNEL(layer_norm_gradient_row)(const float *y_gradient, const float *x, const float *weight, float mean,
                                               float inverse, float *x_gradient, float *weight_sums, float *bias_sums,
                                               int64_t columns) {
    vfloat sums = 0, products = 0;
    FOR_VECTORS(i, columns,
        const vfloat g = load_lanes(y_gradient + i, lanes);
        vfloat n = (load_lanes(x + i, lanes) - mean) * inverse;
        const vfloat scaled = weight ? g * load_lanes(weight + i, lanes) : g;
        sums += scaled;
        products += scaled * n;
        if (weight_sums) store_lanes(weight_sums + i, load_lanes(weight_sums + i, lanes) + g * n, lanes);
        if (bias_sums) store_lanes(bias_sums + i, load_lanes(bias_sums + i, lanes) + g, lanes);)
    if (!x_gradient) return;
    const float a = vsum(sums) / (float)columns, b = vsum(products) / (float)columns;
    FOR_VECTORS(i, columns,
        const vfloat g = load_lanes(y_gradient + i, lanes);
        const vfloat n = (load_lanes(x + i, lanes) - mean) * inverse;
        const vfloat scaled = weight ? g * load_lanes(weight + i, lanes) : g;
        store_lanes(x_gradient + i, (scaled - a - n * b) * inverse, lanes);)
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
