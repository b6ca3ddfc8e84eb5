// Vectors of TK_WIDTH floats, on clang's vector extensions: the same source for every instruction set.
// Included once per level inside its target attributes, so everything is static.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float vfloat __attribute__((ext_vector_type(TK_WIDTH)));
typedef int32_t vint __attribute__((ext_vector_type(TK_WIDTH)));
typedef uint32_t vuint __attribute__((ext_vector_type(TK_WIDTH)));
typedef uint16_t ushorts __attribute__((ext_vector_type(TK_WIDTH)));
typedef double vdouble __attribute__((ext_vector_type(TK_WIDTH)));
/// Some vectors. Functions are long chains of operations, each of which waits for the one before it: those of several
/// vectors, one operation after the other, fill the gaps. How many: what fits into the registers.
enum { TK_TOGETHER = TK_WIDTH == 16 ? 4 : 2, TOGETHER = TK_TOGETHER * TK_WIDTH };
// Functions of these are always inlined, so that it does not matter how a call would pass them.
#pragma clang diagnostic ignored "-Wpsabi"
typedef float vfloats __attribute__((ext_vector_type(TK_TOGETHER * TK_WIDTH)));
typedef int32_t vints __attribute__((ext_vector_type(TK_TOGETHER * TK_WIDTH)));
typedef struct { vfloat part[TK_TOGETHER]; } vparts;

/// The name of a kernel at this level.
#define TK_KERNEL(name) TK_JOIN(name, TK_LEVEL)
#define TK_JOIN(a, b) TK_JOIN_(a, b)
#define TK_JOIN_(a, b) a##_##b

#define TK_INLINE static inline __attribute__((always_inline, unused))
/// A kernel that not every level has in its table.
#define TK_UNUSED __attribute__((unused)) static
/// For one vector and for TK_TOGETHER.
#define TK_OVERLOADED static inline __attribute__((always_inline, unused, overloadable))

TK_INLINE vfloat load(const float *p) { vfloat v; memcpy(&v, p, sizeof v); return v; }
TK_INLINE void store(float *p, vfloat v) { memcpy(p, &v, sizeof v); }
TK_INLINE vfloats load_together(const float *p) { vfloats v; memcpy(&v, p, sizeof v); return v; }
TK_INLINE void store_together(float *p, vfloats v) { memcpy(p, &v, sizeof v); }
TK_INLINE vfloats vjoined(vparts p) { vfloats v; memcpy(&v, &p, sizeof v); return v; }
TK_INLINE vparts vparts_of(vfloats v) { vparts p; memcpy(&p, &v, sizeof p); return p; }

