// Sums of a row, and layer normalisation of rows, in floats or rounded to bfloat16.

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
