// One step of each optimizer.

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
