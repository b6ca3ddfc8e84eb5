// What group and batch normalisation need of each channel: sums over the rows, and a linear map.

// A few rows at a time, so that memory is read in order while the sums wait in the first cache.
#define FOR_ROW_BLOCKS(rows, ...)                                                                                      \
    for (int64_t first = 0; first < (rows); first += 16) {                                                             \
        const int64_t end = first + 16 < (rows) ? first + 16 : (rows);                                                 \
        __VA_ARGS__                                                                                                    \
    }

static void TK_KERNEL(column_sums)(const float *x, float *sums, int64_t rows, int64_t channels) {
    memset(sums, 0, (size_t)channels * sizeof(float));
    FOR_ROW_BLOCKS(rows, FOR_VECTORS(i, channels,
        vfloat sum = load_lanes(sums + i, lanes);
        for (int64_t r = first; r < end; r++) sum += load_lanes(x + r * channels + i, lanes);
        store_lanes(sums + i, sum, lanes);))
}

/// Sums of (x - mean)^2.
static void TK_KERNEL(column_squares)(const float *x, const float *mean, float *sums, int64_t rows, int64_t channels) {
    memset(sums, 0, (size_t)channels * sizeof(float));
    FOR_ROW_BLOCKS(rows, FOR_VECTORS(i, channels,
        const vfloat m = load_lanes(mean + i, lanes);
        vfloat sum = load_lanes(sums + i, lanes);
        for (int64_t r = first; r < end; r++) {
            const vfloat centred = load_lanes(x + r * channels + i, lanes) - m;
            sum = fma_(centred, centred, sum);
        }
        store_lanes(sums + i, sum, lanes);))
}

/// Sums of the gradient, and of the gradient times (x - mean).
static void TK_KERNEL(column_products)(const float *y_gradient, const float *x, const float *mean, float *sums,
                                       float *products, int64_t rows, int64_t channels) {
    memset(sums, 0, (size_t)channels * sizeof(float));
    memset(products, 0, (size_t)channels * sizeof(float));
    FOR_ROW_BLOCKS(rows, FOR_VECTORS(i, channels,
        const vfloat m = load_lanes(mean + i, lanes);
        vfloat sum = load_lanes(sums + i, lanes);
        vfloat product = load_lanes(products + i, lanes);
        for (int64_t r = first; r < end; r++) {
            const vfloat g = load_lanes(y_gradient + r * channels + i, lanes);
            sum += g;
            product = fma_(g, load_lanes(x + r * channels + i, lanes) - m, product);
        }
        store_lanes(sums + i, sum, lanes);
        store_lanes(products + i, product, lanes);))
}

/// y = slope * x + shift, plus gain * gradient where there is a gradient.
static void TK_KERNEL(column_map)(const float *x, const float *slope, const float *shift, const float *y_gradient,
                                  const float *gain, float *y, int64_t rows, int64_t channels) {
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = r * channels;
        FOR_VECTORS(i, channels,
            vfloat v = fma_(load_lanes(slope + i, lanes), load_lanes(x + at + i, lanes), load_lanes(shift + i, lanes));
            if (y_gradient) v = fma_(load_lanes(gain + i, lanes), load_lanes(y_gradient + at + i, lanes), v);
            store_lanes(y + at + i, v, lanes);)
    }
}
