// Products of pairs of bfloat16 numbers where the processor multiplies those on vectors, but has no tiles.
#include "panels.h"

typedef vfloat group_sums;

enum {
    GROUP = 2, HAS_SCALES = false, HAS_OFFSETS = false,
};

TK_INLINE vfloat as_floats(group_sums sums) { return sums; }

TK_INLINE vfloat dot_groups(vfloat sums, vint a, vint b) {
    return (vfloat)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
}

/// The nearest bfloat16 numbers of both vectors, ties to even: first those of `low`.
TK_INLINE __m512i rounded(vfloat low, vfloat high) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

/// `ks` neighbouring numbers as bfloat16, with zeros up to a whole vector. `later` are to be fetched. There is no scale.
TK_INLINE float group_row(const bool are_rounded, const void *from, const void *later, int64_t ks, int32_t *pairs) {
    int64_t k = 0;
    for (; k + 2 * TK_WIDTH <= ks; k += 2 * TK_WIDTH) {
        __builtin_prefetch((const float *)later + k);
        __builtin_prefetch((const float *)later + k + TK_WIDTH);
        _mm512_storeu_si512(pairs + k / 2, rounded(load_number(are_rounded, from, k, TK_WIDTH),
                                                   load_number(are_rounded, from, k + TK_WIDTH, TK_WIDTH)));
    }
    for (; k < ks; k += TK_WIDTH) {
        const __m512i halves = rounded(load_number(are_rounded, from, k, ks - k), (vfloat)0.0f);
        _mm256_storeu_si256((__m256i *)(pairs + k / 2), _mm512_castsi512_si256(halves));
    }
    return 1;
}

/// Columns of two rows as pairs; where there is no second row, zeros.
TK_INLINE void pair_two_rows(const float *first, const float *second, int64_t columns, const int parts, int64_t part,
                             int32_t *to) {
    const vint lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const __m512i both_halves = (__m512i)(lanes | (lanes + TK_WIDTH) << 16);
#pragma clang loop unroll(full)
    for (int v = 0; v < COLUMNS; v++) {
        const int64_t j = v * TK_WIDTH;
        if (j >= columns) break;
        const vfloat low = load_up_to(first + j, columns - j);
        const vfloat high = second ? load_up_to(second + j, columns - j) : (vfloat)0.0f;
        const __m512i pairs = _mm512_permutexvar_epi16(both_halves, rounded(low, high));
        for (int p = 0; p < parts; p++)
            memcpy(to + (v * parts + p) * part, (const int32_t *)&pairs + p * (TK_WIDTH / parts),
                   sizeof pairs / (size_t)parts);
    }
}

/// At most PANEL columns of `ks` rows that lie `row` apart as bfloat16: pairs of rows as lines of whole vectors, zeros
/// beyond the last column and row. Each vector goes to `parts` places, which lie `part` apart: its neighbours follow.
TK_INLINE void group_columns(const float *from, int64_t row, int64_t columns, int64_t ks, const int parts, int64_t part,
                             int64_t line, int32_t *to, float *scales) {
    (void)scales;
    enum { ahead = 12, cache_line = 16 };   // rows lie too far apart for the processor to guess the next
    for (int64_t k = 0; k < ks; k += 2, from += 2 * row) {
        if (k + ahead + 1 < ks)
            for (int64_t j = 0; j < columns; j += cache_line) {
                __builtin_prefetch(from + ahead * row + j);
                __builtin_prefetch(from + (ahead + 1) * row + j);
            }
        if (k + 1 < ks && columns == PANEL) pair_two_rows(from, from + row, PANEL, parts, part, to + k / 2 * line);
        else pair_two_rows(from, k + 1 < ks ? from + row : NULL, columns, parts, part, to + k / 2 * line);
    }
}

#include "groups.h"

const struct tk_products TK_KERNEL(tk_products) = {
    TK_KERNEL(product_block_groups), TK_KERNEL(pack_right_groups), TK_KERNEL(packed_groups_size),
};
