// Products of 8-bit codes that are made on the way, on AVX-512 with VNNI.
#if defined(__x86_64__)
#include "../table.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((                                                                           \
    target("avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"))), apply_to = function)
#define TK_LEVEL bytes
#define TK_HAS_MASKS
#define TK_WIDTH 16
#include "../kernels/vector.h"
#include "../kernels/bytes.h"
#pragma clang attribute pop
#endif
