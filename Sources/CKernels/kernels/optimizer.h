// One step of each optimizer, and the random masks of dropout.

TK_INLINE void adam_element(vfloat *w, vfloat *m, vfloat *v, vfloat g, const struct tk_adam_factors *f) {
    g = fma_((vfloat)f->coupled_decay, *w, g * f->gradient_scale);
    *m = fma_((vfloat)f->beta1, *m, g * (1 - f->beta1));
    *v = fma_((vfloat)f->beta2, *v, g * g * (1 - f->beta2));
    vfloat root = __builtin_elementwise_sqrt(*v) * f->inverse_root_correction + f->epsilon;
    *w = *w * f->keep - *m / root * f->step_size;
}

static void TK_KERNEL(adam)(float *weight, float *first, float *second, const float *gradient, int64_t count,
                            const struct tk_adam_factors *factors) {
    const struct tk_adam_factors f = *factors;
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) {
        vfloat w = load(weight + i), m = load(first + i), v = load(second + i);
        adam_element(&w, &m, &v, load(gradient + i), &f);
        store(weight + i, w);
        store(first + i, m);
        store(second + i, v);
    }
    for (; i < count; i++) {
        vfloat w = weight[i], m = first[i], v = second[i];
        adam_element(&w, &m, &v, (vfloat)gradient[i], &f);
        weight[i] = w[0];
        first[i] = m[0];
        second[i] = v[0];
    }
}

static void TK_KERNEL(sgd)(float *weight, float *buffer, const float *gradient, int64_t count, float rate,
                           float momentum, bool nesterov, float decay, float scale) {
    for (int64_t i = 0; i < count; i++) {
        float g = gradient[i] * scale + decay * weight[i];
        float b = momentum * buffer[i] + g;
        buffer[i] = b;
        weight[i] -= rate * (nesterov ? g + momentum * b : b);
    }
}

static void TK_KERNEL(moving_average)(float *average, const float *weight, int64_t count, float decay) {
    for (int64_t i = 0; i < count; i++) average[i] = decay * average[i] + (1 - decay) * weight[i];
}

/// 32 well-mixed bits for each counter value and key: two rounds of a multiply-xorshift hash.
TK_INLINE vuint random_bits(vuint counter, uint32_t key) {
    vuint x = counter * 0x9E3779B9u ^ key;
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    x = (x ^ x >> 16) + key;
    x = (x ^ x >> 16) * 0x7FEB352Du;
    return x ^ x >> 15;
}

static void TK_KERNEL(dropout)(const float *x, float *y, int64_t count, uint32_t first_index, uint32_t key,
                               uint32_t threshold, float scale) {
    vuint lanes;
    for (int i = 0; i < TK_WIDTH; i++) lanes[i] = (uint32_t)i;
    const vfloat zero = 0;
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) {
        vuint bits = random_bits(first_index + (uint32_t)i + lanes, key);
        store(y + i, bits >= threshold ? load(x + i) * scale : zero);
    }
    if (i < count) {
        vuint bits = random_bits(first_index + (uint32_t)i + lanes, key);
        for (int lane = 0; i < count; i++, lane++) y[i] = bits[lane] >= threshold ? x[i] * scale : 0;
    }
}
