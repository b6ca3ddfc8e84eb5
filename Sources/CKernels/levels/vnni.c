// Products of 8-bit and 16-bit integers on AVX-512 with VNNI, whose instruction for 8 bits takes its left operand without
// signs.
#if defined(__x86_64__)
#include "../int8.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((                                                                           \
    target("avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"))), apply_to = function)
#define TK_LEVEL vnni
#define TK_HAS_MASKS
#define TK_WIDTH 16
#include "../kernels/vector.h"
#include "../kernels/panels.h"

/// The intrinsic becomes two instructions, a product and a sum, of which clang thinks that they are faster.
TK_INLINE vint dot_pairs(vint sums, vint a, vint b) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}

#include "../kernels/int16.h"

typedef vint quads;

TK_INLINE quads left_quads(vint four) { return four; }
TK_INLINE quads right_quads(vint four) { return four; }
TK_INLINE vint dot_quads(vint sums, quads a, quads b) {
    return (vint)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
}

#include "../kernels/int8_vectors.h"
#pragma clang attribute pop
#endif
