// Gradients of activations and of layer normalisation, by rows of floats or of bfloat16 numbers.

TK_INLINE vfloats load_numbers(const bool are_rounded, const void *from, int64_t i) {
    vparts p;
    for (int j = 0; j < TK_TOGETHER; j++) p.part[j] = load_number(are_rounded, from, i + j * TK_WIDTH, TK_WIDTH);
    return vjoined(p);
}

TK_INLINE void store_numbers(const bool are_rounded, void *to, int64_t i, vfloats v) {
    const vparts p = vparts_of(v);
    for (int j = 0; j < TK_TOGETHER; j++)
        if (are_rounded) store_rounded_up_to((uint16_t *)to + i + j * TK_WIDTH, p.part[j], TK_WIDTH);
        else store((float *)to + i + j * TK_WIDTH, p.part[j]);
}

/// x_gradient = y_gradient * the derivative at the preactivation, added to column_sums where there are any; all but
/// those in bfloat16 if `are_rounded`.
TK_INLINE void activation_gradient_row(const bool are_rounded, const void *y_gradient, const void *preactivation,
                                       tk_activation activation, void *x_gradient, float *column_sums,
                                       int64_t columns) {
    int64_t i = 0;
    for (; i + TOGETHER <= columns; i += TOGETHER) {
        const vfloats x = load_numbers(are_rounded, preactivation, i);
        const vfloats slope = are_rounded ? activation_derivative_for_rounding(activation, x)
                                          : activation_derivative(activation, x);
        const vfloats v = load_numbers(are_rounded, y_gradient, i) * slope;
        store_numbers(are_rounded, x_gradient, i, v);
        if (column_sums) store_together(column_sums + i, load_together(column_sums + i) + v);
    }
    for (; i < columns; i += TK_WIDTH) {
        const int64_t lanes = columns - i < TK_WIDTH ? columns - i : TK_WIDTH;
        const vfloat x = load_number(are_rounded, preactivation, i, lanes);
        const vfloat slope = are_rounded ? activation_derivative_for_rounding(activation, x)
                                         : activation_derivative(activation, x);
        const vfloat v = load_number(are_rounded, y_gradient, i, lanes) * slope;
        if (are_rounded) store_rounded_up_to((uint16_t *)x_gradient + i, v, lanes);
        else store_lanes((float *)x_gradient + i, v, lanes);
        if (column_sums) store_lanes(column_sums + i, load_lanes(column_sums + i, lanes) + v, lanes);
    }
}

TK_UNUSED void TK_KERNEL(activation_gradient_rows)(const float *y_gradient, const float *preactivation,
                                                   tk_activation kind, float *x_gradient, float *column_sums,
                                                   int64_t rows, int64_t columns) {
    TK_FOR_ACTIVATION(kind, for (int64_t i = 0; i < rows * columns; i += columns)
        activation_gradient_row(false, y_gradient + i, preactivation + i, activation, x_gradient + i, column_sums,
                                columns))
}

static void TK_KERNEL(rounded_activation_gradient_rows)(const uint16_t *y_gradient, const uint16_t *preactivation,
                                                        tk_activation kind, uint16_t *x_gradient, float *column_sums,
                                                        int64_t rows, int64_t columns) {
    TK_FOR_ACTIVATION(kind, for (int64_t i = 0; i < rows * columns; i += columns)
        activation_gradient_row(true, y_gradient + i, preactivation + i, activation, x_gradient + i, column_sums,
                                columns))
}

/// `n` neighbouring rows, which add to the sums of weight and bias in order.
TK_INLINE void normalize_gradient(const int n, const bool is_rounded, const void *y_gradient, const float *x,
                                  const float *weight, const float *means, const float *inverses, float *x_gradient,
                                  float *weight_sums, float *bias_sums, int64_t columns) {
    vfloat sums[NORM_TOGETHER];
    vfloat products[NORM_TOGETHER];
    for (int r = 0; r < n; r++) sums[r] = products[r] = 0;
    FOR_VECTORS(i, columns,
        const vfloat slope = weight ? load_lanes(weight + i, lanes) : (vfloat)1.0f;
        vfloat weight_sum = weight_sums ? load_lanes(weight_sums + i, lanes) : (vfloat)0.0f;
        vfloat bias_sum = bias_sums ? load_lanes(bias_sums + i, lanes) : (vfloat)0.0f;
        for (int r = 0; r < n; r++) {
            const vfloat g = load_number(is_rounded, y_gradient, r * columns + i, lanes);
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
            const vfloat g = load_number(is_rounded, y_gradient, r * columns + i, lanes);
            const vfloat normal = (load_lanes(x + r * columns + i, lanes) - means[r]) * inverses[r];
            store_lanes(x_gradient + r * columns + i, (g * slope - a[r] - normal * b[r]) * inverses[r], lanes);
        })
}

TK_INLINE void normalize_gradient_rows(const bool is_rounded, const void *y_gradient, const float *x, int64_t rows,
                                       const float *weight, const float *means, const float *inverses,
                                       float *x_gradient, float *weight_sums, float *bias_sums, int64_t columns) {
    for (int64_t i = 0, count; i < rows; i += count) {
        count = rows - i >= NORM_TOGETHER ? NORM_TOGETHER : 1;
        const void *g = (const char *)y_gradient + tk_bytes(is_rounded, i * columns);
        const float *from = x + i * columns;
        float *to = x_gradient ? x_gradient + i * columns : NULL;
        if (count == NORM_TOGETHER)
            normalize_gradient(NORM_TOGETHER, is_rounded, g, from, weight, means + i, inverses + i, to, weight_sums,
                               bias_sums, columns);
        else
            normalize_gradient(1, is_rounded, g, from, weight, means + i, inverses + i, to, weight_sums, bias_sums,
                               columns);
    }
}

TK_UNUSED void TK_KERNEL(layer_norm_gradient_rows)(const void *y_gradient, bool is_rounded, const float *x,
                                                   int64_t rows, const float *weight, const float *means,
                                                   const float *inverses, float *x_gradient, float *weight_sums,
                                                   float *bias_sums, int64_t columns) {
    if (is_rounded)
        normalize_gradient_rows(true, y_gradient, x, rows, weight, means, inverses, x_gradient, weight_sums, bias_sums,
                                columns);
    else
        normalize_gradient_rows(false, y_gradient, x, rows, weight, means, inverses, x_gradient, weight_sums,
                                bias_sums, columns);
}
