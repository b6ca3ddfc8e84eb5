// Multiplies and adds pairs of 16-bit integers where one instruction does not do all of it.
#pragma once

#if defined(TK_HAS_MASKS)
TK_INLINE vint dot_pairs(vint sums, vint a, vint b) {
#if TK_WIDTH == 16
    return sums + (vint)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#else
    return sums + (vint)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#endif
}
#else
TK_INLINE vint dot_pairs(vint sums, vint a, vint b) {
    const vint low = (a << 16 >> 16) * (b << 16 >> 16), high = (a >> 16) * (b >> 16);
    return (vint)((vuint)sums + (vuint)low + (vuint)high);      // wraps, as the instructions do
}
#endif
