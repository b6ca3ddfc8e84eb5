// Products of 8-bit codes that are made on the way: each row of the left operand and each column of the right one, in each
// k block, is a float scale times integers up to 127. The instruction (VNNI) takes its left operand without signs: codes
// there are 128 more, and sums begin with -128 times what a column's codes add up to. The sums of a k block are exact.
#include "coding.h"

typedef vint group_sums;

enum { GROUP = 4, HAS_SCALES = true, HAS_OFFSETS = true };

static const float greatest_byte = 127;

TK_INLINE vfloat as_floats(group_sums sums) { return __builtin_convertvector(sums, vfloat); }

TK_INLINE vint dot_groups(vint sums, vint a, vint b) {
    return (vint)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
}

/// Codes of `ks` neighbouring numbers without signs, up to a whole vector. Returns their scale.
TK_INLINE float group_row(const bool are_rounded, const void *from, const void *later, int64_t ks, int32_t *groups) {
    typedef uint8_t bytes __attribute__((ext_vector_type(TK_WIDTH)));
    const coding c = coding_of_row(are_rounded, from, later, ks, greatest_byte);
    uint8_t *to = (uint8_t *)groups;
    FOR_VECTORS(k, ks,
        const vuint codes = code(load_number(are_rounded, from, k, lanes), c.inverse);
        const bytes unsigned_codes = __builtin_convertvector(codes ^ 128, bytes);
        memcpy(to + k, &unsigned_codes, sizeof unsigned_codes);)
    return c.scale[0];
}

/// Codes of at most PANEL columns of `ks` rows of the right operand that lie `row` apart: quadruples of rows as lines of
/// whole vectors, zeros beyond the last column and row. The offsets follow the scales.
TK_INLINE void group_columns(const float *from, int64_t row, int64_t columns, int64_t ks, const int parts, int64_t part,
                             int64_t line, int32_t *to, float *scales) {
    (void)parts, (void)part;
    const int64_t vectors = (columns + TK_WIDTH - 1) / TK_WIDTH;
    vfloat inverse[COLUMNS];
    vint sums[COLUMNS];
    coding_of_columns(from, row, columns, ks, greatest_byte, inverse, scales);
    for (int v = 0; v < COLUMNS; v++) sums[v] = 0;
    for (int64_t k = 0; k < ks; k += 4, from += 4 * row, to += line) {
#pragma clang loop unroll(full)
        for (int v = 0; v < COLUMNS; v++) {
            if (v >= vectors) break;
            const int64_t j = v * TK_WIDTH;
            vuint four = 0;
            for (int r = 0; r < 4 && k + r < ks; r++)
                four |= (code(load_up_to(from + r * row + j, columns - j), inverse[v]) & 255) << (8 * r);
            memcpy(to + j, &four, sizeof four);
            sums[v] = dot_groups(sums[v], (vint)0x01010101, (vint)four);
        }
    }
    for (int64_t v = 0; v < vectors; v++) {
        const vint offset = -128 * sums[v];
        memcpy(scales + line + v * TK_WIDTH, &offset, sizeof offset);
    }
}

#include "groups.h"

const struct tk_products TK_KERNEL(tk_products) = {
    TK_KERNEL(product_block_groups), TK_KERNEL(pack_right_groups), TK_KERNEL(packed_groups_size),
};
