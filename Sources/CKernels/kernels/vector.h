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
TK_INLINE vfloat fma_(vfloat a, vfloat b, vfloat c) { return __builtin_elementwise_fma(a, b, c); }
