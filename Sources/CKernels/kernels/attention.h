// The softmax of a row.
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
