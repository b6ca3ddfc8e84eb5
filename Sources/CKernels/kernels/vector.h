// Vectors of TK_WIDTH floats, on clang's vector extensions: the same source for every instruction set.
// Included once per level inside its target attributes, so everything is static.
//
// The functions are accurate to a few units in the last place and treat infinities and NaN as the C library does.
// Polynomials are least-maximum fits of the relative error, made for this file.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float vfloat __attribute__((ext_vector_type(TK_WIDTH)));
typedef int32_t vint __attribute__((ext_vector_type(TK_WIDTH)));
typedef uint32_t vuint __attribute__((ext_vector_type(TK_WIDTH)));
typedef double vdouble __attribute__((ext_vector_type(TK_WIDTH)));

/// The name of a kernel at this level.
#define TK_KERNEL(name) TK_JOIN(name, TK_LEVEL)
#define TK_JOIN(a, b) TK_JOIN_(a, b)
#define TK_JOIN_(a, b) a##_##b

#define TK_INLINE static inline __attribute__((always_inline, unused))

TK_INLINE vfloat load(const float *p) { vfloat v; memcpy(&v, p, sizeof v); return v; }
TK_INLINE void store(float *p, vfloat v) { memcpy(p, &v, sizeof v); }

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

/// a * b + c in one expression: fused where the instruction set has it. (The builtin would call the C library for every
/// lane where it has not.)
TK_INLINE vfloat fma_(vfloat a, vfloat b, vfloat c) { return a * b + c; }

// Bitwise selection; comparisons of vectors give all ones or zeros in each lane. A NaN in `a` survives both limits.
TK_INLINE vfloat vselect(vint condition, vfloat a, vfloat b) { return condition ? a : b; }
TK_INLINE vfloat vmax(vfloat a, vfloat limit) { return vselect(limit > a, limit, a); }
TK_INLINE vfloat vmin(vfloat a, vfloat limit) { return vselect(limit < a, limit, a); }
TK_INLINE vfloat vabs(vfloat a) { return __builtin_elementwise_abs(a); }
TK_INLINE vfloat vsqrt(vfloat a) { return __builtin_elementwise_sqrt(a); }
TK_INLINE vfloat vcopysign(vfloat magnitude, vfloat sign) { return __builtin_elementwise_copysign(magnitude, sign); }
TK_INLINE vint vbits(vfloat a) { vint b; memcpy(&b, &a, sizeof b); return b; }
TK_INLINE vfloat vfrom_bits(vint a) { vfloat b; memcpy(&b, &a, sizeof b); return b; }

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

TK_INLINE float vgreatest(vfloat v) {
    float greatest = v[0];
    for (int i = 1; i < TK_WIDTH; i++) greatest = v[i] > greatest || v[i] != v[i] ? v[i] : greatest;
    return greatest;
}

/// exp(x) = 2^n exp(r), with |r| at most half of log 2. Results below the normal range are zero.
TK_INLINE vfloat vexp(vfloat x) {
    const float rounding = 0x1.8p23f;   // adding it leaves the nearest integer in the low bits
    vfloat shifted = fma_(x, (vfloat)0x1.715476p0f, (vfloat)rounding);
    vfloat n = shifted - rounding;
    vfloat r = fma_(n, (vfloat)-0x1.62ep-1f, x);           // the first 12 bits of log 2: n times them is exact
    r = fma_(n, (vfloat)-0x1.0bfbe8p-15f, r);
    vfloat p = 1.381443660392334e-3f;
    p = fma_(p, r, (vfloat)8.368797566771155e-3f);
    p = fma_(p, r, (vfloat)4.1668395763143226e-2f);
    p = fma_(p, r, (vfloat)1.6666519963962856e-1f);
    p = fma_(p, r, (vfloat)4.9999993403390525e-1f);
    p = fma_(p * r, r, r) + 1.0f;
    vfloat y = vfrom_bits(vbits(p) + (vbits(shifted) << 23));
    y = vselect(x < -87.33654f, (vfloat)0.0f, y);
    y = vselect(x > 88.72283f, (vfloat)INFINITY, y);
    return vselect(x != x, x, y);
}