// The last elements of a row: fewer than TK_WIDTH, the other lanes are zero and are not stored.
#if defined(TK_HAS_MASKS) && TK_WIDTH == 16
TK_INLINE vfloat load_first(const float *p, int64_t count) { return _mm512_maskz_loadu_ps((1u << count) - 1, p); }
TK_INLINE void store_first(float *p, vfloat v, int64_t count) { _mm512_mask_storeu_ps(p, (1u << count) - 1, v); }
#elif defined(TK_HAS_MASKS) && TK_WIDTH == 8
TK_INLINE __m256i first_lanes(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
TK_INLINE vfloat load_first(const float *p, int64_t count) { return _mm256_maskload_ps(p, first_lanes(count)); }
TK_INLINE void store_first(float *p, vfloat v, int64_t count) { _mm256_maskstore_ps(p, first_lanes(count), v); }
#else
TK_INLINE vfloat load_first(const float *p, int64_t count) {
    vfloat v = 0;
    for (int i = 0; i < TK_WIDTH; i++) if (i < count) v[i] = p[i];
    return v;
}
TK_INLINE void store_first(float *p, vfloat v, int64_t count) {
    for (int i = 0; i < TK_WIDTH; i++) if (i < count) p[i] = v[i];
}
#endif

TK_INLINE vfloat load_up_to(const float *p, int64_t count) {
    return count >= TK_WIDTH ? load(p) : load_first(p, count);
}
TK_INLINE void store_up_to(float *p, vfloat v, int64_t count) {
    if (count >= TK_WIDTH) store(p, v); else store_first(p, v, count);
}

#if defined(TK_HAS_MASKS) && TK_WIDTH == 16
/// 1 / x with errors of 2^-14.
TK_OVERLOADED vfloat vreciprocal_estimate(vfloat x) { return (vfloat)_mm512_rcp14_ps((__m512)x); }
TK_OVERLOADED vfloats vreciprocal_estimate(vfloats x) {
    vparts p = vparts_of(x);
    for (int i = 0; i < TK_TOGETHER; i++) p.part[i] = vreciprocal_estimate(p.part[i]);
    return vjoined(p);
}
#endif

#define floats vfloat
#define ints vint
#include "functions.h"
#include "activation.h"
#undef floats
#undef ints
#define floats vfloats
#define ints vints
#include "functions.h"
#include "activation.h"
#undef floats
#undef ints

/// To the nearest bfloat16, ties to even, kept as float32. A NaN stays a NaN.
TK_INLINE vfloat round_to_bfloat16(vfloat x) {
    const vuint bits = (vuint)vbits(x);
    const vuint rounded = bits + 0x7FFF + (bits >> 16 & 1), quiet = bits | 0x400000;
    return vfrom_bits((vint)(((x != x) ? quiet : rounded) & 0xFFFF0000));
}

/// The same as numbers of 16 bits. The processor's instruction takes subnormal numbers for zeros, as its products do.
TK_INLINE ushorts halves_of(vfloat v) {
#ifdef TK_HAS_BFLOAT16
    return (ushorts)_mm512_cvtneps_pbh((__m512)v);
#else
    return __builtin_convertvector((vuint)vbits(round_to_bfloat16(v)) >> 16, ushorts);
#endif
}

TK_INLINE vfloat floats_of(ushorts halves) {
    return vfrom_bits((vint)(__builtin_convertvector(halves, vuint) << 16));
}

TK_INLINE vfloat load_rounded(const uint16_t *p) {
    ushorts halves;
    memcpy(&halves, p, sizeof halves);
    return floats_of(halves);
}

/// Fewer than all, then zeros.
TK_INLINE ushorts load_halves_up_to(const uint16_t *p, int64_t count) {
    ushorts halves = 0;
    if (count >= TK_WIDTH) memcpy(&halves, p, sizeof halves);
#if defined(TK_HAS_MASKS) && TK_WIDTH == 16
    else halves = (ushorts)_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), p);
#else
    else for (int64_t i = 0; i < count; i++) halves[i] = p[i];
#endif
    return halves;
}

TK_INLINE float widened(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/// The first `count` lanes as bfloat16.
TK_INLINE void store_rounded_up_to(uint16_t *p, vfloat v, int64_t count) {
    const ushorts halves = halves_of(v);
    if (count >= TK_WIDTH) memcpy(p, &halves, sizeof halves);
    else for (int64_t i = 0; i < count; i++) p[i] = halves[i];
}

/// Ranges to bfloat16 and back.
TK_INLINE void halve(const float *from, uint16_t *to, int64_t count) {
    for (int64_t i = 0; i < count; i += TK_WIDTH)
        store_rounded_up_to(to + i, load_up_to(from + i, count - i), count - i);
}

TK_INLINE void widen(const uint16_t *from, float *to, int64_t count) {
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) store(to + i, load_rounded(from + i));
    for (; i < count; i++) to[i] = widened(from[i]);
}

/// Sum of the lanes, in the order of a binary tree.
TK_INLINE float vsum(vfloat v) {
#if TK_WIDTH == 16
    __typeof__(v.lo) eight = v.lo + v.hi;
    __typeof__(v.lo.lo) four = eight.lo + eight.hi;
#elif TK_WIDTH == 8
    __typeof__(v.lo) four = v.lo + v.hi;
#else
    vfloat four = v;
#endif
    return (four.x + four.z) + (four.y + four.w);
}

/// The greatest lane; not a number if any is not.
TK_INLINE float vgreatest(vfloat v) {
#define TK_GREATER(a, b) ((((a) > (b)) | ((a) != (a))) ? (a) : (b))
#if TK_WIDTH == 16
    const __typeof__(v.lo) eight = TK_GREATER(v.lo, v.hi);
    const __typeof__(v.lo.lo) four = TK_GREATER(eight.lo, eight.hi);
#elif TK_WIDTH == 8
    const __typeof__(v.lo) four = TK_GREATER(v.lo, v.hi);
#else
    const vfloat four = v;
#endif
    const __typeof__(four.lo) two = TK_GREATER(four.lo, four.hi);
    return TK_GREATER(two.x, two.y);
#undef TK_GREATER
}

