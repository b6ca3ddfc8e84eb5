// The same where the processor also converts to bfloat16.
#if defined(__x86_64__)
#include "../table.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((                                                                           \
    target("avx512bf16,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"))), apply_to = function)
#define TK_LEVEL bytes_bfloat16
#define TK_HAS_MASKS
#define TK_HAS_BFLOAT16
#define TK_WIDTH 16
#include "../kernels/vector.h"
#include "../kernels/bytes.h"
#pragma clang attribute pop
#endif
