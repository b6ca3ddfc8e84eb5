// Sums and layer normalisation of a row, in floats or rounded to bfloat16.

/// Four accumulators hide the latency of the addition.
static float TK_KERNEL(run_sum)(const float *x, int64_t count) {
    vfloat sums[4] = {0, 0, 0, 0};
    int64_t start = 0;
    for (; start + 4 * TK_WIDTH <= count; start += 4 * TK_WIDTH)
        for (int j = 0; j < 4; j++) sums[j] += load(x + start + j * TK_WIDTH);
    FOR_VECTORS(i, count - start, sums[0] += load_lanes(x + start + i, lanes);)
    return vsum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

TK_INLINE void normalize(const bool rounds, const float *x, const float *weight, const float *bias, float epsilon,
                         void *y, float *mean_out, float *inverse_out, int64_t columns) {
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
        if (rounds) store_rounded_up_to((uint16_t *)y + i, v, lanes);
        else store_lanes((float *)y + i, v, lanes);)
    if (mean_out) *mean_out = mean;
    if (inverse_out) *inverse_out = inverse;
}

__attribute__((unused)) static void TK_KERNEL(layer_norm_row)(const float *x, const float *weight, const float *bias, float epsilon, float *y,
                                      float *mean, float *inverse, int64_t columns) {
    normalize(false, x, weight, bias, epsilon, y, mean, inverse, columns);
}

static void TK_KERNEL(rounded_layer_norm_row)(const float *x, const float *weight, const float *bias, float epsilon,
                                              uint16_t *y, float *mean, float *inverse, int64_t columns) {
    normalize(true, x, weight, bias, epsilon, y, mean, inverse, columns);
}
