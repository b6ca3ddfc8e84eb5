// Rows of attention in floats or rounded to bfloat16: the numerators of softmax, what is divided by their sums, gradients.

/// A vector of scores, scaled, plus bias; `padding` beyond the last key.
TK_INLINE vfloat scaled(const float *scores, float scale, const float *bias, int64_t i, int64_t keys, float padding) {
    vfloat v = scale * load(scores + i);
    if (bias) v += load_up_to(bias + i, keys - i);
    return keys - i < TK_WIDTH ? vselect(lanes_before(keys - i), v, (vfloat)padding) : v;
}

/// Zeros behind the last whole vector that holds a key.
TK_INLINE void clear_padding(float *row, int64_t keys, int64_t columns) {
    for (int64_t i = (keys + TK_WIDTH - 1) / TK_WIDTH * TK_WIDTH; i < columns; i += TK_WIDTH) store(row + i, (vfloat)0.0f);
}

/// The same of bfloat16 numbers, up to a multiple of 32 of them, as far as the row reaches.
TK_INLINE void clear_rounded_padding(float *row, int64_t keys, int64_t columns) {
    int64_t i = (keys + TK_WIDTH - 1) / TK_WIDTH * TK_WIDTH;
    for (; i < 2 * columns && i % 32 != 0; i += TK_WIDTH)
        store_rounded_up_to((uint16_t *)(void *)row + i, (vfloat)0.0f, TK_WIDTH);
}

/// Numerators take the place of scores. Rounded ones take half of it: they never overtake the scores.
TK_INLINE float numerators(const bool rounds, float *scores, float scale, const float *bias, int64_t keys,
                           int64_t columns, float *sum) {
    vfloats tops = -INFINITY, totals = 0;
    vfloat greatest = -INFINITY, sums = 0;
    int64_t i = 0;
    for (; i + TOGETHER <= keys; i += TOGETHER) {
        vfloats v = scale * load_together(scores + i);
        if (bias) store_together(scores + i, v += load_together(bias + i));
        tops = vmax(tops, v);
    }
    for (; i < keys; i += TK_WIDTH) {
        const vfloat v = scaled(scores, scale, bias, i, keys, -INFINITY);
        greatest = vmax(greatest, v);
        store(scores + i, v);
    }
    for (int j = 0; j < TK_TOGETHER; j++) greatest = vmax(greatest, vparts_of(tops).part[j]);
    float top = vgreatest(greatest);
    if (top == -INFINITY) top = 0;              // a row that is masked out whole gives NaN, not a crash
    uint16_t *rounded = (uint16_t *)(void *)scores;
    const float factor = bias ? 1 : scale;
    for (i = 0; i + TOGETHER <= keys; i += TOGETHER) {
        const vfloats x = fma_(load_together(scores + i), (vfloats)factor, (vfloats)-top);
        const vfloats e = rounds ? rough_exp(x) : vexp_bounded(x);
        totals += e;
        if (!rounds) store_together(scores + i, e);
        for (int j = 0; rounds && j < TK_TOGETHER; j++)
            store_rounded_up_to(rounded + i + j * TK_WIDTH, vparts_of(e).part[j], TK_WIDTH);
    }
    for (; i < keys; i += TK_WIDTH) {
        const vfloat x = load(scores + i) - top, e = rounds ? rough_exp(x) : vexp_bounded(x);
        sums += e;
        if (rounds) store_rounded_up_to(rounded + i, e, TK_WIDTH);
        else store(scores + i, e);
    }
    if (rounds) clear_rounded_padding(scores, keys, columns);
    else clear_padding(scores, keys, columns);
    for (int j = 0; j < TK_TOGETHER; j++) sums += vparts_of(totals).part[j];
    *sum = vsum(sums);
    return top;
}

TK_UNUSED float TK_KERNEL(softmax_numerators)(float *scores, float scale, const float *bias, int64_t keys,
                                              int64_t columns, float *sum) {
    return numerators(false, scores, scale, bias, keys, columns, sum);
}

static float TK_KERNEL(rounded_numerators)(float *scores, float scale, const float *bias, int64_t keys,
                                           int64_t columns, float *sum) {
    return numerators(true, scores, scale, bias, keys, columns, sum);
}

TK_INLINE void divided_rows(const bool rounds, const float *x, int64_t x_row, int64_t rows, int64_t columns,
                            const float *divisors, void *y, int64_t y_row) {
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x + r * x_row, factor = divisors ? 1 / divisors[r] : 1;
        FOR_VECTORS(i, columns,
            const vfloat v = factor * load_lanes(from + i, lanes);
            if (rounds) store_rounded_up_to((uint16_t *)y + r * y_row + i, v, lanes);
            else store_lanes((float *)y + r * y_row + i, v, lanes);)
    }
}

static void TK_KERNEL(divide_rows)(const float *x, int64_t x_row, int64_t rows, int64_t columns, const float *divisors,
                                   void *y, bool y_is_rounded, int64_t y_row) {
    if (y_is_rounded) divided_rows(true, x, x_row, rows, columns, divisors, y, y_row);
    else divided_rows(false, x, x_row, rows, columns, divisors, y, y_row);
}

/// Weights and gradients take the place of scores and of the gradients of weights; rounded ones half of it.
TK_INLINE void gradients_of_scores(const bool rounds, float *scores, float *gradient, float scale, const float *bias,
                                   int64_t keys, int64_t columns, float log_sum_exp) {
    vfloats totals = 0;
    vfloat sums = 0;
    int64_t i = 0;
    for (; i + TOGETHER <= keys; i += TOGETHER) {
        vfloats v = scale * load_together(scores + i);
        if (bias) v += load_together(bias + i);
        const vfloats p = vexp_bounded(v - log_sum_exp);
        totals = fma_(p, load_together(gradient + i), totals);
        store_together(scores + i, p);
    }
    for (; i < keys; i += TK_WIDTH) {
        const vfloat p = vexp_bounded(scaled(scores, scale, bias, i, keys, -INFINITY) - log_sum_exp);
        vfloat g = load(gradient + i);
        if (keys - i < TK_WIDTH) g = lane_mask(keys - i, g);
        sums = fma_(p, g, sums);
        store(scores + i, p);
        store(gradient + i, g);
    }
    for (int j = 0; j < TK_TOGETHER; j++) sums += vparts_of(totals).part[j];
    const float mean = vsum(sums);
    for (i = 0; i < keys; i += TK_WIDTH) {
        const vfloat p = load(scores + i), g = p * (load(gradient + i) - mean);
        if (rounds) {
            store_rounded_up_to((uint16_t *)(void *)scores + i, p, TK_WIDTH);
            store_rounded_up_to((uint16_t *)(void *)gradient + i, g, TK_WIDTH);
        } else {
            store(gradient + i, g);
        }
    }
    if (rounds) {
        clear_rounded_padding(scores, keys, columns);
        clear_rounded_padding(gradient, keys, columns);
    } else {
        clear_padding(scores, keys, columns);
        clear_padding(gradient, keys, columns);
    }
}

static void TK_KERNEL(attention_gradient)(float *scores, float *gradient, bool rounds, float scale, const float *bias,
                                          int64_t keys, int64_t columns, float log_sum_exp) {
    if (rounds) gradients_of_scores(true, scores, gradient, scale, bias, keys, columns, log_sum_exp);
    else gradients_of_scores(false, scores, gradient, scale, bias, keys, columns, log_sum_exp);
}
