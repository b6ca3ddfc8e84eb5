static void TK_KERNEL(add)(const float *a, const float *b, float *y, int64_t count) {
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) store(y + i, load(a + i) + load(b + i));
    for (; i < count; i++) y[i] = a[i] + b[i];
}
