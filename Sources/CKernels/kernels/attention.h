// Rows of attention weights: softmax, its gradient, dropout.
#include "softmax.h"

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

static void TK_KERNEL(attention_gradient)(float *scores, float *gradient, float scale, const float *bias,
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
    for (i = 0; i < keys; i += TK_WIDTH) store(gradient + i, load(scores + i) * (load(gradient + i) - mean));
    clear_padding(scores, keys, columns);
    clear_padding(gradient, keys, columns);
}
