// Rows of attention weights: softmax, its gradient, dropout.

static void TK_KERNEL(softmax_in_place)(float *scores, int64_t count, float *log_sum_exp) {
    vfloat greatest = -INFINITY;
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) greatest = vmax(greatest, load(scores + i));
    float top = vgreatest(greatest);
    for (; i < count; i++) top = scores[i] > top ? scores[i] : top;
    if (top == -INFINITY) top = 0;              // a row that is masked out whole gives NaN, not a crash
    vfloat sums = 0;
    for (i = 0; i + TK_WIDTH <= count; i += TK_WIDTH) {
        vfloat e = vexp_bounded(load(scores + i) - top);
        sums += e;
        store(scores + i, e);
    }
    float sum = vsum(sums);
    if (i < count) {
        vfloat e = vexp_bounded(load_first(scores + i, count - i) - top);
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

/// A vector of scores plus bias; `padding` beyond the last key.
TK_INLINE vfloat biased(const float *scores, const float *bias, int64_t i, int64_t keys, float padding) {
    vfloat v = load(scores + i);
    if (bias) v += load_up_to(bias + i, keys - i);
    return keys - i < TK_WIDTH ? vselect(lanes_before(keys - i), v, (vfloat)padding) : v;
}

/// Zeros behind the last whole vector that holds a key.
TK_INLINE void clear_padding(float *row, int64_t keys, int64_t columns) {
    for (int64_t i = (keys + TK_WIDTH - 1) / TK_WIDTH * TK_WIDTH; i < columns; i += TK_WIDTH) store(row + i, (vfloat)0.0f);
}

static float TK_KERNEL(softmax_numerators)(float *scores, const float *bias, int64_t keys, int64_t columns,
                                           float *sum) {
    vfloats tops = -INFINITY, totals = 0;
    vfloat greatest = -INFINITY, sums = 0;
    int64_t i = 0;
    for (; i + TOGETHER <= keys; i += TOGETHER) {
        vfloats v = load_together(scores + i);
        if (bias) store_together(scores + i, v += load_together(bias + i));
        tops = vmax(tops, v);
    }
    for (; i < keys; i += TK_WIDTH) {
        const vfloat v = biased(scores, bias, i, keys, -INFINITY);
        greatest = vmax(greatest, v);
        store(scores + i, v);
    }
    for (int j = 0; j < TK_TOGETHER; j++) greatest = vmax(greatest, vparts_of(tops).part[j]);
    float top = vgreatest(greatest);
    if (top == -INFINITY) top = 0;              // a row that is masked out whole gives NaN, not a crash
    for (i = 0; i + TOGETHER <= keys; i += TOGETHER) {
        const vfloats e = vexp_bounded(load_together(scores + i) - top);
        totals += e;
        store_together(scores + i, e);
    }
    for (; i < keys; i += TK_WIDTH) {
        const vfloat e = vexp_bounded(load(scores + i) - top);
        sums += e;
        store(scores + i, e);
    }
    clear_padding(scores, keys, columns);
    for (int j = 0; j < TK_TOGETHER; j++) sums += vparts_of(totals).part[j];
    *sum = vsum(sums);
    return top;
}

static void TK_KERNEL(attention_gradient)(float *scores, float *gradient, const float *bias, int64_t keys,
                                          int64_t columns, float log_sum_exp) {
    vfloats totals = 0;
    vfloat sums = 0;
    int64_t i = 0;
    for (; i + TOGETHER <= keys; i += TOGETHER) {
        const vfloats v = bias ? load_together(scores + i) + load_together(bias + i) : load_together(scores + i);
        const vfloats p = vexp_bounded(v - log_sum_exp);
        totals = fma_(p, load_together(gradient + i), totals);
        store_together(scores + i, p);
    }
    for (; i < keys; i += TK_WIDTH) {
        const vfloat p = vexp_bounded(biased(scores, bias, i, keys, -INFINITY) - log_sum_exp);
        vfloat g = load(gradient + i);
        if (keys - i < TK_WIDTH) g = lane_mask(keys - i, g);
        sums = fma_(p, g, sums);
        store(scores + i, p);
        store(gradient + i, g);
    }
    for (int j = 0; j < TK_TOGETHER; j++) sums += vparts_of(totals).part[j];
    const float mean = vsum(sums);
    for (i = 0; i < keys; i += TK_WIDTH) store(gradient + i, load(scores + i) * (load(gradient + i) - mean));
    clear_padding(scores, keys, columns);
    clear_padding(gradient, keys, columns);
}
