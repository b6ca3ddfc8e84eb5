// Max-pooling: all that concerns one pixel stays in registers.

typedef uint8_t vplaces __attribute__((ext_vector_type(TK_WIDTH)));

TK_INLINE vint load_places(const uint8_t *p, int64_t lanes) {
    vplaces bytes = 0;
    if (lanes == TK_WIDTH) memcpy(&bytes, p, sizeof bytes);
    else for (int lane = 0; lane < TK_WIDTH; lane++) if (lane < lanes) bytes[lane] = p[lane];
    return __builtin_convertvector(bytes, vint);
}

TK_INLINE void store_places(uint8_t *p, vint places, int64_t lanes) {
    const vplaces bytes = __builtin_convertvector(places, vplaces);
    if (lanes == TK_WIDTH) memcpy(p, &bytes, sizeof bytes);
    else for (int lane = 0; lane < TK_WIDTH; lane++) if (lane < lanes) p[lane] = bytes[lane];
}

/// The greatest of the taps of a window, and the place of the first that has it.
static void TK_KERNEL(max_of_taps)(const float *const *taps, const uint8_t *tap_places, int count, int64_t channels,
                                   float *y, uint8_t *places) {
    FOR_VECTORS(i, channels,
        vfloat best = -INFINITY;
        vint place = count > 0 ? tap_places[0] : 0;
        for (int t = 0; t < count; t++) {
            const vfloat value = load_lanes(taps[t] + i, lanes);
            const vint is_greater = (value > best) | (value != value);
            best = vselect(is_greater, value, best);
            place = is_greater ? (vint)(int32_t)tap_places[t] : place;
        }
        store_lanes(y + i, best, lanes);
        if (places) store_places(places + i, place, lanes);)
}

/// The sum of the gradients of those windows that chose this pixel, which has another place in each.
static void TK_KERNEL(gradient_of_choosers)(const float *const *gradients, const uint8_t *const *places,
                                            const uint8_t *tap_places, int count, int64_t channels,
                                            float *x_gradient) {
    FOR_VECTORS(i, channels,
        vfloat sum = 0;
        for (int t = 0; t < count; t++) {
            const vint is_chosen = load_places(places[t] + i, lanes) == (int32_t)tap_places[t];
            sum += vselect(is_chosen, load_lanes(gradients[t] + i, lanes), (vfloat)0);
        }
        store_lanes(x_gradient + i, sum, lanes);)
}