/// True in the lanes before `count`.
TK_INLINE vint lanes_before(int64_t count) {
    static const int32_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vint lanes;
    memcpy(&lanes, numbers, sizeof lanes);
    return lanes < (int32_t)count;
}

TK_INLINE vfloat lane_mask(int64_t lanes, vfloat v) { return vselect(lanes_before(lanes), v, (vfloat)0.0f); }

/// For each vector of a range, with its lanes: all of them but in the last.
#define FOR_VECTORS(i, count, ...) \
    { int64_t i = 0; for (; i + TK_WIDTH <= (count); i += TK_WIDTH) { const int64_t lanes = TK_WIDTH; __VA_ARGS__ } \
      if (i < (count)) { const int64_t lanes = (count) - i; __VA_ARGS__ } }

TK_INLINE vfloat load_lanes(const float *p, int64_t lanes) {
    return lanes == TK_WIDTH ? load(p) : load_first(p, lanes);
}
TK_INLINE void store_lanes(float *p, vfloat v, int64_t lanes) {
    if (lanes == TK_WIDTH) store(p, v);
    else store_first(p, v, lanes);
}

/// Of floats or bfloat16 numbers, from the i-th on.
TK_INLINE vfloat load_number(const bool is_rounded, const void *from, int64_t i, int64_t lanes) {
    if (is_rounded) return floats_of(load_halves_up_to((const uint16_t *)from + i, lanes));
    return load_up_to((const float *)from + i, lanes);
}

/// sin(x + quarters * pi / 2) for |x| up to 2^13. x is some quarters of the circle and a rest r of at most an eighth, whose
/// sine or cosine follows from its series.
TK_INLINE vfloat vsine(vfloat x, int quarters) {
    const float rounding = 0x1.8p23f;
    vfloat shifted = fma_(x, (vfloat)0x1.45f306p-1f, (vfloat)rounding);
    vfloat n = shifted - rounding;
    vfloat r = fma_(n, (vfloat)-0x1.92p0f, x);              // parts of pi / 2 that n times them is exact for
    r = fma_(n, (vfloat)-0x1.fb4p-12f, r);
    r = fma_(n, (vfloat)-0x1.4442d2p-24f, r);
    vint quarter = vbits(shifted) + quarters;
    vfloat t = r * r;
    vfloat p = 1.0f / 362880;
    p = fma_(p, t, (vfloat)(-1.0f / 5040));
    p = fma_(p, t, (vfloat)(1.0f / 120));
    p = fma_(p, t, (vfloat)(-1.0f / 6));
    vfloat sine = fma_(p * t, r, r);
    vfloat q = 1.0f / 40320;
    q = fma_(q, t, (vfloat)(-1.0f / 720));
    q = fma_(q, t, (vfloat)(1.0f / 24));
    vfloat cosine = fma_(q * t, t, fma_((vfloat)-0.5f, t, (vfloat)1.0f));
    vfloat y = vselect((quarter & 1) != 0, cosine, sine);
    return vfrom_bits(vbits(y) ^ (quarter << 30 & (int)0x80000000));
}

/// Runs the statement with `kind` replaced by each constant in turn, so that the compiler specialises its loop.
#define TK_FOR_ACTIVATION(kind, statement)                                                                             \
    switch (kind) {                                                                                                    \
        TK_CASE(TK_IDENTITY, statement) TK_CASE(TK_RELU, statement) TK_CASE(TK_GELU, statement)                        \
        TK_CASE(TK_GELU_TANH, statement) TK_CASE(TK_QUICK_GELU, statement) TK_CASE(TK_SILU, statement)                 \
        TK_CASE(TK_SIGMOID, statement) TK_CASE(TK_TANH, statement) TK_CASE(TK_HARD_SWISH, statement)                   \
        TK_CASE(TK_HARD_SIGMOID, statement) TK_CASE(TK_RELU6, statement)                                               \
    }
#define TK_CASE(constant, statement) case constant: { const tk_activation activation = constant; statement; break; }
