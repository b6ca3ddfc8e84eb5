// Products of 16-bit codes: each row of the left operand and each column of the right one, in each k block, is a float
// scale times integers, whose products one instruction multiplies and adds by pairs. After Das et al., "Mixed Precision
// Training of Convolutional Neural Networks using Integer Operations" (2018), where a whole tensor shares one exponent.
//
// The sums of a k block are exact, so that every instruction set finds the same; codes are as large as that allows. A
// level gives the operation: dot_pairs(sums, a, b), which adds the products of both 16-bit halves.
#include "panels.h"

typedef vint pair_sums;

enum {
    HAS_SCALES = true,
    PACKED_STEP = 17,                       // 16 pairs and room for a scale
};

TK_INLINE vfloat as_floats(pair_sums sums) { return __builtin_convertvector(sums, vfloat); }

/// The greatest code c for which ks c^2 fits 32 bits: 2047 for the longest k block, 32767 for the shortest.
TK_INLINE float greatest_code(int64_t ks) {
    const float most = 32767, square = 2147483647.0f / (float)(ks > 0 ? ks : 1);
    const float c = __builtin_elementwise_floor(__builtin_elementwise_sqrt(square) * (1 - 0x1p-22f));
    return c < most ? c : most;
}

/// The absolute values of floats are ordered as integers, with those that are not numbers above infinity.
TK_INLINE vint magnitude(vfloat x) { return vbits(x) & 0x7FFFFFFF; }

/// What a float is multiplied by on its way to a code and back: for values up to `bits`, the greatest magnitude. Tiny
/// values are zero; with an infinity or a NaN among them, the way back is NaN.
typedef struct {
    vfloat inverse, scale;
} coding;

TK_INLINE coding coding_of(vint bits, float most) {
    enum { tiny = 27 << 23, infinity = 255 << 23 };         // 2^-100
    const vfloat greatest = vfrom_bits(bits), scale = greatest / most, none = 0;
    return (coding){
        vselect(bits >= tiny, most / greatest, none),
        vselect(bits >= infinity, vfrom_bits((vint)0x7FC00000), vselect(bits >= tiny, scale, none)),
    };
}

/// The nearest code, ties to even, in the lower 16 bits.
TK_INLINE vuint code(vfloat x, vfloat inverse) {
    const vfloat scaled = x * inverse;
    return (vuint)vbits(scaled + 0x1.8p23f);                // whose last bit is worth one
}

TK_INLINE vint pair_codes(vuint first, vuint second) { return (vint)((first & 0xFFFF) | second << 16); }

/// Codes of `ks` neighbouring floats, with zeros up to a whole vector. Returns their scale. `later` are to be fetched.
TK_INLINE float pair_row(const float *from, const float *later, int64_t ks, int32_t *pairs) {
    vint greatest = 0;
    int64_t k = 0;
    for (; k + TK_WIDTH <= ks; k += TK_WIDTH) {
        __builtin_prefetch(later + k);
        greatest = __builtin_elementwise_max(greatest, magnitude(load(from + k)));
    }
    if (k < ks) greatest = __builtin_elementwise_max(greatest, magnitude(load_first(from + k, ks - k)));
    const coding c = coding_of((vint)__builtin_reduce_max(greatest), greatest_code(ks));
    uint16_t *to = (uint16_t *)pairs;
    for (k = 0; k + TK_WIDTH <= ks; k += TK_WIDTH) {
        const ushorts codes = __builtin_convertvector(code(load(from + k), c.inverse), ushorts);
        memcpy(to + k, &codes, sizeof codes);
    }
    if (k < ks) {
        const ushorts codes = __builtin_convertvector(code(load_first(from + k, ks - k), c.inverse), ushorts);
        memcpy(to + k, &codes, sizeof codes);
    }
    return c.scale[0];
}

/// Codes of at most PANEL columns of `ks` rows that lie `row` apart: pairs of rows as lines of whole vectors, zeros
/// beyond the last column and row. Each vector goes to `parts` places, which lie `part` apart: its neighbours follow.
TK_INLINE void pair_columns(const float *from, int64_t row, int64_t columns, int64_t ks, const int parts, int64_t part,
                            int64_t line, int32_t *to, float *scales) {
    enum { ahead = 12, cache_line = 16 };               // rows lie too far apart for the processor to guess the next
    const int64_t vectors = (columns + TK_WIDTH - 1) / TK_WIDTH;
    vint greatest[COLUMNS];
    vfloat inverse[COLUMNS];
    for (int v = 0; v < COLUMNS; v++) greatest[v] = 0;
    for (int64_t k = 0; k < ks; k++) {
        const float *values = from + k * row;
        if (k + ahead < ks)
            for (int64_t j = 0; j < columns; j += cache_line) __builtin_prefetch(values + ahead * row + j);
#pragma clang loop unroll(full)
        for (int v = 0; v < COLUMNS; v++)
            if (v < vectors)
                greatest[v] = __builtin_elementwise_max(
                    greatest[v], magnitude(load_up_to(values + v * TK_WIDTH, columns - v * TK_WIDTH)));
    }
    for (int64_t v = 0; v < vectors; v++) {
        const coding c = coding_of(greatest[v], greatest_code(ks));
        inverse[v] = c.inverse;
        store(scales + v * TK_WIDTH, c.scale);
    }
    for (int64_t k = 0; k < ks; k += 2, from += 2 * row) {
#pragma clang loop unroll(full)
        for (int v = 0; v < COLUMNS; v++) {
            if (v >= vectors) break;
            const int64_t j = v * TK_WIDTH;
            const vfloat first = load_up_to(from + j, columns - j);
            const vfloat second = k + 1 < ks ? load_up_to(from + row + j, columns - j) : (vfloat)0.0f;
            const vint pairs = pair_codes(code(first, inverse[v]), code(second, inverse[v]));
            for (int p = 0; p < parts; p++)
                memcpy(to + (v * parts + p) * part + k / 2 * line, (const int32_t *)&pairs + p * (TK_WIDTH / parts),
                       sizeof pairs / (size_t)parts);
        }
    }
}

// Codes are made of floats: bfloat16 numbers are widened first.
TK_INLINE bool are_pairs(const tk_operand *a, int64_t first_k, int64_t ks) {
    (void)a, (void)first_k, (void)ks;
    return false;
}

TK_INLINE bool pack_rounded_panel(const tk_operand *b, int64_t j, int64_t columns, int64_t width, int64_t first_k,
                                  int64_t ks, float *out) {
    (void)b, (void)j, (void)columns, (void)width, (void)first_k, (void)ks, (void)out;
    return false;
}

#include "pairs.h"

const struct tk_products TK_KERNEL(tk_products_int16) = {
    TK_KERNEL(product_block_pairs), TK_KERNEL(pack_right_pairs), TK_KERNEL(packed_pairs_size),
};
