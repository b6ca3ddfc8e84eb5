// Vectors of TK_WIDTH floats, on clang's vector extensions: the same source for every instruction set.
// Included once per level inside its target attributes, so everything is static.
#include <stdint.h>
#include <string.h>

typedef float vfloat __attribute__((ext_vector_type(TK_WIDTH)));
typedef int32_t vint __attribute__((ext_vector_type(TK_WIDTH)));
typedef uint32_t vuint __attribute__((ext_vector_type(TK_WIDTH)));

#define TK_INLINE static inline __attribute__((always_inline, unused))

TK_INLINE vfloat load(const float *p) { vfloat v; memcpy(&v, p, sizeof v); return v; }
TK_INLINE void store(float *p, vfloat v) { memcpy(p, &v, sizeof v); }

/// a * b + c, in one rounding where the processor can (a library call for each element would cost more than it gives).
TK_INLINE vfloat fma_(vfloat a, vfloat b, vfloat c) {
#if TK_WIDTH > 4 || defined(__aarch64__)
    return __builtin_elementwise_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/// e^x to about one unit in the last place; 0 below -86.6, infinity above 88.72.
TK_INLINE vfloat vexp(vfloat x) {
    const vfloat shift = 12582912.0f;   // 1.5 * 2^23: adding it rounds to an integer
    vfloat clamped = x < -86.6f ? -86.6f : (x > 89.0f ? 89.0f : x);
    vfloat shifted = fma_(clamped, (vfloat)1.44269504f, shift), n = shifted - shift;
    vfloat r = fma_(n, (vfloat)-0.693359375f, clamped);
    r = fma_(n, (vfloat)2.12194440e-4f, r);
    vfloat p = fma_((vfloat)1.9875691500e-4f, r, (vfloat)1.3981999507e-3f);
    p = fma_(p, r, (vfloat)8.3334519073e-3f);
    p = fma_(p, r, (vfloat)4.1665795894e-2f);
    p = fma_(p, r, (vfloat)1.6666665459e-1f);
    p = fma_(p, r, (vfloat)5.0000001201e-1f);
    p = fma_(p * r, r, r) + 1.0f;
    vint half = (__builtin_astype(shifted, vint) - 0x4b400000 + 126) << 23;   // 2^(n - 1): 2^128 would not fit
    vfloat y = p * __builtin_astype(half, vfloat) * 2.0f;
    return x < -86.6f ? 0.0f : y;
}

TK_INLINE vfloat vtanh(vfloat x) {
    vfloat magnitude = __builtin_elementwise_abs(x), z = x * x;
    vfloat p = fma_((vfloat)-5.70498872745e-3f, z, (vfloat)2.06390887954e-2f);
    p = fma_(p, z, (vfloat)-5.37397155531e-2f);
    p = fma_(p, z, (vfloat)1.33314422036e-1f);
    p = fma_(p, z, (vfloat)-3.33332819422e-1f);
    vfloat near = fma_(p * z, x, x);
    vfloat far = __builtin_elementwise_copysign(1.0f - 2.0f / (vexp(2.0f * magnitude) + 1.0f), x);
    return magnitude < 0.625f ? near : far;
}
