// Sums of a row, and layer normalisation of rows and its gradient, in floats or in bfloat16.

/// Four accumulators hide the latency of the addition.
static float TK_KERNEL(run_sum)(const float *x, int64_t count) {
    vfloat sums[4] = {0, 0, 0, 0};
    int64_t start = 0;
    for (; start + 4 * TK_WIDTH <= count; start += 4 * TK_WIDTH)
        for (int j = 0; j < 4; j++) sums[j] += load(x + start + j * TK_WIDTH);
    FOR_VECTORS(i, count - start, sums[0] += load_lanes(x + start + i, lanes);)
    return vsum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

enum { NORM_TOGETHER = 4 };             // rows: each is a chain of sums and divisions that wait for each other

/// `n` rows; x and y are where they begin.
TK_INLINE void normalize(const int n, const bool rounds, const float *const x[NORM_TOGETHER], const float *weight,
                         const float *bias, float epsilon, void *const y[NORM_TOGETHER], float mean[NORM_TOGETHER],
                         float inverse[NORM_TOGETHER], int64_t columns) {
    const float share = 1 / (float)columns;
    vfloat squares[NORM_TOGETHER][2];
    for (int r = 0; r < n; r++) squares[r][0] = squares[r][1] = 0;
    for (int r = 0; r < n; r++) mean[r] = share * TK_KERNEL(run_sum)(x[r], columns);
    int64_t start = 0;
    for (; start + 2 * TK_WIDTH <= columns; start += 2 * TK_WIDTH)
        for (int r = 0; r < n; r++)
            for (int j = 0; j < 2; j++) {
                const vfloat d = load(x[r] + start + j * TK_WIDTH) - mean[r];
                squares[r][j] += d * d;
            }
    FOR_VECTORS(i, columns - start,
        for (int r = 0; r < n; r++) {
            const vfloat d = lane_mask(lanes, load_lanes(x[r] + start + i, lanes) - mean[r]);
            squares[r][0] += d * d;
        })
    for (int r = 0; r < n; r++) inverse[r] = 1 / sqrtf(share * vsum(squares[r][0] + squares[r][1]) + epsilon);
    FOR_VECTORS(i, columns,
        const vfloat slope = weight ? load_lanes(weight + i, lanes) : (vfloat)1.0f;
        const vfloat shift = bias ? load_lanes(bias + i, lanes) : (vfloat)0.0f;
        for (int r = 0; r < n; r++) {
            const vfloat v = (load_lanes(x[r] + i, lanes) - mean[r]) * inverse[r] * slope + shift;
            if (rounds) store_rounded_up_to((uint16_t *)y[r] + i, v, lanes);
            else store_lanes((float *)y[r] + i, v, lanes);
        })
}

TK_INLINE void normalize_rows(const bool rounds, const float *x, int64_t x_row, int64_t rows, const float *weight,
                              const float *bias, float epsilon, void *y, int64_t y_row, float *means,
                              float *inverses, int64_t columns) {
    const int64_t y_bytes = tk_bytes(rounds, y_row);
    for (int64_t i = 0, count; i < rows; i += count) {
        count = rows - i >= NORM_TOGETHER ? NORM_TOGETHER : 1;
        const float *from[NORM_TOGETHER];
        void *to[NORM_TOGETHER];
        float mean[NORM_TOGETHER], inverse[NORM_TOGETHER];
        for (int64_t r = 0; r < count; r++) {
            from[r] = x + (i + r) * x_row;
            to[r] = (char *)y + (i + r) * y_bytes;
        }
        if (count == NORM_TOGETHER)
            normalize(NORM_TOGETHER, rounds, from, weight, bias, epsilon, to, mean, inverse, columns);
        else normalize(1, rounds, from, weight, bias, epsilon, to, mean, inverse, columns);
        if (means) memcpy(means + i, mean, (size_t)count * sizeof(float));
        if (inverses) memcpy(inverses + i, inverse, (size_t)count * sizeof(float));
    }
}

TK_UNUSED void TK_KERNEL(layer_norm_rows)(const float *x, int64_t x_row, int64_t rows, const float *weight,
                                          const float *bias, float epsilon, float *y, int64_t y_row, float *means,
                                          float *inverses, int64_t columns) {
    normalize_rows(false, x, x_row, rows, weight, bias, epsilon, y, y_row, means, inverses, columns);
}

static void TK_KERNEL(rounded_layer_norm_rows)(const float *x, int64_t x_row, int64_t rows, const float *weight,
                                               const float *bias, float epsilon, uint16_t *y, int64_t y_row,
                                               float *means, float *inverses, int64_t columns) {
    normalize_rows(true, x, x_row, rows, weight, bias, epsilon, y, y_row, means, inverses, columns);
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