/// log(x) = e log 2 + log(1 + f), with 1 + f between sqrt(1/2) and sqrt(2).
TK_INLINE vfloat vlog(vfloat x) {
    vint is_subnormal = x < 0x1p-126f;
    vfloat scaled = vselect(is_subnormal, x * 0x1p23f, x);
    vint bits = vbits(scaled);
    vint exponent = (bits - 0x3f3504f3) >> 23;              // 0x3f3504f3 is sqrt(1/2)
    vfloat f = vfrom_bits(bits - (exponent << 23)) - 1.0f;
    vfloat e = __builtin_convertvector(exponent - (is_subnormal & 23), vfloat);
    vfloat p = 6.746552441566522e-2f;
    p = fma_(p, f, (vfloat)-1.1675734306393042e-1f);
    p = fma_(p, f, (vfloat)1.1888249766232685e-1f);
    p = fma_(p, f, (vfloat)-1.2405582663321625e-1f);
    p = fma_(p, f, (vfloat)1.4219539600788467e-1f);
    p = fma_(p, f, (vfloat)-1.6667995679455538e-1f);
    p = fma_(p, f, (vfloat)2.0002119286827313e-1f);
    p = fma_(p, f, (vfloat)-2.500000961221525e-1f);
    p = fma_(p, f, (vfloat)3.333331259465645e-1f);
    vfloat square = f * f;
    vfloat tail = fma_(p * f, square, e * 0x1.7f7d1cp-20f); // the low bits of log 2
    vfloat y = fma_((vfloat)-0.5f, square, tail) + f;
    y = fma_(e, (vfloat)0x1.62e4p-1f, y);
    y = vselect(x == INFINITY, x, y);
    y = vselect(x == 0.0f, (vfloat)-INFINITY, y);
    return vselect((x < 0.0f) | (x != x), (vfloat)NAN, y);
}

/// The error function, as x P(x^2) / Q(x^2); beyond 3.92 it is 1 in float32.
TK_INLINE vfloat verf(vfloat x) {
    vfloat z = vmax(vmin(x, (vfloat)3.92f), (vfloat)-3.92f);
    vfloat t = z * z;
    vfloat p = 2.050100763092713e-6f;
    p = fma_(p, t, (vfloat)2.848816492059852e-4f);
    p = fma_(p, t, (vfloat)3.7655594790757803e-3f);
    p = fma_(p, t, (vfloat)5.274854793969309e-2f);
    p = fma_(p, t, (vfloat)1.9040509704878367e-1f);
    p = fma_(p, t, (vfloat)1.1283791461505268f);
    vfloat q = 3.809179823286635e-5f;
    q = fma_(q, t, (vfloat)1.1625219498907363e-3f);
    q = fma_(q, t, (vfloat)1.4969101857291616e-2f);
    q = fma_(q, t, (vfloat)1.1410855078894887e-1f);
    q = fma_(q, t, (vfloat)5.020748649430802e-1f);
    q = fma_(q, t, (vfloat)1.0f);
    return vmax(vmin(z * p / q, (vfloat)1.0f), (vfloat)-1.0f);
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

TK_INLINE vfloat vsigmoid(vfloat x) { return 1.0f / (1.0f + vexp(-x)); }

/// A polynomial near 0, where the other form would cancel.
TK_INLINE vfloat vtanh(vfloat x) {
    vfloat magnitude = vabs(x);
    vfloat far = 1.0f - 2.0f / (vexp(2.0f * magnitude) + 1.0f);
    vfloat t = x * x;
    vfloat p = -5.70495111307749e-3f;
    p = fma_(p, t, (vfloat)2.0639051905285186e-2f);
    p = fma_(p, t, (vfloat)-5.3739702933106e-2f);
    p = fma_(p, t, (vfloat)1.3331442029810758e-1f);
    p = fma_(p, t, (vfloat)-3.333328193443945e-1f);
    vfloat near = fma_(p * t, x, x);
    return vselect(magnitude < 0.625f, near, vcopysign(far, x));
}
