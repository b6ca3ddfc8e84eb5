// Sums and maxima along one axis or over everything.

/// y[i] = the sum of weights[t] * x[columns[t]][i].
static void TK_KERNEL(weighted_sum)(const float *x, const int32_t *columns, const float *weights, int64_t taps,
                                    float *y, int64_t inner) {
    FOR_VECTORS(i, inner,
        vfloat sum = 0;
        for (int64_t t = 0; t < taps; t++)
            sum = fma_((vfloat)weights[t], load_lanes(x + columns[t] * inner + i, lanes), sum);
        store_lanes(y + i, sum, lanes);)
}

/// y[t] = the sum of x[columns[t]][i] * with[i].
static void TK_KERNEL(gathered_dots)(const float *x, const int32_t *columns, int64_t count, const float *with, float *y,
                                     int64_t inner) {
    for (int64_t t = 0; t < count; t++) {
        vfloat sum = 0;
        FOR_VECTORS(i, inner,
            sum = fma_(load_lanes(x + columns[t] * inner + i, lanes), load_lanes(with + i, lanes), sum);)
        y[t] = vsum(sum);
    }
}

TK_INLINE vfloat greater(vfloat a, vfloat b) { return vselect((b > a) | (b != b), b, a); }

static void TK_KERNEL(greatest_rows)(const float *x, float *y, int64_t count, int64_t inner) {
    if (inner == 1) {
        vfloat best = -INFINITY;
        int64_t i = 0;
        for (; i + TK_WIDTH <= count; i += TK_WIDTH) best = greater(best, load(x + i));
        float rest = vgreatest(best);
        for (; i < count; i++) rest = x[i] > rest || x[i] != x[i] ? x[i] : rest;
        *y = rest;
        return;
    }
    FOR_VECTORS(i, inner,
        vfloat best = -INFINITY;
        for (int64_t k = 0; k < count; k++) best = greater(best, load_lanes(x + k * inner + i, lanes));
        store_lanes(y + i, best, lanes);)
}

static void TK_KERNEL(power_range)(const float *x, float exponent, float *y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = powf(x[i], exponent);
}

/// The lanes past the end count as zero.
static double TK_KERNEL(squares_range)(const float *x, int64_t count) {
    vdouble sums = 0;
    FOR_VECTORS(i, count,
        const vdouble v = __builtin_convertvector(load_lanes(x + i, lanes), vdouble);
        sums += v * v;)
    double sum = 0;
    for (int lane = 0; lane < TK_WIDTH; lane++) sum += sums[lane];
    return sum;
}

/// max(x, 0) - t x + log(1 + exp(-|x|)), which never overflows.
static double TK_KERNEL(binary_cross_entropy_range)(const float *logits, const float *targets, int64_t count) {
    vdouble sums = 0;
    FOR_VECTORS(i, count,
        const vfloat x = load_lanes(logits + i, lanes);
        vfloat loss = vmax(x, (vfloat)0) - load_lanes(targets + i, lanes) * x + vlog(1.0f + vexp(-vabs(x)));
        if (lanes < TK_WIDTH) loss = lane_mask(lanes, loss);
        sums += __builtin_convertvector(loss, vdouble);)
    double sum = 0;
    for (int lane = 0; lane < TK_WIDTH; lane++) sum += sums[lane];
    return sum;
}

static void TK_KERNEL(binary_cross_entropy_gradient_range)(const float *logits, const float *targets, float scale,
                                                           float *gradient, int64_t count) {
    FOR_VECTORS(i, count,
        const vfloat error = vsigmoid(load_lanes(logits + i, lanes)) - load_lanes(targets + i, lanes);
        store_lanes(gradient + i, scale * error, lanes);)
}
