// Depthwise convolution: each channel has its own filter, so vectors run along channels.

/// The kernel offsets of one axis that meet the image, and the image's coordinates there.
typedef struct {
    int count;
    int16_t offset[TK_MOST_DEPTHWISE];
    int64_t coordinate[TK_MOST_DEPTHWISE];
} axis_taps;

TK_INLINE void find_taps(bool is_transposed, int64_t place, int64_t kernel, int64_t dilation, int64_t pad,
                         int64_t stride, int64_t extent, axis_taps *taps) {
    taps->count = 0;
    for (int64_t offset = 0; offset < kernel; offset++) {
        const int64_t i = image_coordinate(is_transposed, place, offset * dilation, pad, stride, extent);
        if (i < 0) continue;
        taps->offset[taps->count] = (int16_t)offset;
        taps->coordinate[taps->count++] = i;
    }
}

/// Sums of `vectors` vectors of channels at one place, over the taps that meet the image.
TK_INLINE void depthwise_sum(const tk_patches *p, const float *image, const axis_taps *rows, const axis_taps *columns,
                             const float *weights, const float *bias, int64_t channel, const int vectors, float *out) {
    const int64_t channels = p->image_channels;
    vfloat sums[4];
#pragma clang loop unroll(full)
    for (int j = 0; j < vectors; j++) sums[j] = bias ? load(bias + channel + j * TK_WIDTH) : (vfloat)0.0f;
    for (int r = 0; r < rows->count; r++)
        for (int s = 0; s < columns->count; s++) {
            const int64_t pixel = rows->coordinate[r] * p->image_width + columns->coordinate[s];
            const float *x = image + pixel * channels + channel;
            const float *w = weights + (rows->offset[r] * p->c->kernel_width + columns->offset[s]) * channels + channel;
#pragma clang loop unroll(full)
            for (int j = 0; j < vectors; j++)
                sums[j] = fma_(load(x + j * TK_WIDTH), load(w + j * TK_WIDTH), sums[j]);
        }
#pragma clang loop unroll(full)
    for (int j = 0; j < vectors; j++) store(out + channel + j * TK_WIDTH, sums[j]);
}

/// All places of line `line` (image * places_height + y).
static void TK_KERNEL(depthwise_line)(const tk_patches *p, int64_t line, const float *weights, const float *bias,
                                      float *out) {
    const tk_convolution *c = p->c;
    const int64_t channels = p->image_channels;
    const float *image = p->image + line / p->places_height * p->image_height * p->image_width * channels;
    axis_taps rows, columns;
    find_taps(p->is_transposed_convolution, line % p->places_height, c->kernel_height, c->dilation_height, c->pad_top,
              c->stride_height, p->image_height, &rows);
    for (int64_t place = 0; place < p->places_width; place++, out += channels) {
        find_taps(p->is_transposed_convolution, place, c->kernel_width, c->dilation_width, c->pad_left, c->stride_width,
                  p->image_width, &columns);
        int64_t channel = 0;
        for (; channel + 4 * TK_WIDTH <= channels; channel += 4 * TK_WIDTH)
            depthwise_sum(p, image, &rows, &columns, weights, bias, channel, 4, out);
        for (; channel + TK_WIDTH <= channels; channel += TK_WIDTH)
            depthwise_sum(p, image, &rows, &columns, weights, bias, channel, 1, out);
        for (; channel < channels; channel++) {
            float sum = bias ? bias[channel] : 0;
            for (int r = 0; r < rows.count; r++)
                for (int s = 0; s < columns.count; s++)
                    sum += image[(rows.coordinate[r] * p->image_width + columns.coordinate[s]) * channels + channel]
                        * weights[(rows.offset[r] * c->kernel_width + columns.offset[s]) * channels + channel];
            out[channel] = sum;
        }
    }
}

/// Adds to sums [kernel place][channel] the products of the gradient at the places of a line with what they see.
static void TK_KERNEL(depthwise_weight_line)(const tk_patches *p, int64_t line, const float *gradient, float *sums) {
    const tk_convolution *c = p->c;
    const int64_t channels = p->image_channels, step = c->stride_width * channels;
    const float *image = p->image + line / p->places_height * p->image_height * p->image_width * channels;
    axis_taps rows;
    find_taps(false, line % p->places_height, c->kernel_height, c->dilation_height, c->pad_top, c->stride_height,
              p->image_height, &rows);
    for (int r = 0; r < rows.count; r++)
        for (int64_t kx = 0; kx < c->kernel_width; kx++) {
            // The places whose column kx lies inside the image.
            const int64_t shift = kx * c->dilation_width - c->pad_left;
            const int64_t first = shift < 0 ? (-shift + c->stride_width - 1) / c->stride_width : 0;
            const int64_t beyond = p->image_width - shift;
            int64_t end = beyond > 0 ? (beyond + c->stride_width - 1) / c->stride_width : 0;
            if (end > p->places_width) end = p->places_width;
            if (first >= end) continue;
            const int64_t pixel = rows.coordinate[r] * p->image_width + first * c->stride_width + shift;
            const float *x0 = image + pixel * channels;
            const float *g0 = gradient + first * channels;
            float *sum = sums + (rows.offset[r] * c->kernel_width + kx) * channels;
            int64_t channel = 0;
            for (; channel + TK_WIDTH <= channels; channel += TK_WIDTH) {
                vfloat total = load(sum + channel);
                const float *x = x0 + channel, *g = g0 + channel;
                for (int64_t place = first; place < end; place++, x += step, g += channels)
                    total = fma_(load(x), load(g), total);
                store(sum + channel, total);
            }
            for (; channel < channels; channel++)
                for (int64_t place = 0; place < end - first; place++)
                    sum[channel] += x0[place * step + channel] * g0[place * channels + channel];
        }
}
