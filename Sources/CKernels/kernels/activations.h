// Activations and their gradients, of floats or of bfloat16 numbers.

TK_UNUSED void TK_KERNEL(activate_range)(const float *x, float *y, int64_t count, tk_activation kind) {
    TK_FOR_ACTIVATION(kind, {
        int64_t i = 0;
        for (; i + TOGETHER <= count; i += TOGETHER) store_together(y + i, activate(activation, load_together(x + i)));
        for (; i < count; i += TK_WIDTH)
            store_up_to(y + i, activate(activation, load_up_to(x + i, count - i)), count - i);
    })
}

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

static void TK_KERNEL(activate_rounded_range)(const uint16_t *x, uint16_t *y, int64_t count, tk_activation kind) {
    TK_FOR_ACTIVATION(kind, {
        int64_t i = 0;
        for (; i + TOGETHER <= count; i += TOGETHER)
            store_numbers(true, y, i, activate_for_rounding(activation, load_numbers(true, x, i)));
        for (; i < count; i += TK_WIDTH) {
            const vfloat v = activate_for_rounding(activation, load_number(true, x, i, count - i));
            store_rounded_up_to(y + i, v, count - i);
        }
    })
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
