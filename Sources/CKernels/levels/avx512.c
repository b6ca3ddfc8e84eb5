// Kernels for avx512.
#if defined(__x86_64__)
#include "../int8.h"
#include "../table.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"))), apply_to = function)
#define TK_LEVEL avx512
#define TK_HAS_MASKS
#define TK_WIDTH 16
#include "../kernels/all.h"
#pragma clang attribute pop
#endif
