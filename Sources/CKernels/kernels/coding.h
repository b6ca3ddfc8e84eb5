// From floats to integer codes and their scales, which are found on the way.
#pragma once
#include "panels.h"

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

/// The nearest code, ties to even, in the lower 16 bits or 8.
TK_INLINE vuint code(vfloat x, vfloat inverse) {
    const vfloat scaled = x * inverse;
    return (vuint)vbits(scaled + 0x1.8p23f);                // whose last bit is worth one
}

/// Of a row of numbers for codes up to `most`. `later` are to be fetched.
TK_INLINE coding coding_of_row(const bool are_rounded, const void *from, const void *later, int64_t ks, float most) {
    vint greatest = 0;
    FOR_VECTORS(k, ks,
        __builtin_prefetch((const char *)later + tk_bytes(are_rounded, k));
        greatest = __builtin_elementwise_max(greatest, magnitude(load_number(are_rounded, from, k, lanes)));)
    return coding_of((vint)__builtin_reduce_max(greatest), most);
}

/// Of at most PANEL columns of `ks` rows of floats that lie `row` apart, whose scales are kept.
TK_INLINE void coding_of_columns(const float *from, int64_t row, int64_t columns, int64_t ks, float most,
                                 vfloat inverse[COLUMNS], float *scales) {
    enum { ahead = 12, cache_line = 16 };               // rows lie too far apart for the processor to guess the next
    const int64_t vectors = (columns + TK_WIDTH - 1) / TK_WIDTH;
    vint greatest[COLUMNS];
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
        const coding c = coding_of(greatest[v], most);
        inverse[v] = c.inverse;
        store(scales + v * TK_WIDTH, c.scale);
    }
}
