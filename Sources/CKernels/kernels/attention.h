// Rows of attention weights: softmax, its gradient, dropout.

static void TK_KERNEL(exp_minus)(float *scores, int64_t count, float offset) {
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) store(scores + i, vexp(load(scores + i) - offset));
    if (i < count) store_first(scores + i, vexp(load_first(scores + i, count - i) - offset), count - i);
}

static void TK_KERNEL(softmax_in_place)(float *scores, int64_t count, float *log_sum_exp) {
    vfloat greatest = -INFINITY;
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) greatest = vmax(greatest, load(scores + i));
    float top = vgreatest(greatest);
    for (; i < count; i++) top = scores[i] > top ? scores[i] : top;
    if (top == -INFINITY) top = 0;              // a row that is masked out whole gives NaN, not a crash
    vfloat sums = 0;
    for (i = 0; i + TK_WIDTH <= count; i += TK_WIDTH) {
        vfloat e = vexp(load(scores + i) - top);
        sums += e;
        store(scores + i, e);
    }
    float sum = vsum(sums);
    if (i < count) {
        vfloat e = vexp(load_first(scores + i, count - i) - top);
        for (int64_t lane = 0; lane < count - i; lane++) sum += e[lane];
        store_first(scores + i, e, count - i);
    }
    const float inverse = 1 / sum;
    for (i = 0; i + TK_WIDTH <= count; i += TK_WIDTH) store(scores + i, load(scores + i) * inverse);
    for (; i < count; i++) scores[i] *= inverse;
    *log_sum_exp = top + logf(sum);
}

static void TK_KERNEL(masked)(const float *x, float *y, int64_t count, float rate, uint64_t seed) {
    TK_KERNEL(dropout)(x, y, count, 0, (uint32_t)(seed ^ seed >> 32), (uint32_t)((double)rate * 4294967296.0),
                       1 / (1 - rate));
}

static void TK_KERNEL(softmax_gradient)(const float *weights, float *gradient, int64_t count, float mean) {
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) store(gradient + i, load(weights + i) * (load(gradient + i) - mean));
    for (; i < count; i++) gradient[i] = weights[i] * (gradient[i] - mean);
}

static float TK_KERNEL(dot)(const float *a, const float *b, int64_t count) {
    vfloat sums = 0;
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) sums = fma_(load(a + i), load(b + i), sums);
    float sum = vsum(sums);
    for (; i < count; i++) sum += a[i] * b[i];
    return sum;
}
