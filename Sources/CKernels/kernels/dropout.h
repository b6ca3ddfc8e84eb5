// The random masks of dropout, of floats or of bfloat16 numbers.

/// 32 well-mixed bits for each counter value and key: two rounds of a multiply-xorshift hash.
TK_INLINE vuint random_bits(vuint counter, uint32_t key) {
    vuint x = counter * 0x9E3779B9u ^ key;
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    x = (x ^ x >> 16) + key;
    x = (x ^ x >> 16) * 0x7FEB352Du;
    return x ^ x >> 15;
}

/// y = scale x, or 0 where the bits of an index are below the threshold.
TK_INLINE void mask_numbers(const bool are_rounded, const void *x, void *y, int64_t count, uint32_t first_index,
                            uint32_t key, uint32_t threshold, float scale) {
    vuint numbers;
    for (int i = 0; i < TK_WIDTH; i++) numbers[i] = first_index + (uint32_t)i;
    const vfloat zero = 0;
    FOR_VECTORS(i, count,
        const vuint bits = random_bits((uint32_t)i + numbers, key);
        const vfloat v = bits >= threshold ? load_number(are_rounded, x, i, lanes) * scale : zero;
        if (are_rounded) store_rounded_up_to((uint16_t *)y + i, v, lanes);
        else store_lanes((float *)y + i, v, lanes);)
}

static void TK_KERNEL(dropout)(const void *x, void *y, bool are_rounded, int64_t count, uint32_t first_index,
                               uint32_t key, uint32_t threshold, float scale) {
    if (are_rounded) mask_numbers(true, x, y, count, first_index, key, threshold, scale);
    else mask_numbers(false, x, y, count, first_index, key, threshold, scale);
}

static void TK_KERNEL(masked)(void *row, bool is_rounded, int64_t count, float rate, float scale, uint64_t seed) {
    TK_KERNEL(dropout)(row, row, is_rounded, count, 0, (uint32_t)(seed ^ seed >> 32),
                       (uint32_t)((double)rate * 4294967296.0), scale);
}
