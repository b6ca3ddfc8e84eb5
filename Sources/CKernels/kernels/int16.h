// Products of 16-bit codes: each row of the left operand and each column of the right one, in each k block, is a float
// scale times integers, whose products one instruction multiplies and adds by pairs. After Das et al., "Mixed Precision
// Training of Convolutional Neural Networks using Integer Operations" (2018), where a whole tensor shares one exponent.
//
// The sums of a k block are exact, so that every instruction set finds the same; codes are as large as that allows. A
// level gives the operation: dot_pairs(sums, a, b), which adds the products of both 16-bit halves.
#include "coding.h"

typedef vint group_sums;

enum {
    GROUP = 2, HAS_SCALES = true, HAS_OFFSETS = false,
};

TK_INLINE vfloat as_floats(group_sums sums) { return __builtin_convertvector(sums, vfloat); }

TK_INLINE vint dot_groups(vint sums, vint a, vint b) { return dot_pairs(sums, a, b); }

/// The greatest code c for which ks c^2 fits 32 bits: 2047 for the longest k block, 32767 for the shortest.
TK_INLINE float greatest_code(int64_t ks) {
    const float most = 32767, square = 2147483647.0f / (float)(ks > 0 ? ks : 1);
    const float c = __builtin_elementwise_floor(__builtin_elementwise_sqrt(square) * (1 - 0x1p-22f));
    return c < most ? c : most;
}

TK_INLINE vint pair_codes(vuint first, vuint second) { return (vint)((first & 0xFFFF) | second << 16); }

/// Codes of `ks` neighbouring numbers, with zeros up to a whole vector. Returns their scale. `later` are to be fetched.
TK_INLINE float group_row(const bool are_rounded, const void *from, const void *later, int64_t ks, int32_t *pairs) {
    const coding c = coding_of_row(are_rounded, from, later, ks, greatest_code(ks));
    uint16_t *to = (uint16_t *)pairs;
    FOR_VECTORS(k, ks,
        const ushorts codes = __builtin_convertvector(code(load_number(are_rounded, from, k, lanes), c.inverse), ushorts);
        memcpy(to + k, &codes, sizeof codes);)
    return c.scale[0];
}

/// Codes of at most PANEL columns of `ks` rows that lie `row` apart: pairs of rows as lines of whole vectors, zeros
/// beyond the last column and row. Each vector goes to `parts` places, which lie `part` apart: its neighbours follow.
TK_INLINE void group_columns(const float *from, int64_t row, int64_t columns, int64_t ks, const int parts, int64_t part,
                             int64_t line, int32_t *to, float *scales) {
    const int64_t vectors = (columns + TK_WIDTH - 1) / TK_WIDTH;
    vfloat inverse[COLUMNS];
    coding_of_columns(from, row, columns, ks, greatest_code(ks), inverse, scales);
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

#include "groups.h"

const struct tk_products TK_KERNEL(tk_products_int16) = {
    TK_KERNEL(product_block_groups), TK_KERNEL(pack_right_groups), TK_KERNEL(packed_groups_size),
};
